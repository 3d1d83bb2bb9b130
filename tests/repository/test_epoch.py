"""Epochs: a history that is another one is noticed, and nobody pays for it with its life."""

from collections.abc import AsyncIterator

import pytest

from manager.domain.calls import Reason
from manager.domain.refusals import EpochChanged
from manager.presence import new_id
from manager.repository import history
from manager.repository.turn import open_epoch
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        await one.add()
        yield one


async def forced(fleet: Fleet) -> int:
    async with fleet.connections.turns.use() as connection:
        opened = await open_epoch(connection, "a test", forced=True)
    assert opened is not None
    return opened[1]


async def test_the_first_epoch_gives_no_grace(fleet: Fleet) -> None:
    assert (await fleet.rows("select number, base_revision, reason from history_epoch"))[0][:] == (1, 0, "the first")
    assert await fleet.value("select grace_until is null from control")
    assert (await fleet.check(new_id()))[0].reason is Reason.UNKNOWN_INSTANCE


async def test_a_new_epoch_forgives_those_who_were_alive_at_the_last_tick(fleet: Fleet) -> None:
    one = await fleet.add()
    silent = await fleet.add()
    await fleet.silence(600, one, silent)
    await fleet.ticked(590)
    await fleet.silence(700, silent)
    assert await forced(fleet) == 2
    await fleet.tick()
    found = {row["id"]: row["died_revision"] for row in await fleet.rows("select id, died_revision from instance")}
    assert found[one] is None
    assert found[silent] is not None


async def test_an_id_that_a_restored_database_does_not_know_is_told_to_register_again(fleet: Fleet) -> None:
    await forced(fleet)
    unknown = new_id()
    with pytest.raises(EpochChanged, match="register it again"):
        await fleet.checks.submit(unknown)
    known = await fleet.add()
    assert (await fleet.check(known))[0].reason is None
    await fleet.kill(known)
    assert (await fleet.check(known))[0].reason is Reason.DEAD
    await fleet.sql.execute("update history_epoch set opened_at = opened_at - interval '6 minutes'")
    assert (await fleet.check(unknown))[0].reason is Reason.UNKNOWN_INSTANCE


async def test_a_place_is_good_up_to_where_the_next_epoch_began(fleet: Fleet) -> None:
    async with fleet.connections.readers.use() as connection:
        before = await history.head(connection)
    await forced(fleet)
    await fleet.add()
    async with fleet.connections.readers.use() as connection:
        after = await history.head(connection)
        assert await history.judge(connection, before) == after.epoch
        lost = type(before)(before.epoch, after.revision, 0, after.nonce)
        with pytest.raises(EpochChanged):
            await history.judge(connection, lost)
        with pytest.raises(EpochChanged):
            await history.judge(connection, type(after)(after.epoch, after.revision, 0, after.nonce + 1))
