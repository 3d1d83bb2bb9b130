import asyncio
from dataclasses import dataclass, field
from typing import NoReturn

import pytest
from grpc import StatusCode

from manager.client import (
    BackInReach,
    Client,
    DeadlineError,
    End,
    Ending,
    Instance,
    ManagerError,
    Memory,
    MetricsFailed,
    Notice,
    NotLinked,
    OutOfReach,
    Owner,
    Policy,
    RefusedError,
    RegisteredAgain,
)
from manager.client.instance import completed
from manager.pb.instance_manager_pb2 import (
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    REASON_CYCLE,
    REASON_DEAD,
    REASON_ID_TAKEN,
    REASON_UNKNOWN_INSTANCE,
    REASON_UNKNOWN_PARENT,
    VLLM,
    InstanceDescription,
    InstanceRequest,
    KillRequest,
    Service,
)
from manager.server import Serving
from tests.client.standin import TRUE, UNAVAILABLE, Failure, Reply, Slow, Stall, StandIn, exhausted, false, precondition

PARENT = "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f"
FIRST = Service(service_type=CHROME_DEBUG_PORT, host="h", port=1)
SECOND = Service(service_type=CHROME_DEBUG_PORT, host="h", port=2)
LOST_DATA = precondition("EPOCH_CHANGED")


@dataclass
class Hearing:
    """All that an instance told its owner."""

    notices: list[Notice] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    @property
    def owner(self) -> Owner:
        return Owner(told=self.notices.append, ended=self.ends.append)


def browser(timeout: float = 0.3, *, parent_id: str = "", instance_id: str = "") -> InstanceDescription:
    return InstanceDescription(
        instance_id=instance_id,
        instance_type=CHROME_BROWSER,
        hostname="h",
        parent_id=parent_id,
        timeout_ms=round(timeout * 1000),
    )


async def ended(instance: Instance) -> End:
    async with asyncio.timeout(5):
        return await instance.wait()


async def test_it_registers_with_parent_and_services_at_once(standin: StandIn, client: Client) -> None:
    description = browser(parent_id=PARENT)
    description.services.append(FIRST)
    async with Instance(client, description) as instance:
        (registered,) = standin.requests("TryAddInstance")
    assert (registered.instance_id, registered.parent_id) == (instance.id, PARENT)
    assert list(registered.services) == [FIRST]


def test_what_it_was_not_told_it_chooses_itself() -> None:
    assert completed(InstanceDescription(instance_type=VLLM)).timeout_ms == 60_000
    assert completed(InstanceDescription(instance_type=CHROME_BROWSER)).timeout_ms == 30_000
    kept = completed(browser(instance_id=PARENT))
    assert (kept.instance_id, kept.timeout_ms) == (PARENT, 300)


async def test_it_checks_its_health_at_a_third_of_its_timeout(standin: StandIn, client: Client) -> None:
    async with Instance(client, browser(timeout=0.6)):
        await asyncio.sleep(1)
    assert 4 <= len(standin.requests("TryHealthCheck")) <= 6


@pytest.mark.parametrize(
    ("answer", "ending"), [(false(REASON_DEAD), Ending.DEAD), (false(REASON_UNKNOWN_INSTANCE), Ending.UNKNOWN)]
)
async def test_a_false_ends_it_and_says_why(standin: StandIn, client: Client, answer: Reply, ending: Ending) -> None:
    hearing = Hearing()
    standin.once("TryHealthCheck", answer)
    async with Instance(client, browser(), owner=hearing.owner) as instance:
        end = await ended(instance)
    assert end.ending is ending
    assert hearing.ends == [end]
    assert standin.requests("TryKillInstance") == []  # there is nothing left to kill


@pytest.mark.parametrize(
    "error",
    [
        UNAVAILABLE,
        Stall(),
        exhausted(1),
        precondition("PROTO_VERSION"),
        Failure(StatusCode.INTERNAL),
        Failure(StatusCode.PERMISSION_DENIED),
    ],
)
async def test_no_error_ends_it(standin: StandIn, client: Client, error: Reply) -> None:
    hearing = Hearing()
    standin.always("TryHealthCheck", error)
    async with Instance(client, browser(), owner=hearing.owner) as instance:
        await asyncio.sleep(0.4)
        standin.always("TryHealthCheck", false(REASON_DEAD))
        await ended(instance)
    assert [type(each) for each in hearing.notices] == [OutOfReach]


async def test_it_says_when_the_manager_is_back(standin: StandIn, client: Client) -> None:
    hearing = Hearing()
    standin.once("TryHealthCheck", exhausted(0), exhausted(0))
    async with Instance(client, browser(), owner=hearing.owner):
        await standin.hears("TryHealthCheck", 5)
    assert [type(each) for each in hearing.notices] == [OutOfReach, BackInReach]


