"""Messages to values. Whatever is wrong with a request is said here, naming the field; behind it nothing re-checks."""

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from math import isfinite
from operator import attrgetter
from typing import Any, Protocol, TypeVar
from uuid import UUID

from manager.domain.actor import Actor
from manager.domain.calls import Kill, Link, Offer, Registration, Update
from manager.domain.event import SEED, EventType
from manager.domain.filter import PAGE_LIMIT, Cursor, Filter, ResumeToken
from manager.domain.instance import RESERVED_LABEL, Cause, InstanceId, InstanceType, Service, ServiceType, Status
from manager.domain.metrics import GpuSample, HostStats, LlmSample, Posted, ProxySample, SystemSample
from manager.domain.refusals import InvalidRequest
from manager.pb import fleet_pb2 as fleet_pb
from manager.pb import instance_manager_pb2 as pb
from manager.pb import stats_service_pb2 as stats_pb
from manager.repository.driver import FastUUID

E = TypeVar("E", bound=IntEnum)

HOST_LENGTH = 253
TEXT_LENGTH = 1024
LABELS = 32
SERVICES = 32
MAX_COUNT = 2**63 - 1
MAX_MILLISECONDS = 253402300799999  # the end of the year 9999
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMEOUT = (1_000, 86_400_000)


def instance_id(field: str, value: str) -> InstanceId:
    """A UUID in canonical text form, in either case."""
    try:
        parsed = FastUUID(value)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != value.lower():
        raise InvalidRequest(field, "must be a UUID in text form, as 0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f")
    return InstanceId(parsed)


def optional_id(field: str, value: str) -> InstanceId | None:
    """As `instance_id`; empty for none."""
    return instance_id(field, value) if value else None


def line(field: str, value: str, most: int, *, least: int = 0) -> str:
    """Text of one line: no NUL, no control character, no lone surrogate."""
    if len(value) < least:
        raise InvalidRequest(field, "must not be empty")
    if len(value) > most:
        raise InvalidRequest(field, f"must be at most {most} characters, and has {len(value)}")
    if not value.isprintable() and any(each < " " or "\x7f" <= each <= "\x9f" for each in value):
        raise InvalidRequest(field, "must not contain control characters")
    return value


def member(field: str, kind: type[E], value: int) -> E:
    """A value of an enum that says something."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(each.name for each in kind)
        raise InvalidRequest(field, f"must be one of {known}" + ("" if value == 0 else f", and is {value}")) from None


def member_by_name(field: str, kind: type[E], name: str) -> E:
    """The same, by its name."""
    try:
        return kind[name]
    except KeyError:
        raise InvalidRequest(field, f"must be one of {', '.join(each.name for each in kind)}") from None


def moment(field: str, milliseconds: int) -> datetime:
    """Milliseconds since the epoch, up to the year 9999."""
    if not 0 <= milliseconds <= MAX_MILLISECONDS:
        raise InvalidRequest(field, "must be milliseconds since 1970, UTC, up to the year 9999")
    return EPOCH + timedelta(milliseconds=milliseconds)


def count(field: str, value: int) -> int:
    """What PostgreSQL's bigint can hold."""
    if value > MAX_COUNT:
        raise InvalidRequest(field, f"must be at most {MAX_COUNT}")
    return value


def labels(given: Mapping[str, str]) -> dict[str, str]:
    """At most 32 labels, none of the managers' own."""
    if len(given) > LABELS:
        raise InvalidRequest("labels", f"must be at most {LABELS}, and are {len(given)}")
    for key, value in given.items():
        line("labels", key, 63, least=1)
        line("labels", value, 255)
        if key.startswith(RESERVED_LABEL):
            raise InvalidRequest("labels", f"must not begin with {RESERVED_LABEL}, which names the managers' own")
    return dict(given)


def service(field: str, message: pb.Service) -> Service:
    """What an instance offers, and where."""
    if not 1 <= message.port <= 65535:
        raise InvalidRequest(f"{field}.port", f"must be 1 to 65535, and is {message.port}")
    return Service(
        type=member(f"{field}.service_type", ServiceType, message.service_type),
        host=line(f"{field}.host", message.host, HOST_LENGTH, least=1),
        port=message.port,
        path=line(f"{field}.path", message.path, TEXT_LENGTH),
    )


def services(messages: Collection[pb.Service]) -> tuple[Service, ...]:
    """At most 32 services; one that is given twice counts once."""
    return () if not messages else tuple(dict.fromkeys(several("services", messages, service, SERVICES)))


def timeout(milliseconds: int) -> timedelta | None:
    """None for the default of the type."""
    if milliseconds and not TIMEOUT[0] <= milliseconds <= TIMEOUT[1]:
        raise InvalidRequest("timeout_ms", f"must be 0, or {TIMEOUT[0]} to {TIMEOUT[1]}, and is {milliseconds}")
    return timedelta(milliseconds=milliseconds) if milliseconds else None


