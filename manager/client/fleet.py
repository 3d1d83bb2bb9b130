"""A live copy of the fleet, or of a part of it, in this process."""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypedDict, Unpack
from weakref import WeakSet

from manager.client.change import Change
from manager.client.changes import Changes
from manager.client.connection import Client
from manager.client.fleet_state import EVENT_TYPES
from manager.client.follower import SILENCE, Follower
from manager.client.member import Endpoint, Member
from manager.client.pace import now
from manager.pb.instance_manager_pb2 import InstanceType, ServiceType, SubscribeRequest

FRESH_FOR = 10.0
BACKLOG = 10_000
log = logging.getLogger(__name__)


class Wanted(TypedDict, total=False):
    """Which instances a fleet is about: every criterion is optional, and all that are given must hold.

    Within one of them any value does, but of `labels` all. `id_prefix` is the beginning of the id in text form,
    `parent_id` asks for the direct children, `subtree_of` for an instance and all its descendants.
    """

    ids: Sequence[str]
    id_prefix: str
    types: Sequence[InstanceType.ValueType]
    service_types: Sequence[ServiceType.ValueType]
    hostnames: Sequence[str]
    labels: Mapping[str, str]
    parent_id: str
    subtree_of: str


def ignore(_: object) -> None:
    """The callback of those who do not listen."""


class Fleet:
    """The instances that match, kept up to date: snapshot, then every change, resumed over breaks on any manager.

    Use it as

        async with Fleet(client, service_types=[VLLM_OPENAI_COMPATIBLE]) as fleet:
            await fleet.wait_synced(10)
            fleet.endpoints(VLLM_OPENAI_COMPATIBLE)

    and ask it as often as you like: asking costs no call. What it shows is always the fleet as of one revision, never
    half a change. When it was cut off for longer than the managers keep their history, or their database was restored,
    it takes a new snapshot, and tells what differs. It never empties itself because no manager answers: it goes on
    with what it knows, and `age` and `fresh` say so.

    `told` is called with every change, in the event loop; `changes` gives them to whoever rather iterates. A stream in
    which nothing comes for `silence` seconds is dropped and resumed; it must be longer than 5 s, the pace of bookmarks.
    """

    def __init__(
        self,
        client: Client,
        *,
        told: Callable[[Change], None] = ignore,
        silence: float = SILENCE,
        **wanted: Unpack[Wanted],
    ) -> None:
        request = SubscribeRequest(event_types=EVENT_TYPES, **wanted)
        self._follower = Follower(client, request, self._hear, silence)
        self._told = told
        self._readers: WeakSet[Changes] = WeakSet()
        self._endpoints: dict[ServiceType.ValueType, tuple[Endpoint, ...]] = {}
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._error: Exception | None = None

    @property
    def revision(self) -> int:
        """The revision as of which the fleet is shown; 0 before the first snapshot."""
        return self._follower.state.revision

    @property
    def age(self) -> float:
        """Seconds since a manager last said that everything up to then had been sent; infinite before the first time.

        Up to 5 while all is well. By a clock of this machine that goes on while it is suspended.
        """
        at = self._follower.current_at
        return math.inf if at is None else now() - at

    @property
    def fresh(self) -> bool:
        """Whether `age` is at most 10 s. What is not fresh is as it was `age` seconds ago, as far as anybody knows."""
        return self.age <= FRESH_FOR

    @property
    def trouble(self) -> Exception | None:
        """Why there is no stream at this moment; None while there is one."""
        return self._error or self._follower.trouble

    def get(self, instance_id: str) -> Member | None:
        """The instance, stale or not; None where none of that id is alive and matches."""
        return self._follower.state.members.get(instance_id)

    def instances(
        self,
        *,
        instance_type: InstanceType.ValueType | None = None,
        service_type: ServiceType.ValueType | None = None,
        labels: Mapping[str, str] | None = None,
        healthy: bool | None = True,
    ) -> list[Member]:
        """Those of this type, with this service and all these labels, in the order in which they came.

        Without the stale; `healthy=False`: only the stale; `healthy=None`: both.
        """
        asked = (labels or {}).items()
        return [
            each
            for each in self._follower.state.members.values()
            if (instance_type is None or each.instance_type == instance_type)
            and (service_type is None or any(one.service_type == service_type for one in each.services))
            and asked <= each.labels.items()
            and (healthy is None or each.stale is not healthy)
        ]

    def endpoints(self, service_type: ServiceType.ValueType) -> tuple[Endpoint, ...]:
        """Where the service is offered by instances that are not stale, in the order in which they came."""
        found = self._endpoints.get(service_type)
        if found is None:
            offering = (one for each in self.instances() for one in each.services)
            found = self._endpoints[service_type] = tuple(one for one in offering if one.service_type == service_type)
        return found

    def changes(self, backlog: int = BACKLOG) -> Changes:
        """The changes from now on. At most `backlog` of them wait; a slower reader hears `Resynced` instead."""
        reader = Changes(self._look, backlog)
        if self._task is not None and self._task.done():
            reader.end(self._error)
        self._readers.add(reader)
        return reader

    def __aiter__(self) -> Changes:
        return self.changes()

    async def wait_synced(self, timeout: float | None = None) -> None:
        """Returns once the first snapshot is complete.

        Raises TimeoutError after `timeout` seconds, and at once what makes it impossible: a filter that the manager
        refuses (InvalidRequestError), another version of the contract (ProtoVersionError), DeniedError.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            raise TimeoutError(f"no snapshot of the fleet within {timeout:g} s: {self.trouble}") from self.trouble
        if self._error is not None:
            raise self._error
        if not self._follower.state.synced:
            raise RuntimeError("the fleet was closed before its first snapshot was complete")

    def start(self) -> None:
        """Begins, in the running loop; does not wait."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends the stream and all iterations; what is held can still be asked, and ages."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self) -> None:
        try:
            await self._follower.run()
        except Exception as error:
            log.warning("the fleet's stream cannot be had: %s", error)
            self._error = error
        finally:
            self._settled.set()
            for reader in list(self._readers):
                reader.end(self._error)

    def _hear(self, changes: Sequence[Change]) -> None:
        if self._follower.state.synced:
            self._settled.set()
        if not changes:
            return
        self._endpoints.clear()
        for reader in list(self._readers):
            reader.offer(changes)
        for each in changes:
            self._tell(each)

    def _tell(self, change: Change) -> None:
        try:
            self._told(change)
        except Exception:
            log.exception("a callback of the fleet failed")

    def _look(self) -> tuple[tuple[Member, ...], int]:
        return tuple(self._follower.state.members.values()), self._follower.state.revision