async def test_it_gives_up_after_its_patience(standin: StandIn, client: Client) -> None:
    standin.always("TryHealthCheck", exhausted(0))
    began = asyncio.get_running_loop().time()
    async with Instance(client, browser(), Policy(orphan_after=0.8)) as instance:
        end = await ended(instance)
    assert end.ending is Ending.LOST
    assert 0.8 <= asyncio.get_running_loop().time() - began < 1.5
    assert len(standin.requests("TryKillInstance")) == 1  # the manager may hear that at least


@pytest.mark.parametrize("silence", [Stall(), UNAVAILABLE, LOST_DATA])
async def test_a_strict_one_gives_up_when_its_timeout_is_over(standin: StandIn, client: Client, silence: Reply) -> None:
    standin.always("TryHealthCheck", silence)
    standin.once("TryAddInstance", TRUE)
    standin.always("TryAddInstance", Stall())
    began = asyncio.get_running_loop().time()
    async with Instance(client, browser(timeout=1.8), Policy(strict=True)) as instance:
        end = await ended(instance)
        took = asyncio.get_running_loop().time() - began
    assert end.ending is Ending.LOST
    assert 1.8 <= took < 2.25


async def test_patience_counts_from_when_the_last_good_check_was_sent(standin: StandIn, client: Client) -> None:
    standin.always("TryHealthCheck", Stall())
    standin.once("TryHealthCheck", Slow(0.45))
    async with Instance(client, browser(timeout=1.8), Policy(strict=True)) as instance:
        await standin.hears("TryHealthCheck")
        sent = asyncio.get_running_loop().time()
        await ended(instance)
        assert asyncio.get_running_loop().time() - sent < 2.1


async def test_after_a_loss_of_data_it_registers_again_itself_then_services_then_link(
    standin: StandIn, client: Client
) -> None:
    hearing = Hearing()
    description = browser(parent_id=PARENT)
    description.services.append(FIRST)
    async with Instance(client, description, owner=hearing.owner) as instance:
        await instance.add_service(SECOND)
        standin.asked.clear()
        standin.once("TryHealthCheck", LOST_DATA)
        standin.once("TryAddChild", false(REASON_UNKNOWN_INSTANCE), UNAVAILABLE, false(REASON_UNKNOWN_INSTANCE))
        await standin.hears("TryAddChild", 4)
    renewal = [name for name, _ in standin.asked if name != "TryHealthCheck"][:4]
    assert renewal == ["TryAddInstance", "TryAddService", "TryAddChild", "TryAddChild"]
    (again,) = standin.requests("TryAddInstance")
    assert (again.instance_id, again.parent_id, list(again.services)) == (instance.id, "", [FIRST])
    assert standin.requests("TryAddService")[0].service == SECOND
    assert {(each.parent_id, each.child_id) for each in standin.requests("TryAddChild")} == {(PARENT, instance.id)}
    assert RegisteredAgain() in hearing.notices
    assert hearing.ends == []


async def test_a_renewal_whose_answer_was_lost_is_no_refusal(standin: StandIn, client: Client) -> None:
    async with Instance(client, browser(parent_id=PARENT)):
        standin.once("TryHealthCheck", LOST_DATA)
        standin.once("TryAddInstance", false(REASON_ID_TAKEN))
        await standin.hears("TryAddChild")


async def test_a_renewal_of_the_dead_ends_it(standin: StandIn, client: Client) -> None:
    async with Instance(client, browser()) as instance:
        standin.once("TryHealthCheck", LOST_DATA)
        standin.once("TryAddInstance", false(REASON_DEAD))
        assert (await ended(instance)).ending is Ending.DEAD


async def test_a_child_whose_parent_does_not_come_back_ends(standin: StandIn, client: Client) -> None:
    standin.always("TryAddChild", false(REASON_UNKNOWN_INSTANCE))
    async with Instance(client, browser(parent_id=PARENT), Policy(orphan_after=0.4)) as instance:
        standin.once("TryHealthCheck", LOST_DATA)
        assert (await ended(instance)).ending is Ending.ORPHANED
    assert len(standin.requests("TryKillInstance")) == 1


async def test_a_child_whose_parent_came_back_dead_ends(standin: StandIn, client: Client) -> None:
    standin.always("TryAddChild", false(REASON_DEAD))
    async with Instance(client, browser(parent_id=PARENT)) as instance:
        standin.once("TryHealthCheck", LOST_DATA)
        assert (await ended(instance)).ending is Ending.ORPHANED


async def test_a_link_refused_for_good_is_told_and_not_tried_again(standin: StandIn, client: Client) -> None:
    hearing = Hearing()
    standin.always("TryAddChild", false(REASON_CYCLE))
    async with Instance(client, browser(parent_id=PARENT), owner=hearing.owner):
        standin.once("TryHealthCheck", LOST_DATA)
        await standin.hears("TryHealthCheck", 5)
    assert len(standin.requests("TryAddChild")) == 1
    assert NotLinked(REASON_CYCLE) in hearing.notices


