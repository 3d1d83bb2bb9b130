"""What an operator would look at first: asked of the database by whoever may not be its superuser."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex
from time import monotonic

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.repository.database import connect
from manager.repository.doorbell import CHANNEL, ECHO_WITHIN

LOOK = text("""
select current_setting('server_version') as version,
       pg_is_in_recovery() as standby,
       clock_timestamp() as now,
       pg_database_size(current_database()) as size,
       (select count(*) from pg_stat_activity where datid is not null) as connections,
       cast(current_setting('max_connections') as integer) as most,
       (select count(*) from pg_stat_activity where datid is not null and query = '<insufficient privilege>') as hidden
""")

# whoever holds a snapshot keeps what died since from being swept
OLDEST = text("""
with held as (
    select a.application_name as who, a.pid, a.xact_start as since
    from pg_stat_activity a
    where a.backend_xmin is not null and a.xact_start is not null and a.pid <> pg_backend_pid()
    union all
    select 'prepared transaction ' || p.gid, null, p.prepared from pg_prepared_xacts p
)
select who, pid, clock_timestamp() - since as age from held order by since limit 1
""")

# A position is that of a segment in the log. What was archived last may be a timeline's history, which has none.
ARCHIVER = text("""
with s as (
    select pg_size_bytes(current_setting('wal_segment_size')) as size, a.last_archived_time, a.last_failed_time,
           case when a.last_archived_wal ~ '^[0-9A-F]{24}' then a.last_archived_wal end as last,
           case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_lsn()) end as present
    from pg_stat_archiver a
    where current_setting('archive_mode') <> 'off'
), p as (
    select s.*, cast(cast('x' || substr(present, 9, 8) as bit(32)) as bigint) * (4294967296 / size)
              + cast(cast('x' || substr(present, 17, 8) as bit(32)) as bigint)
              - cast(cast('x' || substr(last, 9, 8) as bit(32)) as bigint) * (4294967296 / size)
              - cast(cast('x' || substr(last, 17, 8) as bit(32)) as bigint) as ahead
    from s
)
select last_archived_time as archived_at, greatest(ahead - 1, 0) * size as waiting,
       case when last_failed_time > coalesce(last_archived_time, '-infinity') then last_failed_time end as failing_at
from p
""")


@dataclass(frozen=True, slots=True)
class Checkup:
    """The database at one moment. `hidden`: sessions of others, of which this role may not see what they do."""

    version: str
    standby: bool
    now: datetime
    size: int
    connections: int
    most: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Held:
    """The oldest snapshot that somebody holds."""

    who: str
    pid: int | None
    age: timedelta


async def look(connection: AsyncConnection) -> Checkup:
    """How the database is."""
    row = (await connection.execute(LOOK)).one()
    return Checkup(**row._mapping)


async def oldest(connection: AsyncConnection) -> Held | None:
    """Who holds the oldest snapshot, as far as this role may see."""
    row = (await connection.execute(OLDEST)).one_or_none()
    return None if row is None else Held(**row._mapping)


@dataclass(frozen=True, slots=True)
class Archiver:
    """How the log gets into the archive.

    `waiting`: bytes that are finished and only on the database's own disk, None where nobody can say. `failing_at`:
    when it last failed, where nothing was archived since.
    """

    archived_at: datetime | None
    waiting: int | None
    failing_at: datetime | None


async def archiver(connection: AsyncConnection) -> Archiver | None:
    """How archiving goes; None where nothing is archived."""
    row = (await connection.execute(ARCHIVER)).one_or_none()
    return None if row is None else Archiver(**row._mapping)


async def echo(url: str) -> float | None:
    """The seconds from a notification to its arrival; None where none comes, as behind a pooler."""
    connection = await connect(url, name="doctor")
    try:
        rung = asyncio.Event()
        own = f"echo {token_hex(8)}"  # managers pass over each other's echoes
        await connection.add_listener(CHANNEL, lambda _c, _p, _n, payload: rung.set() if payload == own else None)
        began = monotonic()
        await connection.execute("select pg_notify($1, $2)", CHANNEL, own)
        async with asyncio.timeout(ECHO_WITHIN):
            await rung.wait()
        return monotonic() - began
    except TimeoutError:
        return None
    finally:
        connection.terminate()
