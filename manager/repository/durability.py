"""How safe an acknowledged change is, as the database is set up: asked of it, since only it knows."""

from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class Durability(IntEnum):
    """What an acknowledged change survives: each of these also what the one before it does."""

    NOTHING = 0  # not even a crash of the machine
    CRASH = 1  # of managers, of PostgreSQL and of its machine
    LOSS = 2  # of the primary and its disk: a synchronous standby has it


# Turns ask for synchronous_commit by themselves. With a name in synchronous_standby_names no commit returns without a
# standby: where none is there they wait, and one that was cut short is told as unreplicated.
LOOK = text("""
select case when 'off' in (current_setting('fsync'), current_setting('full_page_writes')) then 0
            when current_setting('synchronous_standby_names') = '' then 1
            else 2 end as holds,
       current_setting('archive_mode') <> 'off'
       and coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false) as unarchived
from pg_stat_archiver a
""")


@dataclass(frozen=True, slots=True)
class Safety:
    """Which durability holds; `unarchived`: archiving has failed, and did not succeed since."""

    holds: Durability
    unarchived: bool


async def look(connection: AsyncConnection) -> Safety:
    """How safe an acknowledged change is at present."""
    row = (await connection.execute(LOOK)).one()
    return Safety(Durability(row.holds), row.unarchived)
