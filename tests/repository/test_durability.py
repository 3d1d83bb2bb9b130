"""Which durability holds is what the database does, and not what was meant."""

from sqlalchemy import text

from manager.repository.database import Session, engine_of
from manager.repository.durability import Durability, look
from tests.faults.copies import forgotten, standby_of
from tests.faults.postgres import migrated, started


async def test_a_standby_that_is_waited_for_a_disk_that_is_and_none_are_told_apart() -> None:
    async with started() as server:
        session = Session(engine_of((await migrated(server)).url, name="test"))  # as the role of a manager

        async def holds() -> Durability:
            async with session.use() as connection:
                return (await look(connection)).holds

        try:
            await server.set(fsync="on", full_page_writes="on")
            await settled(session, "fsync", "on")
            assert await holds() is Durability.CRASH
            async with standby_of(server, synchronous=True):
                await settled(session, "synchronous_standby_names", "standby")
                assert await holds() is Durability.LOSS
            await forgotten(server)
            await settled(session, "synchronous_standby_names", "")
            assert await holds() is Durability.CRASH
            await server.set(fsync="off")
            await settled(session, "fsync", "off")
            assert await holds() is Durability.NOTHING
        finally:
            await session.close()


async def settled(session: Session, setting: str, value: str) -> None:
    """Returns once this session has heard of it."""
    while True:
        async with session.use() as connection:
            found = await connection.scalar(text("select current_setting(:setting)"), {"setting": setting})
            await connection.rollback()
        if found == value:
            return
