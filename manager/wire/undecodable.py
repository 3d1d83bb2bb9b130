"""Bytes that are no message of their method: known before any handler sees them, with the field that is to blame."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from manager.domain.refusals import InvalidRequest

LENGTH_DELIMITED = 2
# bytes and fields, for the one that is to blame: whoever sends more of them has everybody wait while we look
LOOKED_INTO, LOOKED_AT = 64 * 1024, 1_000
NOT_UTF8 = "must be text in UTF-8"


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for a request that could not be read. `field` is to blame; empty where that is not known."""

    field: str = ""
    problem: str = "the bytes are not a message of this method's type"

    def refusal(self) -> InvalidRequest:
        """What its caller is told."""
        return InvalidRequest(self.field, self.problem)


def tolerant(method: str, deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Bad bytes become a value: an exception here would reach the log as a traceback and the client as its text."""

    def decode(content: bytes) -> Any:
        try:
            return deserializer(content)
        except DecodeError:
            asked = Default().FindMethodByName(method.strip("/").replace("/", ".")).input_type
            field = culprit(asked, content)
            return Undecodable(field, NOT_UTF8) if field else Undecodable()

    return decode


async def readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, up to one that could not be read: it raises InvalidRequest."""
    async for each in requests:
        if isinstance(each, Undecodable):
            raise each.refusal()
        yield each


def culprit(message: Descriptor, content: bytes) -> str:
    """The path of the first text that is not UTF-8, as `services[0].host`; empty where there is none, or where
    there is much to look at."""
    if len(content) > LOOKED_INTO:
        return ""
    return _culprit(message, content, iter(range(LOOKED_AT)))


def _culprit(message: Descriptor, content: bytes, looks: Iterator[int]) -> str:
    unread = Empty()
    try:
        unread.ParseFromString(content)
    except DecodeError:
        return ""
    places: Counter[int] = Counter()
    found = UnknownFieldSet(unread)
    for each, _ in zip(map(found.__getitem__, range(len(found))), looks, strict=False):
        field = message.fields_by_number.get(each.field_number)
        if field is None or each.wire_type != LENGTH_DELIMITED:
            continue
        if (below := _below(field, each.data, looks)) is not None:
            return _path(field, places[field.number]) + below
        places[field.number] += 1
    return ""


def _below(field: FieldDescriptor, content: bytes, looks: Iterator[int]) -> str | None:
    """The rest of the path within a field's content; None where the content is not to blame."""
    if field.message_type is not None:
        below = _culprit(field.message_type, content, looks)
        return None if not below else "" if field.message_type.GetOptions().map_entry else f".{below}"
    return "" if field.type == field.TYPE_STRING and not _is_utf8(content) else None


def _path(field: FieldDescriptor, place: int) -> str:
    in_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return f"{field.name}[{place}]" if field.is_repeated and not in_map else field.name


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
