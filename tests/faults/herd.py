"""Thousands of instances that check their health as the SDK does, by one plain loop each on few connections.

What the SDK does for one, cut down to what costs nothing: registration, checks at the time that the manager asks for,
full-jitter backoff while it does not answer, registration anew after a loss of data. `true` and `false` answers, and
when each was last heard, are kept; nothing else is.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import grpc
from grpc import aio

from manager.client.pace import check_deadline, retry_delay
from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import TryServiceStub
from manager.pb.version import PROTO_VERSION
from manager.presence import new_id

VERSION = (("proto_version", PROTO_VERSION),)
DEADLINE = 10.0


@dataclass
class Member:
    """One instance. `renewed_at`: when its last good check was sent, by the monotonic clock (seconds)."""

    request: pb.InstanceDescription
    renewed_at: float = 0.0
    told_to_end: str = ""

    @property
    def id(self) -> str:
        return self.request.instance_id


@dataclass
class Herd:
    """All of them, on managers at `addresses`."""

    addresses: Sequence[str]
    timeout: float
    seed: int = 0
    members: list[Member] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._stubs: list[Any] = []

    async def __aenter__(self) -> "Herd":
        for each in self.addresses:
            channel = await self._stack.enter_async_context(aio.insecure_channel(each))
            self._stubs.append(TryServiceStub(channel))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def gather(self, count: int, hosts: int = 50) -> None:
        """Registers so many, a hundred at a time, and lets them live."""
        for start in range(0, count, 100):
            some = [Member(self._described(number, hosts)) for number in range(start, min(start + 100, count))]
            await asyncio.gather(*(self._register(each) for each in some))
            self.members.extend(some)
            self._tasks.extend(asyncio.create_task(self._live(each)) for each in some)

    def _described(self, number: int, hosts: int) -> pb.InstanceDescription:
        return pb.InstanceDescription(
            instance_id=str(new_id()),
            instance_type=pb.CHROME_BROWSER,
            hostname=f"host-{number % hosts}",
            timeout_ms=int(self.timeout * 1000),
        )

    def leave(self, member: Member) -> None:
        """This one falls silent for good, as a process that was killed."""
        task = self._tasks.pop(self.members.index(member))
        self.members.remove(member)
        task.cancel()

    def renewed_since(self, moment: float) -> int:
        """How many have had a good answer to a check that was sent after this moment."""
        return sum(each.renewed_at > moment for each in self.members)

    async def _register(self, member: Member) -> None:
        while True:
            sent = monotonic()
            try:
                answer = await self._stub().TryAddInstance(member.request, metadata=VERSION, timeout=DEADLINE)
            except aio.AioRpcError as error:
                self.answers[error.code().name] += 1
                await asyncio.sleep(self._random.random())
            else:
                assert answer.value, answer
                member.renewed_at = sent
                return

    def _stub(self) -> Any:
        return self._random.choice(self._stubs)

    async def _live(self, member: Member) -> None:
        pause, failures = self._random.random() * self.timeout / 3, 0
        request = pb.InstanceRequest(instance_id=member.id)
        while not member.told_to_end:
            await asyncio.sleep(pause)
            sent = monotonic()
            try:
                call = self._stub().TryHealthCheck(request, metadata=VERSION, timeout=check_deadline(self.timeout))
                answer = await call
            except aio.AioRpcError as error:
                failures += 1
                self.answers[error.code().name] += 1
                pause = retry_delay(failures, self.timeout, self._random.random())
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    await self._register(member)
                continue
            failures = 0
            self.latencies.append(monotonic() - sent)
            if not answer.value:
                member.told_to_end = pb.Reason.Name(answer.reason)
                return
            member.renewed_at = sent
            with suppress(StopIteration):
                told = next(value for key, value in await call.trailing_metadata() if key == "next_check_ms")
                pause = int(told) / 1000
