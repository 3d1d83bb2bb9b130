"""A crowd on several managers: writers who retry, subscribers who leave and come back elsewhere, and what breaks."""

import asyncio
import itertools
import os
import random
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import grpc
from grpc import aio

from manager.pb import instance_manager_pb2 as pb
from tests.conftest import Database
from tests.processes import IMCTL, environment
from tests.stream.changes import Changes, filters
from tests.stream.plain import Fact
from tests.stream.reader import Connected, Ended, Story, Stream, Taken, listening, place_of
from tests.stream.validators import Case, broken
from tests.wire.caller import calling

EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]
READING = 3.0  # seconds at most on one connection
LIFE = (2, 12)  # connections of one story


@dataclass
class Tally:
    """What a run amounted to."""

    changes: int = 0
    unknown: int = 0
    connections: int = 0
    resumed: int = 0
    too_late: int = 0
    faults: dict[str, int] = field(default_factory=dict)


@dataclass
class Read:
    """A story, and up to where it was read to the end (0 where it was cut off)."""

    story: Story
    upto: int = 0


class Crowd:
    """Everybody who uses the managers at `addresses`, which may change at any time."""

    def __init__(self, database: Database, addresses: list[str], seed: int, pace: float) -> None:
        self._database = database
        self._addresses = addresses
        self._random = random.Random(seed)
        self._pace = pace
        self._writers = [Changes(seed * 100 + number) for number in range(8)]
        self._numbers = itertools.count()
        self.stopped = asyncio.Event()
        self.reads: list[Read] = []
        self.tally = Tally()

    @property
    def acknowledged(self) -> int:
        """The highest revision that was answered."""
        return max(each.acknowledged for each in self._writers)

    async def write(self, number: int) -> None:
        """One writer, until stopped; on another manager after each failure."""
        writer = self._writers[number]
        while not self.stopped.is_set():
            with suppress(aio.AioRpcError):
                async with calling(self._random.choice(self._addresses)) as caller:
                    while not self.stopped.is_set():
                        try:
                            await writer.one(caller)
                            if self._random.random() < 0.2 and writer.known:
                                one = self._random.choice(writer.known)
                                await caller.tries.TryHealthCheck(pb.InstanceRequest(instance_id=one))
                        except aio.AioRpcError as error:
                            self.tally.unknown += 1
                            away(error)
                            raise
                        self.tally.changes += 1
                        await asyncio.sleep(self._random.random() * self._pace)
            await asyncio.sleep(0.05)

    async def subscribe(self) -> None:
        """One subscriber after the other, until stopped; the last one reads to the end."""
        while not self.stopped.is_set():
            read = Read(self._story())
            self.reads.append(read)
            await self._live(read)

    def _story(self) -> Story:
        number = next(self._numbers)
        some = [each for writer in self._writers for each in writer.known[-20:]]
        wanted = filters(number, self._random.sample(some, min(3, len(some))))
        return Story(
            pb.SubscribeRequest(
                send_bookmarks=self._random.random() < 0.7,
                send_initial_state=self._random.random() < 0.3,
                event_types=EVERYTHING if self._random.random() < 0.7 else [],
                **wanted,
            ),
            bundled=self._random.random() < 0.5,
        )

    async def _live(self, read: Read) -> None:
        story, lives = read.story, self._random.randint(*LIFE)
        marked = story.request.send_bookmarks  # without bookmarks nobody knows where the end is
        for number in itertools.count():
            last = number >= lives or self.stopped.is_set()
            if read.upto or (last and not marked):
                return
            try:
                await self._connect(read, last)
            except aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                    await self._too_late(story)
                    return
                away(error)
                if not (story.entries and isinstance(story.entries[-1], Ended)):
                    story.entries.append(Ended(monotonic(), error.code()))
                await asyncio.sleep(0.05)
            await asyncio.sleep(0 if last else self._random.choice((0, 0, 0, 0.02, 0.3, 2.0)))

    async def _connect(self, read: Read, last: bool) -> None:
        story = read.story
        if story.request.send_initial_state and not synced(story):
            story.entries.clear()  # there is no going on from the middle of it
        token = story.token
        self.tally.connections += 1
        address, narrow = self._random.choice(self._addresses), self._random.random() < 0.3
        async with listening(address, story, token=token, narrow=narrow) as stream:
            self.tally.resumed += bool(token)
            if last:
                read.upto = await self._to_the_end(stream)
            else:
                await self._for_a_while(stream)

    async def _for_a_while(self, stream: Stream) -> None:
        until = monotonic() + self._random.random() * READING
        while monotonic() < until or (stream.story.request.send_initial_state and not synced(stream.story)):
            with suppress(TimeoutError):
                await stream.next(max(0.05, until - monotonic()))
            if self._random.random() < 0.01:
                await asyncio.sleep(0.3)

    async def _to_the_end(self, stream: Stream) -> int:
        upto = self.acknowledged
        while True:
            update = await stream.next()
            if update.event_type == pb.BOOKMARK and update.revision >= upto:
                return upto

    async def _too_late(self, story: Story) -> None:
        """It was away for longer than the history is kept: it has been told so, and rightly."""
        story.entries = [each for each in story.entries if not (isinstance(each, Ended) and each.code in GONE)]
        kept = await self._database.value("select compacted_revision from control")
        assert place_of(story.token)[0] <= kept
        self.tally.too_late += 1


AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
GONE = (grpc.StatusCode.OUT_OF_RANGE,)


def away(error: aio.AioRpcError) -> None:
    """Whoever did nothing wrong is told nothing else."""
    assert error.code() in AWAY, error


def synced(story: Story) -> bool:
    """Whether the initial state was taken whole."""
    return any(isinstance(each, Taken) and each.update.event_type == pb.SYNCED for each in story.entries)


def told(story: Story) -> int:
    """How many events it was told."""
    return sum(isinstance(each, Taken) and each.update.event_type < pb.SYNCED for each in story.entries)


def begun(story: Story) -> bool:
    """Whether it ever came through."""
    return any(isinstance(each, Connected) for each in story.entries)


def judged(reads: Sequence[Read], history: Sequence[Fact]) -> tuple[int, list[str]]:
    """How many events were delivered, and the first violations of each story."""
    events, violations = 0, []
    for read in reads:
        if begun(read.story):
            events += told(read.story)
            # nobody's clock is to be trusted to the second in such a crowd
            found = broken(Case(read.story, history, read.upto, bookmark_within=15.0))
            violations += [f"{promise}: {each[:3]} by {read.story.request}" for promise, each in found.items()]
    return events, violations


class Faults:
    """What goes wrong: connections that are cut, a manager that is killed, history that is trimmed."""

    def __init__(self, database: Database, addresses: list[str], variables: dict[str, str], tally: Tally) -> None:
        self._database, self._addresses, self._variables, self._tally = database, addresses, variables, tally
        self._process: asyncio.subprocess.Process | None = None

    async def go_on(self, stopped: asyncio.Event, every: float) -> None:
        """One fault after the other."""
        kinds: Iterator[tuple[str, Callable[[], Awaitable[None]]]] = itertools.cycle(
            [
                ("doorbells cut", lambda: self._cut("instance-manager doorbell")),
                ("manager killed", self._kill),
                ("history trimmed", self._trim),
                ("all connections cut", lambda: self._cut("%")),
                ("readers cut", lambda: self._cut("instance-manager reads")),
                ("history trimmed", self._trim),
            ]
        )
        while not stopped.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await stopped.wait()
                    return
            name, fault = next(kinds)
            self._tally.faults[name] = self._tally.faults.get(name, 0) + 1
            await fault()

    async def _cut(self, like: str) -> None:
        await self._database.run(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1"
            " and application_name like $2 and pid <> pg_backend_pid()",
            self._database.name,
            like,
        )

    async def _trim(self) -> None:
        await self._database.run("update control set history_kept = interval '2 s'")
        await self._database.run("select compact_history(100000)")
        await self._database.run("select delete_compacted(3000)")

    async def start(self) -> None:
        """Another manager, in a process of its own."""
        with tempfile.TemporaryFile() as said:
            self._process = await asyncio.create_subprocess_exec(
                *IMCTL, "serve", "--port=0", "--bind=127.0.0.1", env=environment(**self._variables), stderr=said
            )
            while b"Ctrl-C" not in (text := os.pread(said.fileno(), 65_536, 0)):
                assert self._process.returncode is None, text.decode()
                await asyncio.sleep(0.05)
        found = re.search(rb"127\.0\.0\.1:\d+", text)
        assert found
        self._addresses.append(found[0].decode())

    async def _kill(self) -> None:
        await self.end()
        await self.start()

    async def end(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._addresses.pop()
            self._process.kill()
            await self._process.wait()
            self._process = None
