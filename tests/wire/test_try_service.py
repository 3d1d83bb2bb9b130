"""TryService: every answer of the contract's table, in its order, and the same one to a repeat."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.wire.caller import refusal
from tests.wire.fleet import Fleet, debug_port, description, done, refused, request


def unknown() -> str:
    return str(new_id())


async def dead(fleet: Fleet) -> str:
    """An instance that was killed."""
    instance = await fleet.add()
    await fleet.kill(instance)
    return instance


async def orphan(fleet: Fleet) -> str:
    """An instance that died of its parent's death."""
    parent, child = await fleet.chain(2)
    await fleet.kill(parent)
    return child


# TryAddInstance


async def test_a_registered_instance_is_healthy_and_its_clock_has_started(fleet: Fleet) -> None:
    sent = description(hostname="host-1", labels={"pool": "a"}, timeout_ms=5000, services=[debug_port()])
    answer = await fleet.caller.tries.TryAddInstance(sent)
    assert answer == done(answer.revision)
    found = await fleet.get(sent.instance_id)
    assert answer.revision == found.created_revision == found.updated_revision == await fleet.head()
    assert found.created_at_ms == found.last_health_check_ms > 0
    now = await fleet.database.value("select floor(extract(epoch from clock_timestamp()) * 1000)::bigint")
    assert 0 <= now - found.created_at_ms < 5000
    for filled in ("created_at_ms", "last_health_check_ms", "created_revision", "updated_revision"):
        found.ClearField(filled)
    sent.status = pb.STATUS_HEALTHY
    assert found == sent


@pytest.mark.parametrize(
    ("kind", "timeout"), [(pb.CHROME_BROWSER, 30_000), (pb.VLLM, 60_000), (pb.WARMPOOL_PROXY, 15_000)]
)
async def test_without_a_timeout_an_instance_has_its_types(
    fleet: Fleet, kind: pb.InstanceType.ValueType, timeout: int
) -> None:
    assert (await fleet.get(await fleet.add(instance_type=kind))).timeout_ms == timeout


async def test_a_registration_with_parent_and_services_is_one_revision(fleet: Fleet) -> None:
    parent = await fleet.add()
    sent = description(parent_id=parent, services=[debug_port(1), debug_port(2)])
    revision = (await fleet.caller.tries.TryAddInstance(sent)).revision
    rows = await fleet.database.run("select type from event_log where revision = $1 order by ordinal", revision)
    assert [row["type"] for row in rows] == ["ADDED", "CHILD_ADDED", "PARENT_ADDED", "SERVICE_ADDED", "SERVICE_ADDED"]
    assert revision == await fleet.head()


async def test_what_the_server_fills_is_ignored_in_a_registration(fleet: Fleet) -> None:
    sent = description(
        status=pb.STATUS_DEAD,
        created_at_ms=1,
        last_health_check_ms=2,
        created_revision=3,
        updated_revision=4,
        died_at_ms=5,
        death_cause=pb.CAUSE_EXPIRED,
        root_cause_id=unknown(),
    )
    assert (await fleet.caller.tries.TryAddInstance(sent)).value
    found = await fleet.get(sent.instance_id)
    assert (found.status, found.died_at_ms, found.root_cause_id) == (pb.STATUS_HEALTHY, 0, "")
    assert found.created_at_ms > 1000


async def test_a_repeated_registration_is_true_whatever_came_later(fleet: Fleet) -> None:
    instance, parent = await fleet.add(), await fleet.add()
    first = done((await fleet.get(instance)).created_revision)
    await fleet.caller.tries.TryUpdateInstance(description(instance, hostname="elsewhere"))
    await fleet.caller.tries.TryAddService(pb.AddServiceRequest(instance_id=instance, service=debug_port()))
    await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=parent, child_id=instance))
    head = await fleet.head()
    assert await fleet.caller.tries.TryAddInstance(description(instance)) == first
    assert await fleet.head() == head


