"""Epochs: a history that is another one is noticed, and nobody pays for it with its life."""

from collections.abc import AsyncIterator

import pytest

from manager.domain.calls import Reason
from manager.domain.grace import EPOCH_GRACE, MOST
from manager.domain.refusals import EpochChanged
from manager.presence import new_id
from manager.repository import history
from manager.repository.turn import give_grace, open_epoch
from tests.conftest import Database
from tests.fleet import Fleet, S, fleet_of


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


async def pass_by(fleet: Fleet, seconds: float) -> None:
    """So much time goes by: whatever is on record is as much older."""
    await fleet.sql.execute("update heartbeat set last_seen = last_seen - $1::interval", seconds * S)
    await fleet.sql.execute(
        "update control set grace_until = grace_until - $1::interval, grace_at = grace_at - $1::interval,"
        " ticked_at = ticked_at - $1::interval",
        seconds * S,
    )


async def test_a_new_epoch_forgives_everybody_who_is_alive_on_the_record(fleet: Fleet) -> None:
    """Whoever was silent at the last tick on record may have been heard of since, which only the lost history knew."""
    healthy, between, stale, silent = [await fleet.add() for _ in range(4)]
    dead = await fleet.add()
    await fleet.kill(dead)
    await fleet.silence(600, healthy)
    await fleet.silence(590 + 32, between)  # healthy until 33 s: a stored time may be a tenth of the timeout old
    await fleet.silence(590 + 38, stale)  # due at 43 s
    await fleet.silence(590 + 1_000, silent)  # was held back
    await fleet.ticked(590)
    assert await forced(fleet) == 2
    for _ in range(3):
        await fleet.tick(since=590)
        await fleet.tick()
    alive = {healthy, between, stale, silent}
    assert alive <= await fleet.living()
    assert dead not in await fleet.living()
    assert await fleet.value("select bool_or(stale) from lease") is False


async def test_who_stays_silent_dies_when_the_grace_of_the_epoch_is_over(fleet: Fleet) -> None:
    heard, silent = await fleet.add(), await fleet.add()
    await fleet.silence(590 + 38, heard, silent)
    await fleet.ticked(590)
    await forced(fleet)
    await fleet.tick(since=590)
    await pass_by(fleet, EPOCH_GRACE.total_seconds() - 5)
    await fleet.check(heard)
    await fleet.tick()
    assert {heard, silent} <= await fleet.living()
    await pass_by(fleet, 6)
    await fleet.tick()
    assert heard in await fleet.living()
    assert silent not in await fleet.living()


async def test_the_grace_of_an_epoch_is_whole_though_the_hour_has_none_left(fleet: Fleet) -> None:
    """What was spent before the loss was spent on another outage."""
    one = await fleet.add()
    async with fleet.connections.turns.use() as connection:
        while await give_grace(connection, MOST):
            await pass_by(fleet, MOST.total_seconds() + 1)
    await fleet.silence(590 + 38, one)
    await fleet.ticked(590)
    await forced(fleet)
    left = await fleet.value("select grace_until - clock_timestamp() from control")
    assert EPOCH_GRACE - 5 * S < left <= EPOCH_GRACE
    await fleet.tick(since=590)
    assert one in await fleet.living()
    async with fleet.connections.turns.use() as connection:
        await pass_by(fleet, EPOCH_GRACE.total_seconds() + 1)
        assert await give_grace(connection, MOST) is None, "and it counts for the share"


async def test_an_outage_within_the_grace_of_an_epoch_forgets_nobody(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(590 + 38, one)
    await fleet.ticked(590)
    await forced(fleet)
    await fleet.tick(since=590)
    await pass_by(fleet, EPOCH_GRACE.total_seconds() - 5)
    await fleet.tick(since=20)
    await pass_by(fleet, 30)
    await fleet.tick(since=2)
    assert one in await fleet.living()


async def test_a_clock_that_is_set_back_within_the_grace_of_an_epoch_costs_nobody_its_life(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(590 + 38, one)
    await fleet.ticked(590)
    await forced(fleet)
    await pass_by(fleet, -10)
    await fleet.tick(since=-10)
    await fleet.tick()
    assert one in await fleet.living()
    left = await fleet.value("select grace_until - clock_timestamp() from control")
    assert left <= EPOCH_GRACE


async def test_an_operator_s_word_spares_the_stale_too(fleet: Fleet) -> None:
    """`imctl admin grace` says that nobody who is alive expires before it is over."""
    one = await fleet.add()
    await fleet.silence(700, one)
    async with fleet.connections.turns.use() as connection:
        assert await give_grace(connection, EPOCH_GRACE)
    await fleet.tick()
    assert await fleet.value("select died_revision is null from instance where id = $1", one)


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
