"""Reads that wait together are one statement, and each of them begins after it was asked for."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.calls import Kill
from manager.domain.instance import Instance, InstanceId
from manager.domain.metrics import GpuSample, LlmSample
from manager.domain.refusals import Unavailable
from manager.presence import new_id
from manager.reads import Lookup, Reads
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
async def served(fleet: Fleet, found: Counted) -> AsyncIterator[Lookup[Instance]]:
    lookup = Lookup(fleet.connections.readers, found, size=1_000, queue=1_000, patience=timedelta(seconds=3))
    task = asyncio.create_task(lookup.lane.serve())
    try:
        yield lookup
    finally:
        lookup.lane.close()
        await task


async def test_those_that_wait_together_are_one_statement(fleet: Fleet) -> None:
    ids = [await fleet.add() for _ in range(20)]
    counted = Counted()
    async with served(fleet, counted) as lookup:
        found = await asyncio.gather(*map(lookup.of, [*ids, *ids, new_id()]))
    assert [each and each.id for each in found] == [*ids, *ids, None]
    assert counted.sizes == [21]


async def test_one_alone_does_not_wait(fleet: Fleet) -> None:
    one = await fleet.add()
    counted = Counted()
    async with served(fleet, counted) as lookup:
        assert [(await lookup.of(one)) is not None for _ in range(3)] == [True] * 3
    assert counted.sizes == [1, 1, 1]


async def test_a_read_sees_what_was_answered_before_it_was_asked_for(fleet: Fleet) -> None:
    """However many others are on their way: a kill that was answered is seen by all that come after."""
    ids = [await fleet.add() for _ in range(30)]
    async with served(fleet, Counted()) as lookup:
        stop = asyncio.Event()

        async def others() -> None:
            while not stop.is_set():
                await lookup.of(ids[-1])

        busy = [asyncio.create_task(others()) for _ in range(5)]
        for one in ids[:-1]:
            await fleet.do(Kill(one))
            assert await lookup.of(one) is None
        stop.set()
        await asyncio.gather(*busy)


async def test_a_database_that_is_away_is_no_fault_of_ours(fleet: Fleet) -> None:
    one = await fleet.add()

    async def fails(_connection: AsyncConnection, _ids: Sequence[InstanceId]) -> Mapping[InstanceId, Instance]:
        raise ConnectionResetError

    lookup = Lookup(fleet.connections.readers, fails, size=10, queue=10, patience=timedelta(seconds=3))
    task = asyncio.create_task(lookup.lane.serve())
    with pytest.raises(Unavailable):
        await lookup.of(one)
    lookup.lane.close()
    await task


async def test_samples_that_were_never_posted_are_none(fleet: Fleet) -> None:
    reads = Reads(fleet.connections.readers, size=10, queue=10, patience=timedelta(seconds=3))
    tasks = [asyncio.create_task(each.serve()) for each in reads.lanes()]
    assert await reads.latest(GpuSample, await fleet.add()) == []
    assert await reads.latest(LlmSample, new_id()) == []
    for lane in reads.lanes():
        lane.close()
    await asyncio.gather(*tasks)