async def test_the_order_of_labels_and_services_and_the_case_of_ids_do_not_make_other_content(fleet: Fleet) -> None:
    parent = await fleet.add()
    sent = description(parent_id=parent, labels={"a": "1", "b": "2"}, services=[debug_port(1), debug_port(2)])
    first = await fleet.caller.tries.TryAddInstance(sent)
    again = description(
        sent.instance_id.upper(),
        parent_id=parent.upper(),
        labels={"b": "2", "a": "1"},
        services=[debug_port(2), debug_port(1), debug_port(2)],
    )
    assert await fleet.caller.tries.TryAddInstance(again) == first


@pytest.mark.parametrize(
    "other",
    [
        {"instance_type": pb.VLLM},
        {"hostname": "other"},
        {"labels": {"a": "2"}},
        {"labels": {}},
        {"services": []},
        {"services": [debug_port(path="/other")]},
        {"timeout_ms": 31_000},
        {"timeout_ms": 0},
    ],
    ids=str,
)
async def test_an_id_registered_with_other_content_is_taken(fleet: Fleet, other: dict[str, Any]) -> None:
    content: dict[str, Any] = {
        "hostname": "one",
        "labels": {"a": "1"},
        "services": [debug_port()],
        "timeout_ms": 30_000,
    }
    instance = await fleet.add(**content)
    answer = await fleet.caller.tries.TryAddInstance(description(instance, **{**content, **other}))
    assert answer == refused(pb.REASON_ID_TAKEN)


async def test_a_dead_id_is_dead_before_it_is_taken_and_whoever_the_parent_is(fleet: Fleet) -> None:
    for instance in (await dead(fleet), await orphan(fleet)):
        for sent in (
            description(instance),
            description(instance, hostname="other"),
            description(instance, parent_id=unknown()),
            description(instance, parent_id=await dead(fleet)),
        ):
            assert await fleet.caller.tries.TryAddInstance(sent) == refused(pb.REASON_DEAD)


async def test_an_id_is_taken_before_its_new_parent_is_looked_at(fleet: Fleet) -> None:
    instance = await fleet.add()
    for parent in (unknown(), await dead(fleet)):
        answer = await fleet.caller.tries.TryAddInstance(description(instance, parent_id=parent))
        assert answer == refused(pb.REASON_ID_TAKEN)


async def test_a_registration_under_an_unknown_parent_is_refused(fleet: Fleet) -> None:
    answer = await fleet.caller.tries.TryAddInstance(description(parent_id=unknown()))
    assert answer == refused(pb.REASON_UNKNOWN_PARENT)


async def test_nobody_is_registered_as_its_own_parent(fleet: Fleet) -> None:
    own = unknown()
    answer = await fleet.caller.tries.TryAddInstance(description(own, parent_id=own))
    assert answer == refused(pb.REASON_UNKNOWN_PARENT)


async def test_a_registration_under_a_dead_parent_is_refused(fleet: Fleet) -> None:
    for parent in (await dead(fleet), await orphan(fleet)):
        answer = await fleet.caller.tries.TryAddInstance(description(parent_id=parent))
        assert answer == refused(pb.REASON_PARENT_DEAD)


async def test_a_refused_registration_may_be_sent_again_once_the_parent_is_there(fleet: Fleet) -> None:
    parent = unknown()
    sent = description(parent_id=parent)
    assert not (await fleet.caller.tries.TryAddInstance(sent)).value
    await fleet.add(parent)
    assert (await fleet.caller.tries.TryAddInstance(sent)).value


async def test_of_two_registrations_of_one_id_at_once_one_is_taken(fleet: Fleet) -> None:
    instance = unknown()
    sent = [description(instance, hostname=host) for host in ("one", "two") for _ in range(5)]
    answers = await asyncio.gather(*(fleet.caller.tries.TryAddInstance(each) for each in sent))
    winner = (await fleet.get(instance)).hostname
    for each, answer in zip(sent, answers, strict=True):
        assert answer.value == (each.hostname == winner)
        assert answer.reason == (pb.REASON_UNSPECIFIED if answer.value else pb.REASON_ID_TAKEN)


