"""Messages of the contract as documents: its names in snake_case, 64-bit integers as text, times in RFC 3339."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from manager.cli.table import rfc3339

# the other fields in `_ms` are times, and lose that ending with their number
DURATIONS = frozenset({"timeout_ms", "retry_after_ms", "next_check_ms"})


def document(message: Message) -> dict[str, Any]:
    """The whole message; fields without a value are there too, so that who reads it need not ask whether."""
    from google.protobuf.json_format import MessageToDict

    told = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return dict(map(_field, told.items()))


def _field(item: tuple[str, Any]) -> tuple[str, Any]:
    name, value = item
    if name.endswith("_ms") and name not in DURATIONS:
        told = moment(int(value))
        return name.removesuffix("_ms"), None if told is None else rfc3339(told)
    if name == "labels":
        return name, dict(sorted(value.items()))
    return name, _inside(value)


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(map(_field, value.items()))
    return [_inside(each) for each in value] if isinstance(value, list) else value


def moment(milliseconds: int) -> datetime | None:
    """A time of the contract; None for the 0 that says nothing."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
