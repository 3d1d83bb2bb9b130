"""Who calls: the one place that says it, for every transport."""

from typing import Protocol
from urllib.parse import unquote

from manager.domain.actor import Actor
from manager.wire.principal import calling


class Context(Protocol):
    """As much of a call as says who makes it."""

    def peer(self) -> str:
        """The client's address, as gRPC writes it."""


def actor_of(context: Context) -> Actor:
    """Who makes this call. Made once a message, however many items it brings."""
    known = calling()
    if known is None:
        return Actor(address=context.peer())
    return Actor(known.name, known.token, context.peer())


def host_of(peer: str) -> str:
    """The host alone in a client's address: `ipv6:[::1]:4711`, or `ipv6:%5B::1%5D:4711` as gRPC's own server has it."""
    _, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]").removeprefix("::ffff:") or "unknown"
