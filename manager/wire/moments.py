"""What a request asks about the past: of which moments, of which part of the history, how far back."""

import struct
from datetime import datetime
from uuid import UUID

from manager.domain.excerpt import NEWEST, PAGE_USUAL, Bookmark, Excerpt
from manager.domain.excerpt import PAGE_LIMIT as EXCERPT_LIMIT
from manager.domain.filter import PAGE_LIMIT
from manager.domain.instance import InstanceId, InstanceType
from manager.domain.metrics import Window
from manager.domain.past import Moment, Step
from manager.domain.refusals import InvalidRequest
from manager.pb import fleet_pb2 as fleet_pb
from manager.wire import decode


def moment_at(message: fleet_pb.InstancesAtRequest) -> Moment:
    """Which moment GetInstancesAt asks about."""
    match message.WhichOneof("moment"):
        case "revision":
            return Moment(_revision("revision", message.revision), None)
        case "time_ms":
            return Moment(None, decode.moment("time_ms", message.time_ms), "time_ms")
        case _:
            raise InvalidRequest("revision", "must be given, or time_ms")


DIFF_PAGE = 1_000
DIFF_TOKEN = struct.Struct("!B16s16sqq")


def both(message: fleet_pb.DiffRequest) -> tuple[Moment, Moment]:
    """Which two moments Diff asks about."""
    match message.WhichOneof("from"):
        case "from_revision":
            first = Moment(_revision("from_revision", message.from_revision), None, "from_revision")
        case "from_ms":
            first = Moment(None, decode.moment("from_ms", message.from_ms), "from_ms")
        case _:
            raise InvalidRequest("from_revision", "must be given, or from_ms")
    match message.WhichOneof("to"):
        case "to_revision":
            return first, Moment(_revision("to_revision", message.to_revision), None, "to_revision")
        case "to_ms":
            return first, Moment(None, decode.moment("to_ms", message.to_ms), "to_ms")
        case _:
            return first, Moment(None, None, "to_ms")


def diff_page(message: fleet_pb.DiffRequest) -> tuple[int, Step | None]:
    """The page size, and where the page goes on."""
    if not 0 <= message.page_size <= PAGE_LIMIT:
        raise InvalidRequest("page_size", f"must be 1 to {PAGE_LIMIT}, or 0 for {DIFF_PAGE}")
    size = message.page_size or DIFF_PAGE
    if not message.page_token:
        return size, None
    try:
        version, epoch, after, first, last = DIFF_TOKEN.unpack(message.page_token)
    except struct.error:
        version = first = last = 0
    if version != 1 or not 0 <= first <= last < NEWEST:
        raise InvalidRequest("page_token", "must be the next_page_token of Diff")
    return size, Step(UUID(bytes=epoch), InstanceId(UUID(bytes=after)), first, last)


EXCERPT_TOKEN = struct.Struct("!B16sqi8s")


def excerpt(message: fleet_pb.EventFilter) -> tuple[Excerpt, int, Bookmark | None]:
    """The part of the history that ListEvents asks for, the page size, and where the page begins."""
    if not 0 <= message.page_size <= EXCERPT_LIMIT:
        raise InvalidRequest("page_size", f"must be 1 to {EXCERPT_LIMIT}, or 0 for {PAGE_USUAL}")
    wanted = Excerpt(
        ids=decode.several("ids", message.ids, decode.instance_id),
        types=decode.several("types", message.types, lambda field, each: decode.member(field, InstanceType, each)),
        kinds=decode.several("event_types", message.event_types, decode.event_type),
        hostnames=decode.several("hostnames", message.hostnames, decode.host),
        subtree_of=decode.optional_id("subtree_of", message.subtree_of),
        first=_revision("from_revision", message.from_revision),
        last=_revision("to_revision", message.to_revision) or NEWEST,
        since=optional_moment("from_ms", message.from_ms),
        until=optional_moment("to_ms", message.to_ms),
        oldest_first=message.oldest_first,
    )
    return wanted, message.page_size or PAGE_USUAL, _bookmark(message.page_token, wanted)


def _bookmark(token: bytes, wanted: Excerpt) -> Bookmark | None:
    if not token:
        return None
    try:
        version, epoch, revision, ordinal, digest = EXCERPT_TOKEN.unpack(token)
    except struct.error:
        version = 0
    if version != 1 or not 0 <= revision <= NEWEST:
        raise InvalidRequest("page_token", "must be the next_page_token of ListEvents")
    if digest != wanted.digest:
        raise InvalidRequest("page_token", "is of a list with another filter")
    return Bookmark(UUID(bytes=epoch), revision, ordinal)


def _revision(field: str, value: int) -> int:
    if not 0 <= value < NEWEST:
        raise InvalidRequest(field, "must be a revision, or 0")
    return value


def optional_moment(field: str, milliseconds: int) -> datetime | None:
    """As `moment`; 0 for none."""
    return decode.moment(field, milliseconds) if milliseconds else None


POINTS, POINTS_USUAL = 2_000, 300


def window(message: fleet_pb.MetricsHistoryRequest) -> Window:
    """How far GetMetricsHistory looks back, and how closely."""
    if not 0 <= message.max_points <= POINTS:
        raise InvalidRequest("max_points", f"must be 1 to {POINTS}, or 0 for {POINTS_USUAL}")
    since, until = optional_moment("from_ms", message.from_ms), optional_moment("to_ms", message.to_ms)
    if message.to_ms and message.from_ms >= message.to_ms:
        raise InvalidRequest("to_ms", "must be later than from_ms")
    return Window(since, until, message.max_points or POINTS_USUAL, message.subtree)
