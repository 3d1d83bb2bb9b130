"""Whatever is wrong with a request: the exact status, the field named, nothing stored, and nothing of ours shown.

The cases come from the proto's descriptors, so that a new field is tried as soon as it is there. What a refusal may
not show is judged for every refusal alike, in `tests.wire.caller`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.pb import instance_manager_pb2 as pb
from manager.pb import stats_service_pb2 as stats_pb
from manager.presence import new_id
from tests.fuzz.strategies import REQUESTS
from tests.wire.caller import METHODS, Refused, path, singly
from tests.wire.fleet import Fleet, complete, debug_port, description

# what a message just has room for
ROOM = 2**20 - 2**14
INVALID = grpc.StatusCode.INVALID_ARGUMENT

every_method = pytest.mark.parametrize("method", METHODS, ids=path)


# where something can be wrong


@dataclass(frozen=True)
class Place:
    """A field somewhere in a request: its path as a refusal names it, and how to fill it."""

    path: str
    field: FieldDescriptor
    fill: Callable[[Any, Any], None]

    @property
    def is_id(self) -> bool:
        """Whether it holds a whole id."""
        return self.field.name in ("ids", "instance_ids", "subtree_of") or self.field.name.endswith("_id")


def places(
    kind: Descriptor, within: str = "", reach: Callable[[Any], Any] = lambda message: message
) -> Iterator[Place]:
    """Every field of a message and of those within it; the keys and the values of maps; the first of repeated ones."""
    for field in kind.fields:
        at = within + field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield Place(at, field.message_type.fields_by_name["key"], _key(reach, field.name))
            yield Place(at, field.message_type.fields_by_name["value"], _value(reach, field.name))
        elif field.message_type is not None and field.is_repeated:
            yield from places(field.message_type, f"{at}[0].", _first(reach, field.name))
        elif field.message_type is not None:
            yield from places(field.message_type, f"{at}.", _inner(reach, field.name))
        elif field.is_repeated:
            yield Place(f"{at}[0]", field, _item(reach, field.name))
        else:
            yield Place(at, field, _plain(reach, field.name))


Reach = Callable[[Any], Any]


def _plain(reach: Reach, name: str) -> Callable[[Any, Any], None]:
    return lambda message, value: setattr(reach(message), name, value)


def _item(reach: Reach, name: str) -> Callable[[Any, Any], None]:
    return lambda message, value: getattr(reach(message), name).__setitem__(0, value)


def _key(reach: Reach, name: str) -> Callable[[Any, Any], None]:
    return lambda message, value: getattr(reach(message), name).__setitem__(value, "value")


def _value(reach: Reach, name: str) -> Callable[[Any, Any], None]:
    return lambda message, value: getattr(reach(message), name).__setitem__("key", value)


def _first(reach: Reach, name: str) -> Reach:
    return lambda message: getattr(reach(message), name)[0]


def _inner(reach: Reach, name: str) -> Reach:
    return lambda message: getattr(reach(message), name)


def named(place: Place) -> str:
    return f"{place.path}-{place.field.name}" if place.field.name in ("key", "value") else place.path


def where(wanted: Callable[[Place], bool]) -> pytest.MarkDecorator:
    """Each such field of each method's request."""
    cases = [
        pytest.param(method, place, id=f"{path(method)} {named(place)}")
        for method in METHODS
        for place in places(method.input_type)
        if wanted(place)
    ]
    return pytest.mark.parametrize(("method", "place"), cases)


# nothing stored


@cache
def everything(tables: tuple[str, ...]) -> str:
    """One statement for the content of all tables. Of those that beat by themselves only the number of rows counts."""
    content = "(select count(*) || coalesce(md5(string_agg(t::text, '' order by t::text)), '') from {} t)"
    rows = "(select count(*)::text from {} t)"
    beating = ("heartbeat", "control")
    return "select " + ", ".join((rows if each in beating else content).format(each) for each in tables)


