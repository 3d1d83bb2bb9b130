"""One stream for all instances of a client: who comes together goes together, and its end costs nobody anything."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from grpc import StatusCode

from manager.client import Client, EpochChangedError, ExhaustedError, Instance, OutOfReach, Owner
from manager.client.check_stream import CheckStream
from manager.client.errors import InvalidRequestError, ManagerError, UnavailableError, of_item
from manager.client.lifeline import Line
from manager.pb.fleet_pb2 import Failure
from manager.pb.instance_manager_pb2 import CHROME_BROWSER, InstanceDescription
from tests.client.standin import UNAVAILABLE, Slow, Stall, StandIn, precondition, standing_in

CHECK = "TryHealthCheck"
MANY = 300


def browser(timeout: float = 3) -> InstanceDescription:
    return InstanceDescription(instance_type=CHROME_BROWSER, timeout_ms=round(timeout * 1000))


@pytest.fixture
async def stream(client: Client) -> CheckStream:
    return CheckStream(client.fleet)


async def test_those_who_come_together_go_in_one_message(standin: StandIn, stream: CheckStream) -> None:
    outcomes = await asyncio.gather(*(stream.ask(str(number)) for number in range(MANY)))
    assert all(each.answer.value for each in outcomes)
    assert (standin.streams, standin.batches) == (1, [MANY])
    await stream.finish(1)


async def test_each_hears_its_own_outcome(standin: StandIn, stream: CheckStream) -> None:
    standin.once(CHECK, Slow(0.05), precondition("EPOCH_CHANGED"))
    first, second, third = await asyncio.gather(*(stream.ask(each) for each in "abc"))
    assert (first.answer.value, third.answer.value) == (True, True)
    assert isinstance(of_item(second.failure), EpochChangedError)
    await stream.finish(1)


async def test_who_gave_up_costs_the_others_nothing(standin: StandIn, stream: CheckStream) -> None:
    standin.once(CHECK, Slow(0.2))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await stream.ask("slow")
    assert (await stream.ask("next")).answer.value
    await stream.finish(1)


async def test_who_gave_up_before_its_message_left_is_not_asked_for(standin: StandIn, stream: CheckStream) -> None:
    await stream.ask("first")
    gone = asyncio.create_task(stream.ask("gone"))
    await asyncio.sleep(0)
    gone.cancel()
    await stream.ask("last")
    assert [each.instance_id for each in standin.requests(CHECK)] == ["first", "last"]
    await stream.finish(1)


async def test_what_was_asked_is_answered_before_the_end(standin: StandIn, stream: CheckStream) -> None:
    standin.once(CHECK, Slow(0.2))
    asked = asyncio.create_task(stream.ask("slow"))
    await standin.hears(CHECK)
    await stream.finish(5)
    assert (await asked).answer.value


async def test_what_is_not_answered_in_the_grace_is_cancelled(standin: StandIn, stream: CheckStream) -> None:
    standin.once(CHECK, Stall())
    asked = asyncio.create_task(stream.ask("stalled"))
    await standin.hears(CHECK)
    await stream.finish(0.1)
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_the_end_of_the_stream_fails_what_is_on_it_and_the_next_check_begins_another() -> None:
    async with AsyncExitStack() as life:
        first = await life.enter_async_context(standing_in())
        async with Client(first.address) as client:
            line = Line(client.channel)
            first.always(CHECK, Stall())
            asked = [asyncio.create_task(line.ask(each)) for each in "ab"]
            await first.hears(CHECK, 2)
            await life.aclose()
            ended = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(each) for each in ended] == [UnavailableError] * 2
            async with standing_in(int(first.address.rpartition(":")[2])) as second:
                async with asyncio.timeout(10):
                    while not await answered(line):
                        await asyncio.sleep(0.1)
                assert second.streams == 1
                await line.end(1)


async def answered(line: Line) -> bool:
    """Whether a check comes through."""
    try:
        return bool((await line.ask("again")).answer.value)
    except UnavailableError:
        return False


async def test_the_instances_of_a_client_share_a_stream(standin: StandIn, client: Client) -> None:
    instances = [Instance(client, browser()) for _ in range(30)]
    await asyncio.gather(*(each.start() for each in instances))
    async with asyncio.timeout(10):
        while {each.instance_id for each in standin.requests(CHECK)} != {each.id for each in instances}:
            await asyncio.sleep(0.05)
    assert standin.streams == 1
    assert len(standin.batches) < sum(standin.batches)
    await asyncio.gather(*(each.close() for each in instances))


async def test_a_short_trouble_is_bridged_and_told_to_nobody(standin: StandIn, client: Client) -> None:
    told: list[object] = []
    standin.once(CHECK, UNAVAILABLE, UNAVAILABLE)
    async with Instance(client, browser(3), owner=Owner(told=told.append)):
        await standin.hears(CHECK, 4)
    assert told == []


async def test_a_longer_one_is_told_once(standin: StandIn, client: Client) -> None:
    told: list[object] = []
    standin.always(CHECK, UNAVAILABLE)
    async with Instance(client, browser(6), owner=Owner(told=told.append)):
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
    assert [type(each) for each in told] == [OutOfReach]


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (Failure(code=8, message="a queue is full", retry_after_ms=1500), ExhaustedError, "a queue is full"),
        (Failure(code=3, message="is no UUID", field="instance_ids[0]"), InvalidRequestError, "instance_ids[0]"),
        (Failure(code=14, message="out of reach"), UnavailableError, "out of reach"),
        (Failure(code=99, message="of another world"), ManagerError, "of another world"),
    ],
)
def test_a_failed_item_is_the_error_of_the_single_call(failure: Failure, kind: type[ManagerError], text: str) -> None:
    error = of_item(failure)
    assert type(error) is kind
    assert text in str(error)
    assert error.retry_after == (failure.retry_after_ms / 1000 or None)
    assert error.code() is (StatusCode.UNKNOWN if failure.code == 99 else error.code())
