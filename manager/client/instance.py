"""An instance of the fleet, kept alive by its own process."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from manager.client.connection import Client
from manager.client.errors import ManagerError, RefusedError
from manager.client.heartbeat import Heartbeat
from manager.client.ids import new_id
from manager.client.notices import End, Ending, MetricsFailed, Notice
from manager.client.pace import Patience, check_delay, now
from manager.client.registration import Registration
from manager.pb.instance_manager_pb2 import (
    VLLM,
    WARMPOOL_CHROME_BROWSER,
    WARMPOOL_PROXY,
    InstanceDescription,
    KillRequest,
    Service,
    SystemMetrics,
)

CLOSE_DEADLINE = 3.0
POST_DEADLINE = 2.0
log = logging.getLogger(__name__)
Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Memory:
    """What an instance uses of its host's memory, in bytes."""

    used_bytes: int
    total_bytes: int


def ignore(_: object) -> None:
    """The callback of those who do not listen."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What the owner of an instance wants to hear, and can say.

    `told` hears of outages and their end; `ended` hears once that the process must terminate; `memory` is asked at
    the pace of the health checks, in a thread of its own, and posted as system metrics.
    """

    told: Callable[[Notice], None] = ignore
    ended: Callable[[End], None] = ignore
    memory: Callable[[], Memory] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to go on (seconds, from the last good check) while no manager answers: see `Patience`."""

    orphan_after: float = 900.0
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Tasks:
    """The two loops of a started instance."""

    beat: "asyncio.Task[End]"
    report: "asyncio.Task[None]"


TIMEOUTS_MS = {VLLM: 60_000, WARMPOOL_CHROME_BROWSER: 15_000, WARMPOOL_PROXY: 15_000}


def completed(description: InstanceDescription) -> InstanceDescription:
    """A copy with an id of its own where it had none, and its timeout in the open, since the pace hangs on it."""
    copy = InstanceDescription()
    copy.CopyFrom(description)
    copy.instance_id = copy.instance_id or new_id()
    copy.timeout_ms = copy.timeout_ms or TIMEOUTS_MS.get(copy.instance_type, 30_000)
    return copy


@dataclass
class Instance:
    """Registers itself, checks its health in the background, hears when it must terminate, and dies when closed.

    `description` is what TryAddInstance takes: without an id it gets a fresh one, without a timeout 30 s (VLLM 60 s).
    Use it as `async with Instance(client, description) as instance: ... await instance.wait()`, or call `start` and
    `close`. Only the manager's own word ends it, or silence beyond the policy; an error never does. The checks run in
    the event loop: code that blocks the loop for longer than the timeout lets the instance expire.
    """

    client: Client
    description: InstanceDescription
    policy: Policy = field(default_factory=Policy)
    owner: Owner = field(default_factory=Owner)

    def __post_init__(self) -> None:
        self._chosen_id = bool(self.description.instance_id)
        self.description = completed(self.description)
        self.registration = Registration(self.client, self.description)
        self._alive = False
        self._tasks: Tasks | None = None

    @property
    def id(self) -> str:
        """The id under which it is registered."""
        return self.description.instance_id

    @property
    def token(self) -> str:
        """What the manager knows it by, once it is registered; empty where managers ask nobody who calls."""
        return self.registration.token

    async def start(self) -> None:
        """Registers and begins to check. Raises RefusedError for a false, and ManagerError."""
        sent = now()
        self._alive = not self._chosen_id  # who chose an id may meet another's, and must not kill that one
        try:
            await self.registration.add()
        except RefusedError:
            self._alive = False
            raise
        self._alive = True
        patience = Patience(self.description.timeout_ms / 1000, self.policy.orphan_after, self.policy.strict)
        heartbeat = Heartbeat(self.registration, patience, lambda notice: tell(self.owner.told, notice), sent)
        self._tasks = Tasks(asyncio.create_task(self._live(heartbeat)), asyncio.create_task(self._report()))

    async def wait(self) -> End:
        """Waits until the process must terminate, and says why. CancelledError once the instance is closed."""
        if self._tasks is None:
            raise RuntimeError("the instance was not started")
        return await asyncio.shield(self._tasks.beat)

    async def add_service(self, service: Service) -> None:
        """Adds a service, for others to find. Raises RefusedError, ManagerError."""
        await self.registration.add_service(service)

    async def add_parent(self, parent_id: str) -> None:
        """Links it under a parent, for life: it dies when the parent does. Raises RefusedError, ManagerError."""
        await self.registration.add_parent(parent_id)

    async def close(self, note: str = "ended by itself") -> bool:
        """Ends the checks and kills the instance, within 3 s. Whether it is known to be dead."""
        await self._stop()
        if not self._alive:
            return True
        try:
            request, shown = KillRequest(instance_id=self.id, note=note), self.registration.shown
            await self.client.try_.TryKillInstance(request, timeout=CLOSE_DEADLINE, metadata=shown)
        except ManagerError as error:
            log.warning("instance %s could not be killed and will expire: %s", self.id, error)
            return False
        self._alive = False  # a false says the same: it is dead or unknown
        return True

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close("its start was interrupted")
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("ended by itself" if kind is None else f"ended by {kind.__name__}")

    async def _live(self, heartbeat: Heartbeat) -> End:
        end = await heartbeat.run()
        self._alive = end.ending not in (Ending.DEAD, Ending.UNKNOWN)
        tell(self.owner.ended, end)
        return end

    async def _report(self) -> None:
        while self.owner.memory is not None:
            try:
                await self._post(await asyncio.to_thread(self.owner.memory))
            except ManagerError:
                log.debug("a sample of %s was lost", self.id, exc_info=True)  # the next one replaces it
            except Exception as error:
                tell(self.owner.told, MetricsFailed(error))
            await asyncio.sleep(check_delay(Patience(self.description.timeout_ms / 1000), random.random()))  # noqa: S311 - no secret

    async def _post(self, memory: Memory) -> None:
        sample = SystemMetrics(
            instance_id=self.id,
            timestamp_ms=time.time_ns() // 1_000_000,
            used_memory_bytes=memory.used_bytes,
            total_memory_bytes=memory.total_bytes,
        )
        shown = self.registration.shown
        await self.client.post.PostSystemMetrics(sample, timeout=POST_DEADLINE, metadata=shown)

    async def _stop(self) -> None:
        if self._tasks is None:
            return
        self._tasks.beat.cancel()
        self._tasks.report.cancel()
        for result in await asyncio.gather(self._tasks.beat, self._tasks.report, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a loop of instance %s had failed", self.id, exc_info=result)


def tell(callback: Callable[[Told], None], value: Told) -> None:
    """Calls the owner's callback; its failure is logged, since it must not end the checks."""
    try:
        callback(value)
    except Exception:
        log.exception("a callback of the instance failed")