async def content(connection: asyncpg.Connection) -> list[str]:
    """What is stored."""
    tables = await connection.fetch(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    return list((await connection.fetchrow(everything(tuple(sorted(row["relname"] for row in tables))))).values())


@dataclass(frozen=True)
class Bench:
    """Two living instances to spoil requests about, and a look at what is stored."""

    fleet: Fleet
    one: str
    other: str
    connection: asyncpg.Connection

    def request(self, method: MethodDescriptor) -> Any:
        """A right one."""
        return complete(method.input_type, self.one, self.other)

    async def refuses(self, method: MethodDescriptor, requests: Mapping[str, bytes], field: str) -> None:
        """Each of the requests is refused with the field named, and nothing is stored."""
        before = await content(self.connection)
        for what, sent in requests.items():
            answer = await singly(method, self.fleet.caller.ask(method, sent))
            assert isinstance(answer, Refused), f"{what} was answered: {answer!r}"
            assert (answer.code, answer.fields) == (INVALID, [field]), what
            assert answer.message.isprintable()
            assert len(answer.message) < 300
        if method.name == "PostMetrics":  # which takes the others
            return await self.settles()
        if method.containing_service.name == "PostService":
            await asyncio.sleep(0.1)  # two of the pulses that store metrics
        assert await content(self.connection) == before
        return None

    async def settles(self) -> None:
        """Returns once all samples that were taken are stored, which the tests after this one must not see."""
        looks: list[list[str]] = []
        async with asyncio.timeout(10):
            while len(looks) < 5 or looks[-5:] != [looks[-1]] * 5:  # half a second: ten of the pulses that store them
                await asyncio.sleep(0.1)
                looks.append(await content(self.connection))


@pytest.fixture(scope="module")
async def bench(fleet: Fleet) -> Any:
    connection = await asyncpg.connect(fleet.database.admin)
    yield Bench(fleet, await fleet.add(), await fleet.add(), connection)
    await connection.close()


def spoilt(bench: Bench, method: MethodDescriptor, place: Place, values: Sequence[Any]) -> dict[str, bytes]:
    """The right request with each of the values at the place."""
    requests = {}
    for value in values:
        request = bench.request(method)
        place.fill(request, value)
        requests[repr(value)[:80]] = request.SerializeToString()
    return requests


# text

is_text = where(lambda place: place.field.type == FieldDescriptor.TYPE_STRING)
CONTROL = ["\0", "a\0b", "a\x01", "\n", "a\tb", "\x1b[31m", "\x7f", "\x85", "\x9f"]


@is_text
async def test_text_with_control_characters_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    await bench.refuses(method, spoilt(bench, method, place, CONTROL), place.path)


@is_text
async def test_text_that_fills_a_message_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    long = ["x" * ROOM, "\N{GRINNING FACE}" * (ROOM // 4), "0" * ROOM]
    await bench.refuses(method, spoilt(bench, method, place, long), place.path)


NOT_UTF8 = [b"\xff\xff\xff\xff", b"ab\xc3\x28", b"\xed\xa0\x80a", b"\xc0\x80\xc0\x80", b"\xf5\x80\x80\x80", b"abc\xe2"]


@is_text
async def test_text_that_is_not_utf8_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    request = bench.request(method)
    place.fill(request, "^^^^")
    right: bytes = request.SerializeToString()
    assert right.count(b"^^^^") == 1
    await bench.refuses(method, {repr(wrong): right.replace(b"^^^^", wrong) for wrong in NOT_UTF8}, place.path)


LIMITS = {"hostname": 253, "hostnames": 253, "host": 253, "path": 1024, "note": 1024, "key": 63, "value": 255}


@where(lambda place: place.field.name in LIMITS)
async def test_text_over_its_limit_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    over = LIMITS[place.field.name] + 1
    long = ["x" * over, "\N{GRINNING FACE}" * over]
    await bench.refuses(method, spoilt(bench, method, place, long), place.path)


def test_every_text_has_a_limit_or_is_an_id() -> None:
    texts = [
        place
        for method in METHODS
        for place in places(method.input_type)
        if place.field.type == place.field.TYPE_STRING
    ]
    without = {place.path for place in texts if place.field.name not in LIMITS and not place.is_id}
    assert without == {"id_prefix"}


# ids

ID = "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f"
NO_IDS = [
    "x",
    "{" + ID + "}",
    "urn:uuid:" + ID,
    ID.replace("-", ""),
    ID[:-1],
    ID + "0",
    " " + ID,
    ID + " ",
    ID[:35] + "g",
    ID.replace("-", "_"),
    ID.replace("-", "\u2010"),
    ID.replace("0", "\u0660"),
    ID.replace("0", "\uff10"),
    "0192f0c17-a3e-7bbb-8d4e-3a2b1c0d9e8f",
    "0192f0c1-7a3e7bbb-8d4e-3a2b1c0d9e8f-",
    "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d_9e8",
    "0x92f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f",
    "+192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f",
    "-" * 36,
    "null",
    "'; drop table instance; --",
]


@where(lambda place: place.is_id)
async def test_what_is_no_id_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    await bench.refuses(method, spoilt(bench, method, place, NO_IDS), place.path)


OPTIONAL = {"parent_id": {"InstanceDescription", "InstanceFilter", "InstancesAtRequest", "SubscribeRequest"}}
NEVER_NEEDED = ("subtree_of", "root_cause_id")


def is_needed(place: Place) -> bool:
    within = place.field.containing_type
    optional = within is not None and within.name in OPTIONAL.get(place.field.name, set())
    return place.is_id and place.field.name not in NEVER_NEEDED and not optional


@where(is_needed)
async def test_an_id_that_is_missing_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    await bench.refuses(method, spoilt(bench, method, place, [""]), place.path)


NO_PREFIXES = [
    "-",
    "g",
    ID + "0",
    "{0192",
    "urn:",
    "0192f0c17",
    "0192f0c1--",
    "\u0660",
    "019 ",
    "%",
    "_",
    "0192f0c1-7a3e7",
]


@where(lambda place: place.field.name == "id_prefix")
async def test_what_no_id_begins_with_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    await bench.refuses(method, spoilt(bench, method, place, NO_PREFIXES), place.path)


@pytest.mark.parametrize("version", ["v1", "v4", "v7", "nil", "max"])
async def test_an_id_of_any_version_is_accepted_in_either_case_and_given_in_lower(fleet: Fleet, version: str) -> None:
    made = {
        "v1": "c232ab00-9414-11ec-b3c8-9f6bdeced846",
        "v4": "919108f7-52d1-4320-9bac-f847db4148a8",
        "v7": str(new_id()),
        "nil": "00000000-0000-0000-0000-000000000000",
        "max": "ffffffff-ffff-ffff-ffff-ffffffffffff",
    }[version]
    parent = await fleet.add()
    await fleet.add(made.upper(), parent_id=parent.upper())
    found = await fleet.get(made.swapcase())
    assert (found.instance_id, found.parent_id) == (made, parent)
    listed = await fleet.caller.gets.GetAllInstances(pb.InstanceFilter(ids=[made.upper()], subtree_of=parent.upper()))
    assert [each.instance_id for each in listed.instances] == [made]
    assert (await fleet.describe(made.upper())).instance_id == made


# enums


def is_enum(place: Place) -> bool:
    return place.field.enum_type is not None


@where(is_enum)
async def test_an_enum_out_of_range_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    assert place.field.enum_type is not None
    after = max(place.field.enum_type.values_by_number) + 1
    wrong = [after, 99, -1, 2**31 - 1, -(2**31)]
    await bench.refuses(method, spoilt(bench, method, place, wrong), place.path)


@where(lambda place: is_enum(place) and place.field.name not in ("status", "death_cause"))
async def test_an_enum_that_says_nothing_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    await bench.refuses(method, spoilt(bench, method, place, [0]), place.path)


# numbers

COUNTS = (FieldDescriptor.TYPE_UINT64,)
BEYOND = [2**63, 2**64 - 1]


@where(lambda place: place.field.type in COUNTS)
async def test_a_count_beyond_63_bits_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    await bench.refuses(method, spoilt(bench, method, place, BEYOND), place.path)


WRONG_NUMBERS: dict[str, list[float]] = {
    "port": [0, 65536, 2**32 - 1],
    "timeout_ms": [1, 999, 86_400_001, -1, 2**63 - 1, -(2**63)],
    "timestamp_ms": [-1, -(2**63), 253402300800000, 2**63 - 1],
    "gpu_index": [1024, 2**32 - 1],
    "utilization_percent": [float("nan"), float("inf"), float("-inf"), -0.1, 100.1, 1e308],
    "page_size": [-1, 10_001, 2**31 - 1, -(2**31)],
    "revision": [-1, 2**62, 2**63 - 1],
    "time_ms": [-1, 253402300800000],
    "from_ms": [-1, 253402300800000],
    "to_ms": [-1, 253402300800000],
    "from_revision": [-1, 2**62, 2**63 - 1],
    "to_revision": [-1, 2**62, 2**63 - 1],
    "max_points": [-1, 2_001, 2**31 - 1],
}


@where(lambda place: place.field.name in WRONG_NUMBERS)
async def test_a_number_out_of_range_is_refused(bench: Bench, method: MethodDescriptor, place: Place) -> None:
    await bench.refuses(method, spoilt(bench, method, place, WRONG_NUMBERS[place.field.name]), place.path)


async def test_an_update_of_a_negative_revision_is_refused(bench: Bench) -> None:
    update = method_of("TryUpdateInstance")
    (place,) = (each for each in places(update.input_type) if each.path == "updated_revision")
    await bench.refuses(update, spoilt(bench, update, place, [-1, -(2**63)]), "updated_revision")


# the number of things, and what is missing


def method_of(name: str) -> MethodDescriptor:
    return next(each for each in METHODS if each.name == name)


def takes(kind: str) -> pytest.MarkDecorator:
    """Each method with such a request."""
    return pytest.mark.parametrize(
        "method", [each for each in METHODS if each.input_type.name == kind], ids=lambda method: path(method)
    )


@takes("InstanceDescription")
async def test_too_many_labels_or_labels_of_the_managers_are_refused(bench: Bench, method: MethodDescriptor) -> None:
    for labels in (
        {str(place): "" for place in range(33)},
        {"": "value"},
        {"instance-manager/version": "9"},
        {"instance-manager/": ""},
    ):
        sent = description(labels=labels).SerializeToString()
        await bench.refuses(method, {repr(labels): sent}, "labels")


@takes("InstanceDescription")
async def test_too_many_services_are_refused(bench: Bench, method: MethodDescriptor) -> None:
    sent = description(services=[debug_port(1 + place) for place in range(33)]).SerializeToString()
    await bench.refuses(method, {"33 services": sent}, "services")


@takes("InstanceDescription")
async def test_a_service_without_a_host_is_refused_by_its_place(bench: Bench, method: MethodDescriptor) -> None:
    sent = description(services=[debug_port(), debug_port(host="")]).SerializeToString()
    await bench.refuses(method, {"no host": sent}, "services[1].host")


@pytest.mark.parametrize("name", ["GetAllInstances", "SubscribeToInstanceUpdates"])
@pytest.mark.parametrize(
    "criteria",
    [
        {"ids": [ID] * 10_001},
        {"hostnames": ["x"] * 10_001},
        {"types": [pb.VLLM] * 10_001},
        {"service_types": [pb.CHROME_DEBUG_PORT] * 10_001},
        {"labels": {str(place): "" for place in range(33)}},
        {"labels": {"": ""}},
    ],
    ids=lambda criteria: next(iter(criteria)),
)
async def test_a_filter_of_too_much_is_refused(bench: Bench, name: str, criteria: dict[str, Any]) -> None:
    method = method_of(name)
    sent = GetMessageClass(method.input_type)(**criteria).SerializeToString()
    await bench.refuses(method, {"too much": sent}, next(iter(criteria)))


@pytest.mark.parametrize(
    ("name", "sent", "field"),
    [
        ("TryAddInstance", b"", "instance_id"),
        ("TryAddInstance", pb.InstanceDescription(instance_id=ID).SerializeToString(), "instance_type"),
        ("TryUpdateInstance", b"", "instance_id"),
        ("TryUpdateInstance", pb.InstanceDescription(instance_id=ID).SerializeToString(), "instance_type"),
        ("TryAddService", pb.AddServiceRequest(instance_id=ID).SerializeToString(), "service"),
        (
            "TryAddService",
            pb.AddServiceRequest(instance_id=ID, service=pb.Service()).SerializeToString(),
            "service.port",
        ),
        ("UploadStats", stats_pb.StatsUploadRequest(hostname="host").SerializeToString(), "stats"),
        ("UploadStats", stats_pb.StatsUploadRequest(stats=stats_pb.Stats()).SerializeToString(), "hostname"),
        ("GetStats", b"", "hostname"),
    ],
)
async def test_what_is_missing_is_named(bench: Bench, name: str, sent: bytes, field: str) -> None:
    await bench.refuses(method_of(name), {"missing": sent}, field)


@pytest.mark.parametrize("token", [b"x", b"\0" * 100, b"\xff" * 37, b"\x01" + b"\xff" * 36])
async def test_what_is_no_resume_token_is_refused(bench: Bench, token: bytes) -> None:
    sent = pb.SubscribeRequest(resume_token=token).SerializeToString()
    await bench.refuses(method_of("SubscribeToInstanceUpdates"), {"token": sent}, "resume_token")


# bytes


@every_method
async def test_bytes_that_are_no_message_are_refused(bench: Bench, method: MethodDescriptor) -> None:
    right: bytes = bench.request(method).SerializeToString()
    wrong = [
        right[:-1],
        right + b"\xff",
        b"\xff" * 20,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x05abc",
        b"\x00",
        b"\x0b" * 200,
        b"\x80" * 11,
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"instance_id": "x"}',
    ]
    await bench.refuses(method, {repr(each)[:80]: each for each in wrong}, "")


@every_method
async def test_a_request_cut_off_anywhere_never_ends_in_a_fault_of_ours(bench: Bench, method: MethodDescriptor) -> None:
    request = complete(method.input_type, str(new_id()), str(new_id()))
    whole: bytes = request.SerializeToString()
    if method.server_streaming:
        whole = whole[:0]
    for length in range(len(whole)):
        await tolerated(bench, method, whole[:length])


async def test_fields_of_a_newer_contract_are_not_minded(fleet: Fleet) -> None:
    newer = b"\xc2\x3e\x03new" + b"\xc8\x3e\x07"
    sent = description()
    add = method_of("TryAddInstance")
    answer = pb.Bool.FromString(await fleet.caller.ask(add, sent.SerializeToString() + newer))
    assert answer.value
    assert (await fleet.get(sent.instance_id)).status == pb.STATUS_HEALTHY


# at random

TOLERATED = {INVALID, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}


async def tolerated(bench: Bench, method: MethodDescriptor, sent: bytes) -> None:
    """The request is answered, or refused for what is wrong with it."""
    answer = await singly(method, bench.fleet.caller.ask(method, sent))
    if isinstance(answer, Refused):
        assert answer.code in TOLERATED, answer
        assert answer.fields or answer.code != INVALID, answer


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sent=REQUESTS)
async def test_no_message_at_all_ends_in_a_fault_of_ours(bench: Bench, sent: tuple[MethodDescriptor, Message]) -> None:
    method, request = sent
    await tolerated(bench, method, request.SerializeToString())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(method=st.sampled_from(METHODS), content=st.binary(min_size=1, max_size=60))
async def test_no_bytes_at_all_end_in_a_fault_of_ours(bench: Bench, method: MethodDescriptor, content: bytes) -> None:
    if not method.server_streaming:
        await tolerated(bench, method, content)
