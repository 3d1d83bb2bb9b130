"""The data dictionary of the schema `audit`, as the catalogue tells it: docs/audit.md."""

import asyncio
from pathlib import Path

import asyncpg

from manager.embedded import start
from manager.repository import migrations

PAGE = Path(__file__).resolve().parent.parent / "docs" / "audit.md"

HEAD = """\
# The record in SQL

The schema `audit` is for people: names instead of numbers, and every view and column says what it is (`\\d+ instances`
in psql). Names, types and meanings stay as they are within a major release; columns may be added behind the last one.
[The cookbook](cookbook.md) has questions and the queries that answer them.

It is read as the role `im_auditor`, which may read these views, call these functions, and nothing else. Five may be
connected at once. A question is cut off after 30 seconds, uses one core, and sorts in 1 GB of disk at most; the first
two are defaults, which a session may lift. What a manager needs, it cannot hold: neither tables nor, where a superuser
has migrated, the lock of changes (`imctl doctor` says so otherwise). A role of your own is a better choice than more of
that one: `create role somebody login in role im_auditor`, with a timeout of its own.

What follows is made from the catalogue by `make dictionary`.
"""

VIEWS = """
select c.relname as name, a.attname as field,
       coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type')) as meaning,
       format_type(a.atttypid, a.atttypmod) as type, col_description(c.oid, a.attnum) as words
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'audit'::regnamespace and c.relkind = any($1)
order by c.relname, a.attnum
"""

FUNCTIONS = """
select p.proname as name, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
       obj_description(p.oid, 'pg_proc') as meaning
from pg_proc p
where p.pronamespace = 'audit'::regnamespace and has_function_privilege('im_auditor', p.oid, 'execute')
order by p.proname, arguments
"""


async def page(url: str) -> str:
    """The whole page. The database at the address is migrated."""
    connection = await asyncpg.connect(url)
    try:
        views = _tables(await connection.fetch(VIEWS, [b"v"]), "view")
        functions = _functions(await connection.fetch(FUNCTIONS))
        types = _tables(await connection.fetch(VIEWS, [b"c"]), "row")
    finally:
        await connection.close()
    return "\n".join(
        [HEAD, "## Views", *views, "", "## Functions", "", *functions, "", "## What they give", *types, ""]
    )


def _tables(rows: list[asyncpg.Record], kind: str) -> list[str]:
    lines: list[str] = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before is None or before["name"] != row["name"]:
            lines += ["", f"### {row['name']}", "", row["meaning"], "", "| column | type | is |", "|---|---|---|"]
        lines.append(f"| `{row['field']}` | {row['type']} | {row['words']} |")
    return lines


def _functions(rows: list[asyncpg.Record]) -> list[str]:
    lines = ["| function | gives | |", "|---|---|---|"]
    for row in rows:
        gives = row["result"].replace("audit.", "")
        lines.append(f"| `{row['name']}({row['arguments']})` | {gives} | {row['meaning']} |")
    return lines


async def _made(url: str) -> str:
    await migrations.upgrade(url)
    return await page(url)


if __name__ == "__main__":
    with start(ephemeral=True, durable=False) as postgres:
        made = asyncio.run(_made(postgres.url()))
    PAGE.write_text(made)