async def test_a_manager_has_no_children_in_the_fleet(fleet: Fleet) -> None:
    manager, instance = fleet.serving.instance_id, await fleet.add()
    for call in (
        fleet.caller.tries.TryAddInstance(description(parent_id=manager)),
        fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=manager, child_id=instance)),
    ):
        answer = await refusal(call)
        assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["parent_id"])


# TryUpdateInstance


async def test_an_update_replaces_hostname_labels_timeout_and_type_and_nothing_else(fleet: Fleet) -> None:
    parent = await fleet.add()
    instance = await fleet.add(
        instance_type=pb.WARMPOOL_CHROME_BROWSER,
        hostname="old",
        labels={"a": "1", "b": "2"},
        parent_id=parent,
        services=[debug_port()],
        timeout_ms=5000,
    )
    before = await fleet.get(instance)
    answer = await fleet.caller.tries.TryUpdateInstance(
        description(
            instance,
            hostname="new",
            labels={"c": "3"},
            timeout_ms=6000,
            parent_id=await fleet.add(),
            services=[debug_port(1)],
            status=pb.STATUS_DEAD,
            created_at_ms=1,
            created_revision=1,
            died_at_ms=1,
        )
    )
    assert answer == done(await fleet.head())
    after = await fleet.get(instance)
    assert after.updated_revision == answer.revision
    expected = pb.InstanceDescription()
    expected.CopyFrom(before)
    expected.MergeFrom(
        pb.InstanceDescription(
            instance_type=pb.CHROME_BROWSER, hostname="new", timeout_ms=6000, updated_revision=answer.revision
        )
    )
    expected.ClearField("labels")
    expected.labels["c"] = "3"
    assert after == expected


async def test_an_update_without_a_timeout_gives_back_the_types(fleet: Fleet) -> None:
    instance = await fleet.add(timeout_ms=5000)
    await fleet.caller.tries.TryUpdateInstance(description(instance, instance_type=pb.VLLM))
    assert (await fleet.get(instance)).timeout_ms == 60_000


async def test_an_update_to_what_it_is_already_changes_nothing(fleet: Fleet) -> None:
    instance = await fleet.add(hostname="same")
    head = await fleet.head()
    answer = await fleet.caller.tries.TryUpdateInstance(description(instance, hostname="same"))
    assert answer == done((await fleet.get(instance)).updated_revision)
    assert await fleet.head() == head


async def test_a_repeated_update_gives_the_first_answer(fleet: Fleet) -> None:
    instance = await fleet.add()
    known = (await fleet.get(instance)).updated_revision
    sent = description(instance, hostname="new", updated_revision=known)
    first = await fleet.caller.tries.TryUpdateInstance(sent)
    assert first == done(await fleet.head())
    assert await fleet.caller.tries.TryUpdateInstance(sent) == first
    assert await fleet.head() == first.revision


async def test_an_update_of_an_older_version_is_a_conflict(fleet: Fleet) -> None:
    instance = await fleet.add()
    known = (await fleet.get(instance)).updated_revision
    await fleet.caller.tries.TryUpdateInstance(description(instance, hostname="first", updated_revision=known))
    answer = await fleet.caller.tries.TryUpdateInstance(
        description(instance, hostname="second", updated_revision=known)
    )
    assert answer == refused(pb.REASON_CONFLICT)
    assert (await fleet.get(instance)).hostname == "first"


async def test_an_update_of_the_unknown_and_the_dead_is_refused_before_any_conflict(fleet: Fleet) -> None:
    answer = await fleet.caller.tries.TryUpdateInstance(description(updated_revision=1))
    assert answer == refused(pb.REASON_UNKNOWN_INSTANCE)
    for instance in (await dead(fleet), await orphan(fleet)):
        answer = await fleet.caller.tries.TryUpdateInstance(description(instance, hostname="x", updated_revision=1))
        assert answer == refused(pb.REASON_DEAD)


