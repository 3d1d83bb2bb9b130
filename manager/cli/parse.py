"""What people write on the command line, read into the contract's messages. All raise typer.BadParameter."""

import typer

from manager.client.address import address
from manager.pb.instance_manager_pb2 import CHROME_DEBUG_PORT, InstanceType, Service, ServiceType

LOOPBACK = "127.0.0.1"


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
    names = [each for each, number in ServiceType.items() if number]
    if name.upper() not in names:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(names)}: write NAME=port or NAME=host:port/path")
    kind = ServiceType.Value(name.upper())
    where, slash, path = place.partition("/")
    if where.isdigit():
        where = f"{LOOPBACK if kind == CHROME_DEBUG_PORT else hostname}:{where}"
    elif ":" not in where.rpartition("]")[2]:
        raise typer.BadParameter(f"{text!r} names no port: write NAME=port or NAME=host:port/path")
    return placed(kind, where, slash + path)


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


def addresses(text: str) -> tuple[str, ...]:
    """One address or several, with commas between."""
    try:
        return tuple(str(address(part)) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
