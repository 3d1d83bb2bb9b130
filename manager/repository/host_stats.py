"""Memory of hosts: the latest Stats of each."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.metrics import HostStats

UPLOAD = text("""
insert into host_stats (hostname, at, measured_at, used_memory_bytes, total_memory_bytes)
select :hostname, clock_timestamp(), :measured_at, :used_memory_bytes, :total_memory_bytes
on conflict (hostname) do update
set at = excluded.at, measured_at = excluded.measured_at, used_memory_bytes = excluded.used_memory_bytes,
    total_memory_bytes = excluded.total_memory_bytes
""")


async def upload(connection: AsyncConnection, stats: HostStats) -> None:
    """Keeps the latest stats of a host."""
    await connection.execute(
        UPLOAD,
        {
            "hostname": stats.hostname,
            "measured_at": stats.measured_at,
            "used_memory_bytes": stats.used_memory_bytes,
            "total_memory_bytes": stats.total_memory_bytes,
        },
    )


STATS = text("""
select hostname, measured_at, used_memory_bytes, total_memory_bytes from host_stats where hostname = :hostname
""")


async def latest(connection: AsyncConnection, hostname: str) -> HostStats | None:
    """The latest stats of a host, or None."""
    row = (await connection.execute(STATS, {"hostname": hostname})).one_or_none()
    return None if row is None else HostStats(**row._mapping)


SILENT = text("delete from host_stats where at < clock_timestamp() - interval '30 days'")


async def forget_silent(connection: AsyncConnection) -> int:
    """Removes the stats of hosts that were silent for 30 days; how many."""
    return (await connection.execute(SILENT)).rowcount
