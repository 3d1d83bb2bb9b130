"""What the role that a manager logs in as may do beyond its work, and whether the way to the database is verified."""

import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.repository.hosts import hosts_of

# Of the session's own role, and of all that it may become, inherited or not: what it has set itself to it may unset.
LOOK = text("""
with mine as (
    select r.* from pg_roles r where pg_has_role(session_user, r.oid, 'member')
), tables as (
    select c.oid, c.relowner, c.relname from pg_class c
    where c.relnamespace in (to_regnamespace('public'), to_regnamespace('audit')) and c.relkind in ('r', 'p', 'v')
)
select session_user as role, s.place, s.may
from (
    select 1, case when bool_or(m.rolname = session_user) then 'is a superuser' else 'may become a superuser' end
    from mine m where m.rolsuper having count(*) > 0
    union all
    select 2, 'owns tables' where exists (select from tables t join mine m on m.oid = t.relowner)
    union all
    select 3, 'may change the schema'
    where exists (
        select from mine m
        where m.rolcreaterole or m.rolcreatedb or has_database_privilege(m.oid, current_database(), 'create')
           or exists (select from pg_namespace n where n.nspname in ('public', 'audit')
                      and has_schema_privilege(m.oid, n.oid, 'create')))
    union all
    select 4, 'may change the past'
    where exists (
        select from mine m join tables t
            on t.relname in ('event', 'instance_version', 'history_epoch', 'epitaph', 'trail', 'trail_seal')
        where has_table_privilege(m.oid, t.oid, 'update, delete, truncate, trigger')
           or has_any_column_privilege(m.oid, t.oid, 'update'))
    union all
    select 5, 'may shorten what is kept' where exists (select from mine where rolname = 'im_retention')
    union all
    select 6, 'may replicate, and so read every file' where exists (select from mine where rolreplication)
    union all
    select 7, 'is above row-level security' where exists (select from mine where rolbypassrls)
    union all
    select 8, 'is in ' || string_agg(m.rolname, ', ' order by m.rolname)
    from mine m
    where m.rolname in ('pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files',
                        'pg_execute_server_program', 'pg_maintain', 'pg_create_subscription')
    having count(*) > 0
) s (place, may) order by s.place
""")
SUPERUSER = 1


async def beyond(connection: AsyncConnection) -> Sequence[str]:
    """A sentence for whatever a manager on this connection would be trusted with and has no need of."""
    found = (await connection.execute(LOOK)).all()
    if found and found[0].place == SUPERUSER:
        found = found[:1]  # it may do all the rest
    return [f"the database's role {each.role} {each.may}: serve as im_server" for each in found]


def unverified(url: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The hosts of a database that are reached over a network without its being known that it is they."""
    mode = dict(parse_qsl(urlsplit(url).query)).get("sslmode") or environment.get("PGSSLMODE", "")
    if mode == "verify-full":
        return []
    named = [(str(each), each.name) for each in hosts_of(url) if each.name]
    # where the address names none, the environment does
    named = named or [(each, each) for each in environment.get("PGHOST", "").split(",") if each]
    return [shown for shown, name in named if not _here(name)]


def _here(host: str) -> bool:
    """Whether it is this machine: a folder of sockets, or an address of the loopback."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
