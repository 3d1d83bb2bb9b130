"""Steps of a migration that may take long, since whoever reads and writes goes on meanwhile.

They come first in a migration: each is in transactions of its own, so that what came before it is committed by it. And
each can be repeated, since a migration that ends half-way begins anew.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import op
from sqlalchemy import text

from manager.repository.migrating import SESSION

VALID = text("select indisvalid from pg_index where indexrelid = to_regclass(:name)")
PARTITIONS = text("""
select c.relname from pg_inherits h join pg_class c on c.oid = h.inhrelid where h.inhparent = to_regclass(:table)
order by c.relname
""")


def create_index(name: str, on: str) -> None:
    """An index of a table; `on` is what stands behind that word."""
    with _apart():
        if not _is_valid(name):
            # what an earlier attempt has left behind
            op.execute(f"drop index concurrently if exists {name}")
            op.execute(f"create index concurrently if not exists {name} on {on}")


def create_partitioned_index(name: str, table: str, how: str) -> None:
    """An index of a partitioned table, built in one partition after the other; `how` is what stands behind its name."""
    if op.get_context().as_sql:
        # only the database knows the partitions
        op.execute(f"-- squawk-ignore require-concurrent-index-creation\ncreate index {name} on {table} {how}")
        return
    apart = op.get_context().autocommit_block
    with apart():
        op.execute(f"create index if not exists {name} on only {table} {how}")
        partitions = op.get_bind().execute(PARTITIONS, {"table": table}).scalars().all()
    for partition in partitions:
        part = f"{partition}_{name.removeprefix(f'{table}_')}_idx"
        create_index(part, f"{partition} {how}")
        with apart():
            op.execute(f"alter index {name} attach partition {part}")


def in_steps(statement: str) -> None:
    """Runs a statement, each time in a transaction of its own, until it finds nothing more to change.

    It bounds itself, by a `limit` on what it looks for.
    """
    with _apart():
        if op.get_context().as_sql:
            op.execute(f"-- to be repeated until it changes nothing\n{statement}")
        else:
            while op.get_bind().execute(text(statement)).rowcount:
                pass


@contextmanager
def _apart() -> Iterator[None]:
    """Out of the migration's transaction; it waits for who is in a transaction, with nobody waiting behind it."""
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = '10min'")
        op.execute("set statement_timeout = 0")
        yield
        op.execute(f"set lock_timeout = {SESSION['lock_timeout']}")
        op.execute(f"set statement_timeout = {SESSION['statement_timeout']}")


def _is_valid(name: str) -> bool:
    return not op.get_context().as_sql and bool(op.get_bind().execute(VALID, {"name": name}).scalar())