def _ignored(message: pb.InstanceDescription) -> None:
    """What the server fills means nothing in a request. Nonsense is refused there too: its sender has a fault."""
    optional_id("root_cause_id", message.root_cause_id)
    if message.status:
        member("status", Status, message.status)
    if message.death_cause:
        member("death_cause", Cause, message.death_cause)


def registration(message: pb.InstanceDescription, actor: Actor) -> Registration:
    """TryAddInstance."""
    _ignored(message)
    return Registration(
        id=instance_id("instance_id", message.instance_id),
        type=member("instance_type", InstanceType, message.instance_type),
        hostname=host("hostname", message.hostname),
        labels=labels(message.labels),
        parent=optional_id("parent_id", message.parent_id),
        services=services(message.services),
        timeout=timeout(message.timeout_ms),
        actor=actor,
    )


def update(message: pb.InstanceDescription, actor: Actor) -> Update:
    """TryUpdateInstance."""
    if message.updated_revision < 0:
        raise InvalidRequest("updated_revision", "must not be negative")
    _ignored(message)
    optional_id("parent_id", message.parent_id)
    services(message.services)
    return Update(
        id=instance_id("instance_id", message.instance_id),
        type=member("instance_type", InstanceType, message.instance_type),
        hostname=host("hostname", message.hostname),
        labels=labels(message.labels),
        timeout=timeout(message.timeout_ms),
        expected=message.updated_revision or None,
        actor=actor,
    )


def kill(message: pb.KillRequest, actor: Actor) -> Kill:
    """TryKillInstance."""
    return Kill(instance_id("instance_id", message.instance_id), line("note", message.note, TEXT_LENGTH), actor)


def link(message: pb.AddChildRequest, actor: Actor) -> Link:
    """TryAddChild."""
    return Link(instance_id("parent_id", message.parent_id), instance_id("child_id", message.child_id), actor)


def offer(message: pb.AddServiceRequest, actor: Actor) -> Offer:
    """TryAddService."""
    of = instance_id("instance_id", message.instance_id)
    if not message.HasField("service"):
        raise InvalidRequest("service", "must be given")
    return Offer(of, service("service", message.service), actor)


class FilterFields(Protocol):
    """What InstanceFilter and SubscribeRequest have in common."""

    id_prefix: str
    parent_id: str
    subtree_of: str

    @property
    def ids(self) -> Collection[str]: ...
    @property
    def types(self) -> Collection[int]: ...
    @property
    def service_types(self) -> Collection[int]: ...
    @property
    def hostnames(self) -> Collection[str]: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


T = TypeVar("T")
V = TypeVar("V")


def several(field: str, given: Collection[T], decode: Callable[[str, T], V], limit: int = PAGE_LIMIT) -> tuple[V, ...]:
    """Each of a repeated field, named by its place in it; `limit` of them at most."""
    if len(given) > limit:
        raise InvalidRequest(field, f"must be at most {limit}, and are {len(given)}")
    return tuple(decode(f"{field}[{place}]", each) for place, each in enumerate(given))


def wanted(message: FilterFields) -> Filter:
    """The criteria of a list or a subscription."""
    return Filter(
        ids=several("ids", message.ids, instance_id),
        id_range=id_range(message.id_prefix) if message.id_prefix else None,
        types=several("types", message.types, lambda field, each: member(field, InstanceType, each)),
        service_types=several(
            "service_types", message.service_types, lambda field, each: member(field, ServiceType, each)
        ),
        hostnames=several("hostnames", message.hostnames, host),
        labels=_wanted_labels(message.labels),
        parent=optional_id("parent_id", message.parent_id),
        subtree_of=optional_id("subtree_of", message.subtree_of),
    )


def _wanted_labels(given: Mapping[str, str]) -> dict[str, str]:
    if len(given) > LABELS:
        raise InvalidRequest("labels", f"must be at most {LABELS}, and are {len(given)}")
    return {line("labels", key, 63, least=1): line("labels", value, 255) for key, value in given.items()}


def id_range(prefix: str) -> tuple[UUID, UUID]:
    """The first and the last id whose text begins with `prefix`."""
    lowest, highest = (_filled(prefix.lower(), digit) for digit in "0f")
    if lowest is None or highest is None:
        raise InvalidRequest("id_prefix", "must be the beginning of a UUID in text form, as 0192f0c1-7a")
    return lowest, highest


def _filled(prefix: str, digit: str) -> UUID | None:
    digits = prefix.replace("-", "")
    try:
        filled = UUID(digits + digit * (32 - len(digits)))
    except ValueError:
        return None
    return filled if str(filled).startswith(prefix) else None


RESUME_TOKEN = struct.Struct("!B16sqiii")
PAGE_TOKEN = struct.Struct(f"!B16s8s{RESUME_TOKEN.size}s")


