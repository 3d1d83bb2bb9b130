"""One connection through a proxy: two lanes, which carry what comes as the toxics say."""

import asyncio
import math
import socket
import struct
from collections import Counter, deque
from dataclasses import dataclass
from random import Random

from tests.faults.toxics import (
    Bandwidth,
    Direction,
    HalfOpen,
    Latency,
    LimitData,
    On,
    ResetPeer,
    Slicer,
    SlowClose,
    Stall,
    Timeout,
    Weather,
)

CHUNK = 64 * 1024
ROOM = 1024 * 1024  # bytes on their way in one lane; beyond that, the sender has to wait
SHORT = 0.05  # seconds; a narrow lane gets bytes for so long at once


class Reset(Exception):
    """The connection ends by RST, at both ends."""


class Closed(Exception):
    """The connection ends by FIN, at both ends."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes, and when they came (seconds of the loop's clock). None of them: the end; `torn` by RST, else FIN."""

    came: float
    data: bytes
    torn: bool = False


class Backlog:
    """Pieces on their way, up to ROOM bytes, for one who puts and one who gets."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._room, self._free, self._some = ROOM, asyncio.Event(), asyncio.Event()

    async def put(self, piece: Piece) -> None:
        """Returns once there is room."""
        while self._room <= 0:
            self._free.clear()
            await self._free.wait()
        self._room -= len(piece.data)
        self._pieces.append(piece)
        self._some.set()

    async def get(self) -> Piece:
        """The oldest one."""
        while not self._pieces:
            self._some.clear()
            await self._some.wait()
        piece = self._pieces.popleft()
        self._room += len(piece.data)
        self._free.set()
        return piece


class Lane:
    """One direction. `holed` once bytes were lost in it, after which it carries no more."""

    def __init__(
        self, direction: Direction, source: socket.socket, sink: socket.socket, weather: Weather, chance: Random
    ) -> None:
        self.direction = direction
        self.holed = self.dead = False
        self._source, self._sink, self._weather, self._chance = source, sink, weather, chance
        self._backlog = Backlog()
        self._spent: Counter[On] = Counter()

    async def read(self) -> None:
        """Takes in what comes, to the end."""
        loop, torn = asyncio.get_running_loop(), False
        try:
            while data := await loop.sock_recv(self._source, CHUNK):
                await self._backlog.put(Piece(loop.time(), data))
        except OSError:
            torn = True
        await self._backlog.put(Piece(loop.time(), b"", torn))

    async def write(self) -> None:
        """Delivers it, to the end. Raises Reset, Closed or OSError where the whole connection ends by it."""
        while (piece := await self._backlog.get()).data:
            if await self._may_pass(piece):
                await self._deliver(piece.data)
        await self._end(piece)

    @property
    def swallows(self) -> bool:
        return self.dead or self.holed or bool(self._weather.of(Timeout, self.direction))

    async def _may_pass(self, piece: Piece) -> bool:
        """Returns when it is due, or lost."""
        luck = self._chance.uniform(-1, 1)
        while not self.swallows:
            late = sum(each.seconds + luck * each.jitter for each in self._weather.of(Latency, self.direction))
            if (wait := self._until(piece.came + late)) <= 0:
                return True
            await self._weather.lasts(wait)
        self.holed = True
        return False

    def _until(self, due: float) -> float:
        if self._weather.of(Stall, self.direction):
            return math.inf
        return due - asyncio.get_running_loop().time()

    async def _deliver(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            while self._until(0) > 0 and not self.swallows:
                await self._weather.lasts(math.inf)
            if self.swallows:
                self.holed = True
                return
            bite = left[: self._bite(len(left))]
            await asyncio.get_running_loop().sock_sendall(self._sink, bite)
            left = left[len(bite) :]
            self._spend(len(bite))
            if (pause := self._pause(len(bite))) > 0:
                await self._weather.lasts(pause)

    def _bite(self, most: int) -> int:
        """How many bytes go at once."""
        for slicer in self._weather.of(Slicer, self.direction):
            most = min(most, slicer.size + self._chance.randint(-slicer.variation, slicer.variation))
        for narrow in self._weather.of(Bandwidth, self.direction):
            most = min(most, int(narrow.rate * SHORT))
        most = max(1, most)
        for each in self._weather.entries(LimitData, self.direction):
            most = min(most, self._left(each))
        return most

    def _pause(self, sent: int) -> float:
        """Seconds before more may go."""
        slicers = self._weather.of(Slicer, self.direction)
        narrow = self._weather.of(Bandwidth, self.direction)
        return max([0.0, *(each.delay for each in slicers), *(sent / each.rate for each in narrow)])

    def _left(self, limit: On) -> int:
        assert isinstance(limit.toxic, LimitData)
        return max(0, limit.toxic.amount - self._spent[limit])

    def _spend(self, sent: int) -> None:
        for each in self._weather.entries(LimitData, self.direction):
            self._spent[each] += sent
            if not self._left(each):
                raise Closed

    async def _end(self, piece: Piece) -> None:
        while True:
            slow = sum(each.seconds for each in self._weather.of(SlowClose, self.direction))
            late = slow + sum(each.seconds for each in self._weather.of(Latency, self.direction))
            wait = math.inf if self._unheard else self._until(piece.came + late)
            if wait <= 0:
                break
            await self._weather.lasts(wait)
        if piece.torn or self.swallows:
            raise Reset
        self._sink.shutdown(socket.SHUT_WR)

    @property
    def _unheard(self) -> bool:
        return bool(self._weather.of(Timeout, self.direction) or (self.dead and self._weather.of(HalfOpen)))


class Link:
    """One connection: `near` is the client's end, `far` the server's."""

    def __init__(self, near: socket.socket, far: socket.socket, weather: Weather, seed: str) -> None:
        self.ends = (near, far)
        self._weather, self._born = weather, asyncio.get_running_loop().time()
        self.up = Lane("up", near, far, weather, Random(f"{seed} up"))
        self.down = Lane("down", far, near, weather, Random(f"{seed} down"))

    def die(self) -> None:
        """Swallows all from now on."""
        self.up.dead = self.down.dead = True

    async def live(self) -> None:
        """Carries until both sides have closed, or one by RST, or the toxics end it. Both ends are closed then."""
        torn = True
        try:
            await self._carry()
            torn = False
        except* Closed:
            torn = False
        except* (Reset, OSError):
            pass
        finally:
            for each in self.ends:
                close(each, torn=torn)

    async def _carry(self) -> None:
        async with asyncio.TaskGroup() as beside:
            works = (self.up.read(), self.down.read(), self._doom())
            tasks = [beside.create_task(each) for each in works]
            async with asyncio.TaskGroup() as writers:
                writers.create_task(self.up.write())
                writers.create_task(self.down.write())
            for each in tasks:
                each.cancel()

    async def _doom(self) -> None:
        """Raises Reset when the weather wants it."""
        while (wait := self._left_to_live()) > 0:
            await self._weather.lasts(wait)
        raise Reset

    def _left_to_live(self) -> float:
        if any(self._is_past(lane) for lane in (self.up, self.down)):
            return 0.0
        now = asyncio.get_running_loop().time()
        resets = self._weather.entries(ResetPeer)
        dues = [max(each.since, self._born) + each.toxic.after for each in resets if isinstance(each.toxic, ResetPeer)]
        return min(dues, default=math.inf) - now

    def _is_past(self, lane: Lane) -> bool:
        return lane.holed and not lane.dead and not self._weather.of(Timeout, lane.direction)


def close(end: socket.socket, *, torn: bool) -> None:
    """Closes it, unless it is: by RST where `torn`, else by FIN."""
    if torn and end.fileno() >= 0:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