# TryKillInstance


async def test_a_kill_takes_all_descendants_in_one_revision_and_leaves_the_rest(fleet: Fleet) -> None:
    above, aimed, child, grandchild = await fleet.chain(4)
    revision = await fleet.kill(aimed)
    assert revision == await fleet.head()
    statement = "select instance_id::text from event where revision = $1 order by ordinal"
    victims = [row["instance_id"] for row in await fleet.database.run(statement, revision)]
    assert victims == [aimed, child, grandchild]
    for victim in victims:
        found = await fleet.describe(victim)
        assert (found.status, found.root_cause_id) == (pb.STATUS_DEAD, aimed)
        assert found.death_cause == (pb.CAUSE_KILLED if victim == aimed else pb.CAUSE_PARENT_DIED)
        assert found.died_at_ms >= found.created_at_ms
    assert (await fleet.get(above)).status == pb.STATUS_HEALTHY


async def test_a_repeated_kill_gives_the_first_answer_also_after_the_parent_died(fleet: Fleet) -> None:
    parent, child = await fleet.chain(2)
    of_child = await fleet.kill(child, "first")
    of_parent = await fleet.kill(parent)
    head = await fleet.head()
    assert [await fleet.kill(child, "again"), await fleet.kill(parent)] == [of_child, of_parent]
    assert await fleet.head() == head
    assert (await fleet.caller.fleet.DescribeInstance(request(child))).note == "first"


async def test_kills_of_one_instance_at_once_are_one_kill(fleet: Fleet) -> None:
    instance = await fleet.add()
    assert set(await asyncio.gather(*(fleet.kill(instance) for _ in range(10)))) == {await fleet.head()}


async def test_a_kill_of_the_unknown_is_refused(fleet: Fleet) -> None:
    answer = await fleet.caller.tries.TryKillInstance(pb.KillRequest(instance_id=unknown()))
    assert answer == refused(pb.REASON_UNKNOWN_INSTANCE)


async def test_a_kill_of_what_died_otherwise_is_refused(fleet: Fleet) -> None:
    answer = await fleet.caller.tries.TryKillInstance(pb.KillRequest(instance_id=await orphan(fleet)))
    assert answer == refused(pb.REASON_DEAD)


# TryHealthCheck


async def test_a_living_instance_keeps_running_and_its_time_is_recorded(fleet: Fleet) -> None:
    instance = await fleet.add()
    back = "update heartbeat set last_seen = last_seen - interval '10 s' where instance_id = $1"
    await fleet.database.run(back, instance)
    before = (await fleet.get(instance)).last_health_check_ms
    assert await fleet.caller.tries.TryHealthCheck(request(instance)) == done()
    assert (await fleet.get(instance)).last_health_check_ms - before >= 10_000


async def test_who_is_unknown_or_dead_must_terminate(fleet: Fleet) -> None:
    assert await fleet.caller.tries.TryHealthCheck(request(unknown())) == refused(pb.REASON_UNKNOWN_INSTANCE)
    for instance in (await dead(fleet), await orphan(fleet)):
        assert await fleet.caller.tries.TryHealthCheck(request(instance)) == refused(pb.REASON_DEAD)


async def test_whom_a_restored_database_does_not_know_is_to_register_again_and_not_to_terminate(lone: Fleet) -> None:
    known, gone, lost = await lone.add(), await dead(lone), unknown()
    await lone.restore()
    for _ in range(2):
        answer = await refusal(lone.caller.tries.TryHealthCheck(request(lost)))
        assert (answer.code, answer.reasons) == (grpc.StatusCode.FAILED_PRECONDITION, ["EPOCH_CHANGED"])
        assert "register" in answer.message
    assert await lone.caller.tries.TryHealthCheck(request(known)) == done()
    assert await lone.caller.tries.TryHealthCheck(request(gone)) == refused(pb.REASON_DEAD)
    assert await lone.add(lost) == lost
    assert await lone.caller.tries.TryHealthCheck(request(lost)) == done()