def page(message: pb.InstanceFilter | fleet_pb.InstancesAtRequest, wanted: Filter) -> tuple[int, Cursor | None]:
    """The page size (0: everything at once) and where the page begins."""
    if not 0 <= message.page_size <= PAGE_LIMIT:
        raise InvalidRequest(
            "page_size", f"must be 0 for all at once, or 1 to {PAGE_LIMIT}, and is {message.page_size}"
        )
    if not message.page_token:
        return message.page_size, None
    if not message.page_size:
        raise InvalidRequest("page_token", "must come with the page_size")
    return message.page_size, _cursor(message.page_token, wanted)


def _cursor(token: bytes, wanted: Filter) -> Cursor:
    try:
        version, after, digest, begun = PAGE_TOKEN.unpack(token)
    except struct.error:
        version = 0
    if version != 1:
        raise InvalidRequest("page_token", "must be the next_page_token of a list")
    if digest != wanted.digest:
        raise InvalidRequest("page_token", "is of a list with another filter")
    return Cursor(InstanceId(UUID(bytes=after)), resume_token("page_token", begun))


def resume_token(field: str, token: bytes) -> ResumeToken:
    """A place in the history."""
    try:
        version, epoch, *numbers = RESUME_TOKEN.unpack(token)
    except struct.error:
        version, epoch, numbers = 0, b"", []
    if version != 1 or min(numbers) < 0:
        raise InvalidRequest(field, "must be a resume_token as this service gives it")
    return ResumeToken(UUID(bytes=epoch), *numbers)


def host(field: str, value: str) -> str:
    """A host's name, or none."""
    return line(field, value, HOST_LENGTH)


def event_types(message: pb.SubscribeRequest) -> frozenset[EventType]:
    """The kinds of event that a subscriber wants; the seed's where it names none.

    SYNCED and BOOKMARK are asked for by `send_initial_state` and `send_bookmarks`; naming them here adds nothing.
    """
    marks = (pb.SYNCED, pb.BOOKMARK)
    named = several("event_types", [each for each in message.event_types if each not in marks], event_type)
    return frozenset(named) if message.event_types else SEED


def event_type(field: str, value: int) -> EventType:
    """A kind of event that there is."""
    return member(field, EventType, value)


# the fields of a sample's message, in the order of its kind's
SAMPLE: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {
    kind: attrgetter("instance_id", "timestamp_ms", *kind._fields[2:])
    for kind in (ProxySample, SystemSample, GpuSample, LlmSample)
}
MOST: Mapping[str, int] = {"gpu_index": 1023, "utilization_percent": 100}  # else MAX_COUNT


def sample(kind: type[Any], message: Any) -> Posted:
    """Post*Metrics."""
    identity, time, *values = SAMPLE[kind](message)
    of = instance_id("instance_id", identity)
    moment("timestamp_ms", time)
    for field, value in zip(kind._fields[2:], values, strict=True):
        _amount(field, value)
    return of.bytes, time, *values


def _amount(field: str, value: float) -> None:
    most = MOST.get(field, MAX_COUNT)
    if not 0 <= value <= most:  # which NaN is not either
        given = f", and is {value}" if field == "gpu_index" else ""
        raise InvalidRequest(field, f"must be at most {most}" if most == MAX_COUNT else f"must be 0 to {most}{given}")


def samples(kind: type[Any], messages: Iterable[Any]) -> list[Posted] | None:
    """Those of many messages, at least one, in half the time; None where `sample` may refuse one of them."""
    ids, times, *values = zip(*map(SAMPLE[kind], messages), strict=True)
    raw = _raw(ids)
    fit = min(times) >= 0 and max(times) <= MAX_MILLISECONDS and all(map(_fit, kind._fields[2:], values))
    return list(zip(raw, times, *values, strict=True)) if raw and fit else None


def _raw(ids: Sequence[str]) -> Sequence[bytes] | None:
    """Of UUIDs in canonical text form, all of them."""
    number, joined = len(ids), "".join(ids)
    dashes = all(joined[place::36] == "-" * number for place in (8, 13, 18, 23))
    try:
        together = bytes.fromhex(joined.replace("-", ""))  # to which blanks are nothing
    except ValueError:
        return None
    if not dashes or len(together) != 16 * number or set(map(len, ids)) != {36}:
        return None
    return [together[place : place + 16] for place in range(0, len(together), 16)]


def _fit(field: str, values: Sequence[float]) -> bool:
    # NaN is neither less nor more than another, but is what any sum with it comes to
    most = MOST.get(field, MAX_COUNT)
    return min(values) >= 0 and max(values) <= most and (field != "utilization_percent" or isfinite(sum(values)))


def stats(message: stats_pb.StatsUploadRequest) -> HostStats:
    """UploadStats."""
    if not message.HasField("stats"):
        raise InvalidRequest("stats", "must be given")
    return HostStats(
        hostname(message.hostname),
        moment("stats.timestamp_ms", message.stats.timestamp_ms),
        count("stats.used_memory_bytes", message.stats.used_memory_bytes),
        count("stats.total_memory_bytes", message.stats.total_memory_bytes),
    )


def hostname(value: str) -> str:
    """A host's name, which must be given."""
    return line("hostname", value, HOST_LENGTH, least=1)
