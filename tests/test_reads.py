"""Reads that wait together are one statement, and each of them begins after it was asked for."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.calls import Kill
from manager.domain.instance import Instance, InstanceId
from manager.domain.metrics import GpuSample, LlmSample
from manager.domain.refusals import Unavailable
from manager.presence import new_id
from manager.reads import FOUND, Found, Reads
from manager.repository.instances import find
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


class Counted:
    """The read of instances, and how many each statement was for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def __call__(self, connection: AsyncConnection, ids: Sequence[InstanceId]) -> Mapping[InstanceId, Instance]:
        self.sizes.append(len(ids))
        return await find(connection, ids)


@asynccontextmanager
async def served(fleet: Fleet, found: Mapping[type[Any], Found] = FOUND) -> AsyncIterator[Reads]:
    linger, patience = timedelta(milliseconds=5), timedelta(seconds=3)
    session = fleet.connections.lookups
    reads = Reads(session, linger=linger, size=1_000, queue=1_000, patience=patience, found=found)
    task = asyncio.create_task(reads.lane.serve())
    try:
        yield reads
    finally:
        reads.lane.close()
        await task


async def test_those_that_wait_together_are_one_statement(fleet: Fleet) -> None:
    ids = [await fleet.add() for _ in range(20)]
    counted = Counted()
    async with served(fleet, {Instance: counted}) as reads:
        found = await asyncio.gather(*map(reads.instance, [*ids, *ids, new_id()]))
    assert [each and each.id for each in found] == [*ids, *ids, None]
    assert counted.sizes == [21]


async def test_one_alone_does_not_wait(fleet: Fleet) -> None:
    one = await fleet.add()
    counted = Counted()
    async with served(fleet, {Instance: counted}) as reads:
        assert [(await reads.instance(one)) is not None for _ in range(3)] == [True] * 3
    assert counted.sizes == [1, 1, 1]


async def test_kinds_that_wait_together_do_not_mix(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    async with served(fleet) as reads:
        instance, check, gpus, other = await asyncio.gather(
            reads.instance(one), reads.check(one), reads.latest(GpuSample, one), reads.instance(two)
        )
        assert await reads.latest(LlmSample, new_id()) == []
    assert instance is not None
    assert other is not None
    assert check is not None
    assert (instance.id, check.healthy, gpus, other.id) == (one, True, [], two)


async def test_a_read_sees_what_was_answered_before_it_was_asked_for(fleet: Fleet) -> None:
    """However many others are on their way: a kill that was answered is seen by all that come after."""
    ids = [await fleet.add() for _ in range(30)]
    async with served(fleet) as reads:
        stop = asyncio.Event()

        async def others() -> None:
            while not stop.is_set():
                await reads.instance(ids[-1])

        busy = [asyncio.create_task(others()) for _ in range(5)]
        for one in ids[:-1]:
            await fleet.do(Kill(one))
            assert await reads.instance(one) is None
        stop.set()
        await asyncio.gather(*busy)


async def test_a_database_that_is_away_is_no_fault_of_ours(fleet: Fleet) -> None:
    async def fails(_connection: AsyncConnection, _ids: Sequence[InstanceId]) -> Mapping[InstanceId, Instance]:
        raise ConnectionResetError

    async with served(fleet, {Instance: fails}) as reads:
        with pytest.raises(Unavailable):
            await reads.instance(new_id())
