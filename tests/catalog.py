"""What a database holds, as its catalog tells it: for comparing two, by value and with names for what differs."""

import re
from typing import Any

import asyncpg

# Each gives (kind, name, definition). Partitions come and go, and are known by the day in their names.
QUERIES = {
    "relation": """
select 'relation', c.relname,
       concat_ws(' ', c.relkind, c.relpersistence, pg_get_userbyid(c.relowner), c.reloptions::text,
                 pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid), c.relacl::text)
from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind <> 'i'""",
    "column": """
select 'column', c.relname || '.' || a.attname,
       concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
                 a.attstorage, a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid), a.attacl::text)
from pg_attribute a join pg_class c on c.oid = a.attrelid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and a.attnum > 0
  and not a.attisdropped""",
    "constraint": """
select 'constraint', c.conrelid::regclass || '.' || c.conname,
       concat_ws(' ', c.contype, c.convalidated, pg_get_constraintdef(c.oid))
from pg_constraint c where c.connamespace = 'public'::regnamespace and c.contype <> 'n'""",
    "index": """
select 'index', c.relname, concat_ws(' ', i.indisvalid, c.reloptions::text, pg_get_indexdef(i.indexrelid))
from pg_index i join pg_class c on c.oid = i.indexrelid where c.relnamespace = 'public'::regnamespace""",
    "view": """
select 'view', viewname, concat_ws(' ', viewowner, definition) from pg_views where schemaname = 'public'""",
    "function": """
select 'function', p.oid::regprocedure::text,
       concat_ws(' ', pg_get_userbyid(p.proowner), p.proacl::text, pg_get_functiondef(p.oid))
from pg_proc p where p.pronamespace = 'public'::regnamespace""",
    "trigger": """
select 'trigger', t.tgrelid::regclass || '.' || t.tgname, pg_get_triggerdef(t.oid) from pg_trigger t
where not t.tgisinternal""",
    "type": """
select 'type', t.typname, t.typtype::text from pg_type t
where t.typnamespace = 'public'::regnamespace and t.typrelid = 0 and t.typelem = 0""",
    "schema": "select 'schema', nspname, nspacl::text from pg_namespace where nspname !~ '^pg_(toast|temp)'",
    "extension": "select 'extension', extname, extversion from pg_extension",
    "default": "select 'default', defaclobjtype::text, defaclacl::text from pg_default_acl",
}

DAY = re.compile(r"_\d{8}\b|_\d{8}(?=_)|\d{4}-\d\d-\d\d")


async def catalog(url: str, *kinds: str) -> set[tuple[Any, ...]]:
    """What is in the database, of these kinds or of all."""
    connection = await asyncpg.connect(url)
    await connection.execute("set timezone = 'UTC'")
    rows = [row for kind in kinds or QUERIES for row in await connection.fetch(QUERIES[kind])]
    await connection.close()
    return {tuple(each if each is None else DAY.sub("_day", each) for each in row) for row in rows}
