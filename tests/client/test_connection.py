from collections.abc import AsyncIterator

import pytest
from grpc import aio

from manager.client import (
    Client,
    DeadlineError,
    EpochChangedError,
    ExhaustedError,
    InvalidRequestError,
    ProtoVersionError,
    UnavailableError,
    Violation,
)
from manager.client.channel import OPTIONS
from manager.client.interceptors import stamped
from manager.pb.instance_manager_pb2 import (
    BOOKMARK,
    InstanceDescription,
    InstanceRequest,
    InstanceUpdate,
    SubscribeRequest,
    SystemMetrics,
)
from manager.pb.version import PROTO_VERSION
from manager.settings import Settings
from tests.client.standin import UNAVAILABLE, Reply, Stall, StandIn, exhausted, invalid, precondition, standing_in

REQUEST = InstanceRequest(instance_id="x")


@pytest.fixture
async def other() -> AsyncIterator[StandIn]:
    async with standing_in() as manager:
        yield manager


async def test_every_kind_of_call_carries_the_version_of_the_contract(standin: StandIn, client: Client) -> None:
    standin.always("SubscribeToInstanceUpdates", InstanceUpdate(event_type=BOOKMARK))
    await client.try_.TryHealthCheck(REQUEST)
    async for _ in client.subscribe.SubscribeToInstanceUpdates(SubscribeRequest()):
        pass
    assert [each["proto_version"] for each in standin.metadata] == [PROTO_VERSION] * 2


async def test_metadata_of_the_caller_is_kept(standin: StandIn, client: Client) -> None:
    await client.try_.TryHealthCheck(REQUEST, metadata=(("who", "me"),))
    assert standin.metadata[0]["who"] == "me"
    assert standin.metadata[0]["proto_version"] == PROTO_VERSION


async def test_a_call_without_a_timeout_has_the_deadline_of_the_client(standin: StandIn) -> None:
    async with Client(standin.address, deadline=0.1) as client:
        await client.try_.TryHealthCheck(REQUEST, timeout=60)  # which connects
        standin.once("TryHealthCheck", Stall())
        with pytest.raises(DeadlineError):
            await client.try_.TryHealthCheck(REQUEST)
        await client.try_.TryHealthCheck(REQUEST, timeout=60)
    assert standin.time_left[-1] > 50


async def test_a_subscription_has_no_deadline() -> None:
    details = aio.ClientCallDetails("/x", None, None, None, None)
    assert stamped(details).timeout is None
    assert stamped(details, 5).timeout == 5


async def test_idempotent_calls_are_repeated_while_the_manager_is_unavailable(standin: StandIn, client: Client) -> None:
    standin.once("TryAddInstance", UNAVAILABLE, UNAVAILABLE)
    standin.once("GetInstance", UNAVAILABLE, InstanceDescription(hostname="h"))
    assert (await client.try_.TryAddInstance(InstanceDescription())).value
    assert (await client.get.GetInstance(REQUEST)).hostname == "h"
    assert len(standin.requests("TryAddInstance")) == 3


async def test_posts_are_not_repeated(standin: StandIn, client: Client) -> None:
    standin.once("PostSystemMetrics", UNAVAILABLE)
    with pytest.raises(UnavailableError):
        await client.post.PostSystemMetrics(SystemMetrics())
    assert len(standin.requests("PostSystemMetrics")) == 1


async def test_another_manager_takes_over(standin: StandIn, other: StandIn) -> None:
    standin.always("TryHealthCheck", UNAVAILABLE)
    async with Client(standin.address, other.address) as client:
        assert all([(await client.try_.TryHealthCheck(REQUEST)).value for _ in range(4)])
    assert len(other.requests("TryHealthCheck")) == 4


async def test_a_manager_that_is_not_there_costs_no_call(standin: StandIn) -> None:
    async with Client("127.0.0.1:1", standin.address) as client:
        assert all([(await client.try_.TryHealthCheck(REQUEST)).value for _ in range(4)])


async def test_no_manager_at_all_is_unavailable() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(UnavailableError, match="refused"):
            await client.post.PostSystemMetrics(SystemMetrics())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (precondition("PROTO_VERSION"), ProtoVersionError),
        (precondition("EPOCH_CHANGED"), EpochChangedError),
        (exhausted(3), ExhaustedError),
        (invalid("port", "must be 1 to 65535"), InvalidRequestError),
    ],
)
async def test_errors_are_typed(standin: StandIn, client: Client, reply: Reply, error: type[Exception]) -> None:
    standin.once("TryAddInstance", reply)
    with pytest.raises(error):
        await client.try_.TryAddInstance(InstanceDescription())


async def test_errors_carry_the_details_of_the_manager(standin: StandIn, client: Client) -> None:
    standin.once("TryAddInstance", exhausted(3), invalid("port", "must be 1 to 65535"))
    with pytest.raises(ExhaustedError) as full:
        await client.try_.TryAddInstance(InstanceDescription())
    with pytest.raises(InvalidRequestError) as wrong:
        await client.try_.TryAddInstance(InstanceDescription())
    assert full.value.retry_after == 3
    assert wrong.value.violations == (Violation("port", "must be 1 to 65535"),)


async def test_a_subscription_ends_in_a_typed_error_after_its_events(standin: StandIn, client: Client) -> None:
    standin.once("SubscribeToInstanceUpdates", precondition("EPOCH_CHANGED"))
    updates = aiter(client.subscribe.SubscribeToInstanceUpdates(SubscribeRequest()))
    assert (await anext(updates)).revision == 1
    with pytest.raises(EpochChangedError):
        await anext(updates)


async def test_a_subscription_can_be_cancelled(standin: StandIn, client: Client) -> None:
    standin.always("SubscribeToInstanceUpdates", Stall())
    call = client.subscribe.SubscribeToInstanceUpdates(SubscribeRequest())
    async for update in call:
        assert update.revision == 1
        break
    assert call.cancel()


def test_a_client_pings_no_oftener_than_a_manager_lets_it() -> None:
    assert float(dict(OPTIONS)["grpc.keepalive_time_ms"]) > 1000 * Settings().ping_interval.total_seconds() + 1000
