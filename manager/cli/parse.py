"""What people write on the command line, read into the contract's messages. All raise typer.BadParameter."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from manager.client.address import address
from manager.pb.instance_manager_pb2 import (
    BOOKMARK,
    CHROME_DEBUG_PORT,
    STATUS_HEALTHY,
    STATUS_STALE,
    SYNCED,
    EventType,
    InstanceType,
    Service,
    ServiceType,
    Status,
)

LOOPBACK = "127.0.0.1"
REVISION_DIGITS = 19
SECONDS_OF = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def instance_type(text: str) -> InstanceType.ValueType:
    """A type by its name."""
    names = [name for name, number in InstanceType.items() if number]
    if text.upper() not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}")
    return InstanceType.Value(text.upper())


def service(text: str, hostname: str) -> Service:
    """`NAME=port`, `NAME=host:port` or `NAME=host:port/path`.

    Without a host it is `hostname`, but 127.0.0.1 for CHROME_DEBUG_PORT: Chromium's DevTools listens nowhere else.
    """
    name, _, place = text.partition("=")
    kind = service_type(name)
    where, slash, path = place.partition("/")
    if where.isdigit():
        where = f"{LOOPBACK if kind == CHROME_DEBUG_PORT else hostname}:{where}"
    elif ":" not in where.rpartition("]")[2]:
        raise typer.BadParameter(f"{text!r} names no port: write NAME=port or NAME=host:port/path")
    return placed(kind, where, slash + path)


def whole_service(text: str) -> Service:
    """`NAME=host:port` or `NAME=host:port/path`: where nobody says whose the host would be."""
    found = service(text, "")
    if text.partition("=")[2].partition("/")[0].isdigit():
        raise typer.BadParameter(f"{text!r} names no host: write NAME=host:port or NAME=host:port/path")
    return found


def service_type(text: str) -> ServiceType.ValueType:
    """A service by its name."""
    names = [each for each, number in ServiceType.items() if number]
    if text.upper() not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}")
    return ServiceType.Value(text.upper())


def status(text: str) -> Status.ValueType:
    """A state of the living by its name."""
    names = {"healthy": STATUS_HEALTHY, "stale": STATUS_STALE}
    if text.lower() not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}")
    return names[text.lower()]


def placed(kind: ServiceType.ValueType, where: str, path: str) -> Service:
    """The service at `host:port`."""
    try:
        found = address(where)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return Service(service_type=kind, host=found.host, port=found.port, path=path)


def label(text: str) -> tuple[str, str]:
    """`key=value`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is no label: write key=value")
    return key, value


def duration(text: str) -> timedelta:
    """`90`, `90s`, `15m`, `2h` or `7d`."""
    number, unit = text[:-1], text[-1:]
    if unit.isdigit():
        number, unit = text, "s"
    try:
        return timedelta(seconds=float(number) * SECONDS_OF[unit])
    except (KeyError, ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 15m, 2h or 7d") from None


def moment(text: str) -> datetime:
    """A time in RFC 3339 (UTC where it names no zone), or a duration: so long ago."""
    with suppress(typer.BadParameter, OverflowError):  # the second: from before there were years
        return datetime.now(UTC) - duration(text)
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 15m (ago), or 2026-01-31T12:00:00Z") from None
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def point(text: str) -> dict[str, Any]:
    """`@REVISION`, or a time as `moment` reads it: the fields of the contract that say the same."""
    if not text.startswith("@"):
        return {"time_ms": round(moment(text).timestamp() * 1000)}
    if not text[1:].isdecimal() or len(text) > REVISION_DIGITS:
        raise typer.BadParameter(f"{text!r} is no revision: write @120")
    return {"revision": int(text[1:])}


def event_type(text: str) -> EventType.ValueType:
    """A kind of event by its name."""
    names = [name for name, number in EventType.items() if number and number not in (SYNCED, BOOKMARK)]
    if text.upper() not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}")
    return EventType.Value(text.upper())


def addresses(text: str) -> tuple[str, ...]:
    """One address or several, with commas between."""
    try:
        return tuple(str(address(part)) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
