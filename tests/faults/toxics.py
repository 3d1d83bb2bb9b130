"""What a network does to connections, in Toxiproxy's words. These are values; `tests.faults.proxy` acts on them."""

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

Direction = Literal["up", "down"]  # to the server, to the client


@dataclass(frozen=True, slots=True)
class Latency:
    """What arrives passes so many seconds later, more or less by up to `jitter`; the order stays."""

    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Each connection carries so many bytes a second."""

    rate: float


@dataclass(frozen=True, slots=True)
class Slicer:
    """Bytes come in pieces of `size`, more or less by up to `variation`, `delay` seconds apart."""

    size: int
    delay: float = 0.001
    variation: int = 0


@dataclass(frozen=True, slots=True)
class Timeout:
    """A black hole: what is sent is lost, ends included, and connections stay open.

    A connection that lost something is reset once this is over: no TCP goes on after a hole. One that lost nothing
    goes on, and one that was begun meanwhile comes about then, as by SYNs sent again.
    """


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing passes, and nothing is lost: it comes when this is over, as by TCP's retransmissions."""


@dataclass(frozen=True, slots=True)
class LimitData:
    """A connection ends, as if closed, after so many bytes since this is on."""

    amount: int


@dataclass(frozen=True, slots=True)
class SlowClose:
    """The end of a connection is told so many seconds late."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ResetPeer:
    """Connections, the open and the new ones, are reset (RST, not FIN) after so many seconds."""

    after: float = 0.0


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One side is gone without a word: the open connections swallow all, and neither side hears that the other closed.

    They never come back to life. Once this is over, either side's close ends them. New ones are as with Timeout.
    """


@dataclass(frozen=True, slots=True)
class Down:
    """Open connections are reset, new ones are refused."""


Toxic = Latency | Bandwidth | Slicer | Timeout | Stall | LimitData | SlowClose | ResetPeer | HalfOpen | Down
UNDIRECTED = (ResetPeer, HalfOpen, Down)
Kind = TypeVar("Kind", bound=Toxic)


@dataclass(frozen=True, eq=False)
class On:
    """A toxic in one direction, or both, and since when (seconds of the loop's clock)."""

    toxic: Toxic
    direction: Direction | None
    since: float


class Weather:
    """The toxics that are on. Who waits for a time to pass is woken by each change."""

    def __init__(self) -> None:
        self.on: list[On] = []
        self._change = asyncio.Event()

    def add(self, toxic: Toxic, direction: Direction | None) -> None:
        """Puts it on. Raises ValueError for a direction of what befalls a connection as a whole."""
        if direction and isinstance(toxic, UNDIRECTED):
            raise ValueError(f"{type(toxic).__name__} befalls a connection as a whole, in no direction")
        self.on.append(On(toxic, direction, asyncio.get_running_loop().time()))
        self._tell()

    def keep(self, kept: list[On]) -> None:
        """Takes the others away."""
        self.on = kept
        self._tell()

    def _tell(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def entries(self, kind: type[Kind], direction: Direction | None = None) -> list[On]:
        """Those of a kind, and where a direction is given, those that are on in it."""
        return [
            each
            for each in self.on
            if isinstance(each.toxic, kind) and (None in (direction, each.direction) or direction == each.direction)
        ]

    def of(self, kind: type[Kind], direction: Direction | None = None) -> list[Kind]:
        """The toxics themselves."""
        return [each.toxic for each in self.entries(kind, direction) if isinstance(each.toxic, kind)]

    async def lasts(self, seconds: float) -> None:
        """Returns after so long, which may be forever, or at the next change."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await self._change.wait()