async def test_after_a_kill_was_answered_nobody_below_is_told_to_keep_running(fleet: Fleet) -> None:
    ids = await fleet.chain(5)
    await fleet.kill(ids[0])
    answers = await asyncio.gather(*(fleet.caller.tries.TryHealthCheck(request(each)) for each in ids))
    assert answers == [refused(pb.REASON_DEAD)] * 5


# TryAddChild


async def test_a_link_is_one_revision_and_a_repeat_gives_the_first_answer(fleet: Fleet) -> None:
    parent, child = await fleet.add(), await fleet.add()
    sent = pb.AddChildRequest(parent_id=parent, child_id=child)
    first = await fleet.caller.tries.TryAddChild(sent)
    assert first == done(await fleet.head())
    rows = await fleet.database.run("select type from event_log where revision = $1 order by ordinal", first.revision)
    assert [row["type"] for row in rows] == ["CHILD_ADDED", "PARENT_ADDED"]
    assert await fleet.caller.tries.TryAddChild(sent) == first
    assert await fleet.head() == first.revision
    assert (await fleet.get(child)).parent_id == parent


async def test_a_link_made_by_the_registration_is_the_same_link(fleet: Fleet) -> None:
    parent, child = await fleet.chain(2)
    answer = await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=parent, child_id=child))
    assert answer == done((await fleet.get(child)).created_revision)


async def test_a_link_with_the_unknown_is_refused_before_death_is_looked_at(fleet: Fleet) -> None:
    living, gone = await fleet.add(), await dead(fleet)
    for pair in (
        (living, unknown()),
        (unknown(), living),
        (gone, unknown()),
        (unknown(), gone),
        (unknown(), unknown()),
    ):
        answer = await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=pair[0], child_id=pair[1]))
        assert answer == refused(pb.REASON_UNKNOWN_INSTANCE)


async def test_a_link_with_the_dead_is_refused_before_other_parents_are_looked_at(fleet: Fleet) -> None:
    (_, linked), gone = await fleet.chain(2), await dead(fleet)
    for pair in ((gone, linked), (linked, gone), (gone, gone), (linked, await orphan(fleet))):
        answer = await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=pair[0], child_id=pair[1]))
        assert answer == refused(pb.REASON_DEAD)


async def test_a_child_has_one_parent_for_life_before_a_ring_is_looked_for(fleet: Fleet) -> None:
    top, middle, bottom = await fleet.chain(3)
    for pair in ((await fleet.add(), bottom), (top, bottom), (bottom, middle), (middle, middle)):
        answer = await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=pair[0], child_id=pair[1]))
        assert answer == refused(pb.REASON_HAS_PARENT)


async def test_a_link_that_closes_a_ring_is_refused(fleet: Fleet) -> None:
    top, _, bottom = await fleet.chain(3)
    for pair in ((bottom, top), (top, top)):
        answer = await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=pair[0], child_id=pair[1]))
        assert answer == refused(pb.REASON_CYCLE)


async def test_of_links_that_close_a_ring_together_one_is_refused(fleet: Fleet) -> None:
    ids = [await fleet.add() for _ in range(4)]
    pairs = zip(ids, ids[1:] + ids[:1], strict=True)
    answers = await asyncio.gather(
        *(fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=a, child_id=b)) for a, b in pairs)
    )
    assert sorted(answer.reason for answer in answers) == [0, 0, 0, pb.REASON_CYCLE]


# TryAddService


async def test_a_service_is_one_revision_and_a_repeat_gives_the_first_answer(fleet: Fleet) -> None:
    sent = pb.AddServiceRequest(instance_id=await fleet.add(), service=debug_port(path="/devtools/browser/1"))
    first = await fleet.caller.tries.TryAddService(sent)
    assert first == done(await fleet.head())
    other = pb.AddServiceRequest(instance_id=sent.instance_id, service=debug_port(path="/devtools/browser/2"))
    await fleet.caller.tries.TryAddService(other)
    assert await fleet.caller.tries.TryAddService(sent) == first
    assert list((await fleet.get(sent.instance_id)).services) == [sent.service, other.service]


