"""Lanes: who goes first, and who never goes at all."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from manager.domain.refusals import Exhausted, Refusal, Unavailable
from manager.lane import Lane


class Work:
    """Takes what a lane gives, when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()

    async def run(self, calls: Sequence[int]) -> Sequence[int | Refusal]:
        self.batches.append(list(calls))
        await self.go.wait()
        return list(calls)


@asynccontextmanager
async def lane_of(
    work: Work,
    *,
    size: int = 3,
    queue: int = 5,
    patience: timedelta | None = None,
    linger: timedelta = timedelta(0),
) -> AsyncIterator[Lane[int, int]]:
    """A lane for which a hundred and more is urgent."""
    lane: Lane[int, int] = Lane(
        work.run, linger=linger, size=size, queue=queue, urgent=lambda number: number >= 100, patience=patience
    )
    task = asyncio.create_task(lane.serve())
    yield lane
    work.go.set()
    lane.close()
    await task


async def waiting(lane: Lane[int, int], *numbers: int) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(lane.submit(each)) for each in numbers]
    await settled()
    return tasks


async def settled() -> None:
    """All that can happen by now has: a lane that does not linger needs a few turns of the loop, and no time."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_the_urgent_go_first() -> None:
    work = Work()
    async with lane_of(work) as lane:
        tasks = await waiting(lane, 1)
        tasks += await waiting(lane, 2, 3, 4, 100, 101)
        work.go.set()
        assert await asyncio.gather(*tasks) == [1, 2, 3, 4, 100, 101]
        assert work.batches == [[1], [100, 101, 2], [3, 4]]


@pytest.mark.parametrize(("others", "kept"), [(1, True), (2, False)])
async def test_a_busy_lane_waits_for_company_unless_there_is_enough(others: int, kept: bool) -> None:
    work = Work()
    async with lane_of(work, size=8, linger=timedelta(minutes=1)) as lane:
        tasks = await waiting(lane, 1)
        tasks += await waiting(lane, *range(2, 2 + others))
        await asyncio.sleep(0.3)  # which is how long the first one takes, and the others would be kept
        work.go.set()
        await settled()
        assert tasks[-1].done() is not kept
        await asyncio.gather(*tasks)


async def test_a_full_queue_has_room_for_the_urgent() -> None:
    work = Work()
    async with lane_of(work) as lane:
        tasks = await waiting(lane, 1)
        tasks += await waiting(lane, 2, 3, 4, 5, 6)
        with pytest.raises(Exhausted):
            await lane.submit(7)
        tasks += await waiting(lane, 100)
        work.go.set()
        assert (await asyncio.gather(*tasks))[-1] == 100


async def test_the_urgent_are_bounded_too() -> None:
    work = Work()
    async with lane_of(work, queue=2) as lane:
        tasks = await waiting(lane, 1)
        tasks += await waiting(lane, 100, 101)
        with pytest.raises(Exhausted):
            await lane.submit(102)
        work.go.set()
        await asyncio.gather(*tasks)


async def test_a_call_whose_caller_has_given_up_is_never_carried_out() -> None:
    """What comes after its deadline must cost the database nothing, least of all after an outage."""
    work = Work()
    async with lane_of(work) as lane:
        tasks = await waiting(lane, 1)
        late, patient = await waiting(lane, 2, 3)
        late.cancel()
        work.go.set()
        assert await asyncio.gather(*tasks, patient) == [1, 3]
        assert work.batches == [[1], [3]]


async def test_while_a_batch_hangs_everybody_is_sent_elsewhere_and_afterwards_nobody() -> None:
    work = Work()
    async with lane_of(work, patience=timedelta(milliseconds=50)) as lane:
        tasks = await waiting(lane, 1)
        tasks += await waiting(lane, 2, 100)
        for each in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(each, Unavailable)
        with pytest.raises(Unavailable):
            await lane.submit(3)
        work.go.set()
        await settled()
        assert await lane.submit(4) == 4
        assert work.batches == [[1], [4]]


async def test_calls_that_come_together_travel_together_and_are_cut_to_the_size_of_a_batch() -> None:
    work = Work()
    async with lane_of(work, queue=20) as lane:
        tasks = await waiting(lane, 1)
        many = asyncio.create_task(lane.submit_many([2, 3, 4, 5, 6]))
        await settled()
        tasks += await waiting(lane, 7)
        work.go.set()
        assert await many == [2, 3, 4, 5, 6]
        assert await asyncio.gather(*tasks) == [1, 7]
        assert work.batches == [[1], [2, 3, 4], [5, 6, 7]]
        assert await lane.submit_many([]) == []


async def test_of_many_calls_those_that_find_no_room_are_refused_and_the_others_are_not() -> None:
    work = Work()
    async with lane_of(work, queue=5) as lane:
        tasks = await waiting(lane, 1)
        many = asyncio.create_task(lane.submit_many([2, 3, 4, 5, 6, 7]))
        await settled()
        work.go.set()
        *taken, fifth, sixth, seventh = await many
        assert taken == [2, 3, 4]
        assert all(isinstance(each, Exhausted) for each in (fifth, sixth, seventh))
        assert await asyncio.gather(*tasks) == [1]


async def test_many_calls_whose_caller_has_given_up_are_never_carried_out() -> None:
    work = Work()
    async with lane_of(work) as lane:
        tasks = await waiting(lane, 1)
        many = asyncio.create_task(lane.submit_many([2, 3, 4, 5]))
        await settled()
        many.cancel()
        work.go.set()
        assert await asyncio.gather(*tasks) == [1]
        assert await lane.submit(6) == 6
        assert work.batches == [[1], [6]]


async def test_while_a_batch_hangs_many_calls_are_answered_each_by_that() -> None:
    work = Work()
    async with lane_of(work, patience=timedelta(milliseconds=50)) as lane:
        answers = await lane.submit_many([1, 2])
        assert [type(each) for each in answers] == [Unavailable, Unavailable]