async def test_closing_kills_it_with_a_note(standin: StandIn, client: Client) -> None:
    async with Instance(client, browser()) as instance:
        assert await instance.close("done")
    assert [(each.instance_id, each.note) for each in standin.requests("TryKillInstance")] == [(instance.id, "done")]
    with pytest.raises(asyncio.CancelledError):
        await instance.wait()


async def test_closing_does_not_wait_for_a_manager_that_is_silent(
    standin: StandIn, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.client.instance.CLOSE_DEADLINE", 0.2)
    standin.always("TryKillInstance", Stall())
    instance = Instance(client, browser())
    await instance.start()
    async with asyncio.timeout(1):
        assert not await instance.close()


async def test_a_refused_registration_raises_and_kills_nobody(standin: StandIn, client: Client) -> None:
    standin.once("TryAddInstance", false(REASON_UNKNOWN_PARENT))
    with pytest.raises(RefusedError, match="UNKNOWN_PARENT") as refused:
        async with Instance(client, browser(parent_id=PARENT)):
            pass
    assert refused.value.reason == REASON_UNKNOWN_PARENT
    assert standin.requests("TryKillInstance") == []


@pytest.mark.parametrize(("chosen", "kills"), [("", 1), (PARENT, 0)])
async def test_a_registration_of_unknown_outcome_is_taken_back_unless_the_id_may_be_anothers(
    standin: StandIn, client: Client, chosen: str, kills: int
) -> None:
    standin.always("TryAddInstance", Failure(StatusCode.DEADLINE_EXCEEDED))
    with pytest.raises(DeadlineError):
        async with Instance(client, browser(instance_id=chosen)):
            pass
    assert len(standin.requests("TryKillInstance")) == kills


async def test_a_start_that_is_cancelled_leaves_nothing_behind(standin: StandIn, client: Client) -> None:
    standin.always("TryAddInstance", Stall())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), Instance(client, browser()):
            pass
    assert len(standin.requests("TryKillInstance")) == 1


async def test_its_memory_is_posted_at_the_pace_of_its_checks(standin: StandIn, client: Client) -> None:
    async with Instance(client, browser(), owner=Owner(memory=lambda: Memory(3, 4))) as instance:
        posted = await standin.hears("PostSystemMetrics", 3)
    assert {(each.instance_id, each.used_memory_bytes, each.total_memory_bytes) for each in posted} == {
        (instance.id, 3, 4)
    }
    assert posted[0].timestamp_ms > 1_700_000_000_000


async def test_neither_posts_nor_callbacks_that_fail_stop_the_checks(standin: StandIn, client: Client) -> None:
    def broken(_: object = None) -> NoReturn:
        raise LookupError("no such counter")

    heard: list[Notice] = []
    standin.always("PostSystemMetrics", UNAVAILABLE)
    standin.once("TryHealthCheck", exhausted(0))
    async with Instance(client, browser(), owner=Owner(told=broken, memory=lambda: Memory(1, 2))):
        await standin.hears("TryHealthCheck", 4)
    async with Instance(client, browser(), owner=Owner(told=heard.append, memory=broken)):
        await standin.hears("TryHealthCheck", 8)
    assert isinstance(heard[0], MetricsFailed)


async def test_services_and_links_that_are_refused_raise(standin: StandIn, client: Client) -> None:
    async with Instance(client, browser()) as instance:
        standin.once("TryAddService", false(REASON_DEAD))
        standin.once("TryAddChild", false(REASON_CYCLE))
        with pytest.raises(RefusedError, match="DEAD"):
            await instance.add_service(FIRST)
        with pytest.raises(RefusedError, match="CYCLE"):
            await instance.add_parent(PARENT)


async def test_a_real_manager_tells_a_child_to_terminate_when_its_parent_is_killed(server: Serving) -> None:
    async with (
        Client(server.addresses[0]) as client,
        Instance(client, browser(1.0)) as parent,
        Instance(client, browser(1.0), owner=Owner(memory=lambda: Memory(3, 4))) as child,
    ):
        await child.add_parent(parent.id)
        await child.add_service(FIRST)
        found = await client.get.GetInstance(InstanceRequest(instance_id=child.id))
        assert (found.parent_id, list(found.services)) == (parent.id, [FIRST])
        await asyncio.sleep(1.2)  # beyond the timeout: only the checks keep it
        assert (await client.get.GetSystemMetrics(InstanceRequest(instance_id=child.id))).used_memory_bytes == 3
        await client.try_.TryKillInstance(KillRequest(instance_id=parent.id))
        assert (await ended(child)).ending is Ending.DEAD


async def test_a_real_manager_has_no_living_instance_once_it_is_closed(server: Serving) -> None:
    async with Client(server.addresses[0]) as client:
        async with Instance(client, browser(1.0)) as instance:
            pass
        with pytest.raises(ManagerError, match="is registered and alive"):
            await client.get.GetInstance(InstanceRequest(instance_id=instance.id))
