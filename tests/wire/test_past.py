"""GetInstancesAt and Diff, as a client sees them."""

from typing import Any

import grpc
import pytest

from manager.pb import fleet_pb2 as fleet_pb
from manager.pb import instance_manager_pb2 as pb
from manager.wire import past
from tests.wire.caller import refusal
from tests.wire.fleet import Fleet, debug_port


async def at(fleet: Fleet, size: int = 0, **asked: Any) -> tuple[int, list[pb.InstanceDescription]]:
    """The revision, and the instances of all pages."""
    found: list[pb.InstanceDescription] = []
    token = b""
    while True:
        request = fleet_pb.InstancesAtRequest(page_size=size, page_token=token, **asked)
        page = await fleet.caller.fleet.GetInstancesAt(request)
        assert len(page.instances) <= (size or 10_000)
        found.extend(page.instances)
        token = page.next_page_token
        if not token:
            return page.revision, found


async def diff(fleet: Fleet, size: int = 0, **asked: Any) -> dict[str, fleet_pb.Difference]:
    found: dict[str, fleet_pb.Difference] = {}
    token = b""
    while True:
        page = await fleet.caller.fleet.Diff(fleet_pb.DiffRequest(page_size=size, page_token=token, **asked))
        assert len(page.differences) <= (size or 1_000)
        found |= {each.instance_id: each for each in page.differences}
        token = page.next_page_token
        if not token:
            return found


async def head(fleet: Fleet) -> int:
    return int(await fleet.database.value("select max(revision) from event"))


async def test_the_fleet_is_given_as_it_was_with_links_services_and_content_of_then(fleet: Fleet) -> None:
    parent = await fleet.add(hostname="before", services=[debug_port(1)])
    child = await fleet.add(parent_id=parent)
    then = await head(fleet)
    _, before = await at(fleet, revision=then)
    await fleet.caller.tries.TryUpdateInstance(
        pb.InstanceDescription(instance_id=parent, instance_type=pb.VLLM, hostname="after")
    )
    await fleet.caller.tries.TryAddService(pb.AddServiceRequest(instance_id=parent, service=debug_port(2)))
    await fleet.kill(parent)
    revision, found = await at(fleet, revision=then)
    assert (revision, found) == (then, before)
    by_id = {each.instance_id: each for each in found}
    assert (by_id[parent].hostname, list(by_id[parent].services)) == ("before", [debug_port(1)])
    assert (by_id[child].parent_id, by_id[child].status) == (parent, pb.STATUS_HEALTHY)
    assert {each.instance_id for each in (await at(fleet, revision=then, hostnames=["before"]))[1]} == {parent}
    assert {each.instance_id for each in (await at(fleet, revision=then, subtree_of=child))[1]} == {child}


async def test_pages_are_of_one_moment_and_in_order_whatever_changes_meanwhile(fleet: Fleet) -> None:
    ids = [await fleet.add() for _ in range(7)]
    time = int(await fleet.database.value("select ceil(extract(epoch from max(at)) * 1000)::bigint from event"))
    everybody = {each.instance_id for each in (await at(fleet, time_ms=time))[1]}
    assert set(ids) <= everybody
    request = fleet_pb.InstancesAtRequest(time_ms=time, page_size=3)
    page = await fleet.caller.fleet.GetInstancesAt(request)
    await fleet.kill(ids[-1])
    await fleet.add()
    request.page_token = page.next_page_token
    rest = await fleet.caller.fleet.GetInstancesAt(request)
    assert rest.revision == page.revision
    _, found = await at(fleet, 3, time_ms=time)
    assert [each.instance_id for each in found] == sorted(everybody)