async def test_a_service_given_at_registration_is_the_same_service(fleet: Fleet) -> None:
    instance = await fleet.add(services=[debug_port()])
    answer = await fleet.caller.tries.TryAddService(pb.AddServiceRequest(instance_id=instance, service=debug_port()))
    assert answer == done((await fleet.get(instance)).created_revision)


async def test_a_service_of_the_unknown_and_the_dead_is_refused(fleet: Fleet) -> None:
    sent = pb.AddServiceRequest(instance_id=unknown(), service=debug_port())
    assert await fleet.caller.tries.TryAddService(sent) == refused(pb.REASON_UNKNOWN_INSTANCE)
    for instance in (await dead(fleet), await orphan(fleet)):
        sent.instance_id = instance
        assert await fleet.caller.tries.TryAddService(sent) == refused(pb.REASON_DEAD)


async def test_the_thirty_third_service_is_refused(fleet: Fleet) -> None:
    instance = await fleet.add(services=[debug_port(1 + place) for place in range(31)])
    for port in (32, 32, 1):
        sent = pb.AddServiceRequest(instance_id=instance, service=debug_port(port))
        assert (await fleet.caller.tries.TryAddService(sent)).value
    sent = pb.AddServiceRequest(instance_id=instance, service=debug_port(33))
    answer = await refusal(fleet.caller.tries.TryAddService(sent))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["service"])


# the stale


Call = Callable[[Fleet, str], Awaitable[pb.Bool]]
TRIES: dict[str, Call] = {
    "add": lambda fleet, stale: fleet.caller.tries.TryAddInstance(description(stale)),
    "add below": lambda fleet, stale: fleet.caller.tries.TryAddInstance(description(parent_id=stale)),
    "update": lambda fleet, stale: fleet.caller.tries.TryUpdateInstance(description(stale, hostname="new")),
    "kill": lambda fleet, stale: fleet.caller.tries.TryKillInstance(pb.KillRequest(instance_id=stale)),
    "check": lambda fleet, stale: fleet.caller.tries.TryHealthCheck(request(stale)),
    "service": lambda fleet, stale: fleet.caller.tries.TryAddService(
        pb.AddServiceRequest(instance_id=stale, service=debug_port())
    ),
}


@pytest.mark.parametrize("call", TRIES.values(), ids=TRIES)
async def test_the_stale_counts_as_alive_in_every_try(fleet: Fleet, call: Call) -> None:
    stale = await fleet.add()
    await fleet.age(stale)
    assert (await call(fleet, stale)).value


async def test_the_stale_may_be_linked_at_either_end(fleet: Fleet) -> None:
    top, middle, bottom = await fleet.add(), await fleet.add(), await fleet.add()
    await fleet.age(middle)
    for pair in ((top, middle), (middle, bottom)):
        answer = await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=pair[0], child_id=pair[1]))
        assert answer.value


async def test_the_stale_comes_back_by_a_health_check(fleet: Fleet) -> None:
    instance = await fleet.add()
    await fleet.age(instance)
    assert (await fleet.describe(instance)).status == pb.STATUS_STALE
    assert (await refusal(fleet.get(instance))).code == grpc.StatusCode.NOT_FOUND
    assert (await fleet.caller.tries.TryHealthCheck(request(instance))).value
    assert (await fleet.get(instance)).status == pb.STATUS_HEALTHY


async def test_a_health_check_is_told_when_to_check_again(fleet: Fleet) -> None:
    asked, instance = set(), await fleet.add()
    for _ in range(20):
        call = fleet.caller.tries.TryHealthCheck(pb.InstanceRequest(instance_id=instance))
        assert (await call).value
        asked.add(int(dict(await call.trailing_metadata())["next_check_ms"]))
    assert min(asked) >= 8_000
    assert max(asked) <= 12_000
    assert len(asked) > 10, "scattered"
