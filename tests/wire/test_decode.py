"""The domain's words are the proto's, and what the wire admits at its limits is stored and given back."""

from enum import IntEnum
from typing import Any

import pytest

from manager.domain.calls import Reason
from manager.domain.event import EventType
from manager.domain.instance import Cause, InstanceType, ServiceType, Status
from manager.pb import instance_manager_pb2 as pb
from tests.conftest import Database
from tests.wire.fleet import Fleet, description, request

# what a subscription may be told, and the history does not hold
OF_STREAMS_ALONE = {"SYNCED", "BOOKMARK", "LEFT_FILTER"}
ENUMS: dict[type[IntEnum], Any] = {
    InstanceType: pb.InstanceType,
    ServiceType: pb.ServiceType,
    EventType: pb.EventType,
    Status: pb.Status,
    Cause: pb.Cause,
    Reason: pb.Reason,
}
BARE = {InstanceType, ServiceType, EventType}


def members(kind: type[IntEnum], wrapper: Any) -> dict[str, int]:
    """The proto's values by their names without the prefix."""
    prefix = f"{wrapper.DESCRIPTOR.name.upper()}_"
    named = {name: number for name, number in wrapper.items() if number}
    assert all(name.startswith(prefix) != (kind in BARE) for name in named)
    return {name.removeprefix(prefix): number for name, number in named.items()}


@pytest.mark.parametrize(("kind", "wrapper"), ENUMS.items(), ids=[kind.__name__ for kind in ENUMS])
def test_the_domain_and_the_proto_have_the_same_values(kind: type[IntEnum], wrapper: Any) -> None:
    known = {each.name: each.value for each in kind}
    proto = members(kind, wrapper)
    assert known.items() <= proto.items()
    assert proto.keys() - known.keys() <= OF_STREAMS_ALONE


def test_every_enum_of_the_proto_has_its_twin() -> None:
    twins = {wrapper.DESCRIPTOR.full_name for wrapper in ENUMS.values()}
    assert twins == {enum.full_name for enum in pb.DESCRIPTOR.enum_types_by_name.values()}


NAMED = {
    "instance_type_name": InstanceType,
    "service_type_name": ServiceType,
    "event_type_name": EventType,
    "cause_name": Cause,
}


@pytest.mark.parametrize(("function", "kind"), NAMED.items(), ids=NAMED)
async def test_the_database_names_every_number_as_the_domain_does(
    shared_database: Database, function: str, kind: type[IntEnum]
) -> None:
    statement = f"select {function}(cast($1 as smallint))"
    named = [await shared_database.value(statement, number) for number in range(1, len(kind) + 2)]
    stored = [each for each in kind if each.name not in OF_STREAMS_ALONE]
    assert named[: len(stored)] == [each.name for each in stored]
    assert named[len(stored)] is None


WIDE = "\N{GRINNING FACE}"


async def test_a_registration_at_every_limit_is_stored_and_given_back(fleet: Fleet) -> None:
    sent = description(
        hostname=WIDE * 253,
        labels={f"{place:02}{WIDE * 61}": WIDE * 255 for place in range(32)},
        services=[
            pb.Service(service_type=pb.CHROME_DEBUG_PORT, host=WIDE * 253, port=port, path=WIDE * 1024)
            for port in [1, 65535, *range(2, 32)]
        ],
        timeout_ms=86_400_000,
    )
    assert (await fleet.caller.tries.TryAddInstance(sent)).value
    found = await fleet.get(sent.instance_id)
    assert (found.hostname, found.labels, found.timeout_ms) == (sent.hostname, sent.labels, sent.timeout_ms)
    assert list(found.services) == list(sent.services)
    again = pb.InstanceDescription(instance_id=sent.instance_id, instance_type=pb.VLLM, timeout_ms=1000)
    assert (await fleet.caller.tries.TryUpdateInstance(again)).value
    note = WIDE * 1024
    await fleet.kill(sent.instance_id, note)
    assert (await fleet.caller.fleet.DescribeInstance(request(sent.instance_id))).note == note


@pytest.mark.parametrize("kind", InstanceType)
@pytest.mark.parametrize("timeout", [0, 1000, 86_400_000])
async def test_every_type_and_timeout_is_stored_and_listed(fleet: Fleet, kind: InstanceType, timeout: int) -> None:
    instance = await fleet.add(instance_type=kind, timeout_ms=timeout, labels={"limits": "all"})
    wanted = pb.InstanceFilter(types=[pb.InstanceType.ValueType(kind)], ids=[instance])
    (found,) = (await fleet.caller.gets.GetAllInstances(wanted)).instances
    assert int(found.instance_type) == kind
    assert found.timeout_ms == timeout or not timeout


async def test_every_event_that_was_written_names_a_type_that_the_proto_has(fleet: Fleet) -> None:
    names = {row["type"] for row in await fleet.database.run("select distinct type from event_log")}
    assert names <= set(pb.EventType.keys())


HOSTILE = [
    "'; drop table instance; --",
    '"quoted" \\ back\\u0000slash',
    "%s %(x)s {0} :name $1 ::jsonb",
    "\u202e\u200b\ufeff",
    "e\u0301 \u00e9",
    "null",
    "{}",
    " ",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_that_means_something_elsewhere_is_plain_text(fleet: Fleet, text: str) -> None:
    service = pb.Service(service_type=pb.CHROME_DEBUG_PORT, host=text, port=1, path=text)
    instance = await fleet.add(hostname=text, labels={text: text}, services=[service])
    found = await fleet.get(instance)
    assert (found.hostname, dict(found.labels), list(found.services)) == (text, {text: text}, [service])
    for wanted in (pb.InstanceFilter(hostnames=[text]), pb.InstanceFilter(labels={text: text})):
        listed = await fleet.caller.gets.GetAllInstances(wanted)
        assert [each.instance_id for each in listed.instances] == [instance]
    await fleet.kill(instance, note=text)
    assert (await fleet.caller.fleet.DescribeInstance(request(instance))).note == text
