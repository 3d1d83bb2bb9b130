"""The connection that migrates: the owner's, one runner at a time, and never long in anybody's way."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from manager.domain.instance import MANAGER_LABEL
from manager.domain.refusals import Refusal
from manager.repository import roles
from manager.repository.database import engine_of, sqlstate

# Milliseconds. What waits for a lock on a table has everybody else wait behind it: so it gives up soon, and comes again
# later. And what takes long belongs where it holds no such lock: see concurrently.py.
SESSION = {
    "lock_timeout": "500",
    "statement_timeout": "30000",
    "idle_in_transaction_session_timeout": "60000",
    "enable_seqscan": "on",
    "plan_cache_mode": "auto",
}
# no lock, a deadlock, a snapshot that is too old
PASSING = {"55P03", "40P01", "40001"}


class Obstructed(Refusal):
    """Somebody is in the way of a migration. It has changed nothing, and may be run again."""


class SchemaInUse(Refusal):
    """Managers live that could not serve what the schema would be."""


def engine(url: str) -> AsyncEngine:
    """One connection, for `begin`."""
    return engine_of(url, name="migrate", connections=1, **SESSION)


# Tried, and not waited for: who waits has a snapshot, which an index that is built concurrently would wait for.
CLAIM = text("select pg_try_advisory_lock(4711, 2)")
RUNNER = text("""
select l.pid from pg_locks l join pg_database d on d.oid = l.database
where l.locktype = 'advisory' and l.classid = 4711 and l.objid = 2 and l.granted and d.datname = current_database()
""")


def begin(connection: Connection) -> None:
    """Becomes the one runner, and the owner. It stays so for as long as the connection lives.

    Its transactions are what they are everywhere, all or nothing: other connections have each statement by itself.
    """
    connection.execution_options(isolation_level="READ COMMITTED")
    if not connection.execute(CLAIM).scalar_one():
        pid = connection.execute(RUNNER).scalar()
        raise Obstructed(f"another `imctl migrate` runs on this database (process {pid or 'unknown'} of PostgreSQL's)")
    with unobstructed(connection):
        for statement in roles.SET:
            connection.exec_driver_sql(statement)
        connection.commit()
    event.listen(connection, "begin", _between_turns)


def _between_turns(connection: Connection) -> None:
    """First of all in each transaction: a turn that has one table, and waits for another, would be met half-way."""
    cursor = connection.connection.cursor()
    cursor.execute("select pg_advisory_xact_lock(4711, 1)")
    cursor.close()


@contextmanager
def unobstructed(connection: Connection) -> Iterator[None]:
    """Raises Obstructed, with who was in the way, for what would only have had to wait longer."""
    try:
        yield
    except Exception as error:
        if sqlstate(error) not in PASSING:
            raise
        connection.rollback()
        raise Obstructed(f"the migration cannot have its locks: {_in_the_way(connection)}") from error


LONG = text("""
select a.pid, coalesce(a.usename, 'nobody') as role, coalesce(nullif(a.application_name, ''), a.backend_type) as name,
       round(extract(epoch from clock_timestamp() - a.xact_start)) as seconds
from pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid()
  and a.xact_start < clock_timestamp() - interval '400 ms'
order by a.xact_start limit 3
""")


def _in_the_way(connection: Connection) -> str:
    """Who has been in a transaction for so long that it may be they. The owner would not be told of others'."""
    connection.exec_driver_sql("reset role")
    found = connection.execute(LONG).all()
    connection.rollback()
    said = [f"{each.name} of {each.role} (process {each.pid}), in a transaction for {each.seconds} s" for each in found]
    return "; ".join(said) or "whoever held them is gone by now"


# Heard of within their timeout: who was killed with all others is never found dead by anybody.
MANAGERS = text("""
select i.hostname, i.labels ->> cast(:label as text) as release
from instance i join heartbeat h on h.instance_id = i.id
where i.type = 4 and i.died_revision is null and i.labels ->> cast(:label as text) is not null
  and h.last_seen + h.timeout > clock_timestamp()
order by i.hostname
""")
PRESENT = text("select to_regclass('instance') is not null and to_regclass('heartbeat') is not null")
SERVES = text("select serves_from from control")


def numbers(release: str) -> tuple[int, ...]:
    """A release, so that releases can be compared."""
    return tuple(int(each) for each in release.split(".")[:3])


def heed_older(ctx: Any, **_: Any) -> None:
    """Raises SchemaInUse where managers live that the schema, as it has just become, does not serve any more.

    Called in the migration's transaction, which is undone by it.
    """
    if ctx.as_sql:
        return
    serves = ctx.connection.execute(SERVES).scalar() if _has_fleet(ctx.connection) else None
    if serves and (left := [each for each in _managers(ctx.connection) if numbers(each[1]) < numbers(serves)]):
        raise SchemaInUse(
            f"the schema would serve releases from {serves} on; upgrade first what is older. {_named(left)}"
        )


def heed_newer(connection: Connection, release: str) -> None:
    """Raises SchemaInUse where managers of a release, or of a later one, live: they need the schema as it is."""
    found = _managers(connection) if _has_fleet(connection) else ()
    connection.rollback()
    if left := [each for each in found if numbers(each[1]) >= numbers(release)]:
        raise SchemaInUse(
            f"an older schema does not serve {release}; put the release before it in its place first. {_named(left)}"
        )


def _has_fleet(connection: Connection) -> bool:
    return bool(connection.execute(PRESENT).scalar_one())


def _managers(connection: Connection) -> Sequence[Any]:
    return connection.execute(MANAGERS, {"label": MANAGER_LABEL}).all()


def _named(managers: Sequence[Any]) -> str:
    said = ", ".join(f"{release} on {host or 'an unknown host'}" for host, release in managers[:5])
    return f"Still running: {said}{f' and {len(managers) - 5} more' if len(managers) > 5 else ''}"