async def test_a_difference_has_both_states_and_for_the_gone_why_they_died(fleet: Fleet) -> None:
    root, child, other = await fleet.add(), await fleet.add(), await fleet.add(hostname="before")
    first = await head(fleet)
    await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=root, child_id=child))
    await fleet.caller.tries.TryUpdateInstance(
        pb.InstanceDescription(instance_id=other, instance_type=pb.CHROME_BROWSER, hostname="after")
    )
    new = await fleet.add()
    await fleet.kill(root)
    found = await diff(fleet, 2, from_revision=first)
    assert found.keys() == {root, child, other, new}
    assert not found[new].HasField("before")
    assert (found[other].before.hostname, found[other].after.hostname) == ("before", "after")
    assert (found[child].before.parent_id, found[child].before.status) == ("", pb.STATUS_HEALTHY)
    gone = found[child].after
    assert (gone.status, gone.death_cause, gone.root_cause_id) == (pb.STATUS_DEAD, pb.CAUSE_PARENT_DIED, root)
    assert await diff(fleet, from_revision=first, to_revision=first) == {}
    assert await diff(fleet, from_revision=0, to_revision=first) != {}


async def test_a_large_answer_goes_on_in_another_page(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await head(fleet)
    ids = {await fleet.add(hostname="h" * 200) for _ in range(5)}
    monkeypatch.setattr(past, "BYTES_LIMIT", 700)
    page = await fleet.caller.fleet.Diff(fleet_pb.DiffRequest(from_revision=first))
    assert 0 < len(page.differences) < 5
    assert page.next_page_token
    assert ids == (await diff(fleet, from_revision=first)).keys()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (fleet_pb.InstancesAtRequest(), "revision"),
        (fleet_pb.InstancesAtRequest(revision=10**6), "revision"),
        (fleet_pb.InstancesAtRequest(revision=1, page_token=b"x"), "page_token"),
        (fleet_pb.InstancesAtRequest(revision=1, page_size=1, page_token=b"x"), "page_token"),
        (fleet_pb.DiffRequest(), "from_revision"),
        (fleet_pb.DiffRequest(from_revision=10**6), "from_revision"),
        (fleet_pb.DiffRequest(from_revision=0, to_revision=10**6), "to_revision"),
        (fleet_pb.DiffRequest(from_revision=2, to_revision=1), "to_revision"),
        (fleet_pb.DiffRequest(from_revision=1, page_token=b"x"), "page_token"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_its_field(fleet: Fleet, asked: Any, field: str) -> None:
    await fleet.chain(3)
    call = (
        fleet.caller.fleet.GetInstancesAt if isinstance(asked, fleet_pb.InstancesAtRequest) else fleet.caller.fleet.Diff
    )
    answer = await refusal(call(asked))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_what_is_forgotten_is_out_of_range_and_names_from_where_on_it_is_known(fleet: Fleet) -> None:
    await fleet.chain(3)
    await fleet.database.run("update control set buried_revision = 3")
    for call in (
        fleet.caller.fleet.GetInstancesAt(fleet_pb.InstancesAtRequest(revision=2)),
        fleet.caller.fleet.Diff(fleet_pb.DiffRequest(from_revision=1)),
    ):
        answer = await refusal(call)
        assert answer.code == grpc.StatusCode.OUT_OF_RANGE
        assert "from revision 3 on" in answer.message
    await fleet.database.run("update control set buried_revision = 0")


async def test_a_page_of_a_history_that_was_lost_is_refused(fleet: Fleet) -> None:
    await fleet.chain(3)
    page = await fleet.caller.fleet.GetInstancesAt(fleet_pb.InstancesAtRequest(revision=3, page_size=1))
    between = await fleet.caller.fleet.Diff(fleet_pb.DiffRequest(from_revision=0, page_size=1))
    await fleet.database.run("""
        insert into history_epoch (number, system_identifier, timeline, database_oid, event_oid, base_revision, reason)
        select number + 1, system_identifier, timeline, database_oid, event_oid, base_revision, 'a test'
        from history_epoch order by number desc limit 1""")
    for call in (
        fleet.caller.fleet.GetInstancesAt(
            fleet_pb.InstancesAtRequest(revision=3, page_size=1, page_token=page.next_page_token)
        ),
        fleet.caller.fleet.Diff(fleet_pb.DiffRequest(from_revision=0, page_token=between.next_page_token)),
    ):
        assert (await refusal(call)).code == grpc.StatusCode.FAILED_PRECONDITION
