"""Where the managers are: what people write, and what gRPC dials."""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DEFAULT_PORT = 50052
SCHEME = "ipv6:"


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name or IP) and a port. `str()` is `host:port`, with brackets around an IPv6 host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """Reads `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; the port is 50052 unless given. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or text.strip().endswith("]") or (":" in host and not host.endswith("]")):
        host, port = text.strip(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is no address: write host:port, for example 127.0.0.1:50052 or [::1]:50052")
    return Address(host, int(port))


def targets(addresses: Sequence[Address]) -> list[str]:
    """The gRPC target of each manager.

    A single name is left to gRPC, which follows its DNS entries as they change. gRPC has no resolver for several names,
    so these are looked up here, once; those without an entry are passed over, and OSError is raised when none has one.
    """
    if len(addresses) == 1:
        return [str(addresses[0])]
    return [f"{SCHEME}{each}" for each in dict.fromkeys(resolved(addresses))]


def together(targets: Sequence[str]) -> str:
    """One target for all of them."""
    return targets[0] if len(targets) == 1 else SCHEME + ",".join(each.removeprefix(SCHEME) for each in targets)


def resolved(addresses: Iterable[Address]) -> list[Address]:
    """Every address of these hosts, IPv4 ones in their mapped form (`::ffff:10.0.0.1`) so that one list holds both."""
    found: list[Address] = []
    failure: OSError = OSError("no address was given")
    for each in addresses:
        try:
            found += [mapped(ip, each.port) for ip in lookup(each)]
        except OSError as error:
            failure = error
    if not found:
        raise failure
    return found


def lookup(host: Address) -> list[str]:
    """The IPs that the system's resolver knows of a host."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)]


def mapped(ip: str, port: int) -> Address:
    """The IPv6 form of an IP address."""
    return Address(ip if ":" in ip else f"::ffff:{ip}", port)
