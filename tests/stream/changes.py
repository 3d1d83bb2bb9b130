"""Random changes of a fleet, over the wire: what a few busy hosts do to it."""

import random
from collections.abc import Awaitable
from typing import Any

from manager.domain.calls import Registration
from manager.domain.event import Event, EventType
from manager.domain.instance import Instance, InstanceType
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.repository.turn import Turn
from tests.fleet import LEASES
from tests.wire.caller import Caller
from tests.wire.fleet import debug_port, description

TYPES = (pb.CHROME_BROWSER, pb.WARMPOOL_CHROME_BROWSER, pb.VLLM)
HOSTS = ("alpha", "beta", "gamma")
LABELS: tuple[dict[str, str], ...] = ({}, {"pool": "warm"}, {"pool": "hot"}, {"pool": "hot", "zone": "1"})
MEMORY = 200


class Changes:
    """One writer. It knows only what it did itself, so some of what it asks is refused."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.known: list[str] = []
        self.roots: list[str] = []
        self.acknowledged = 0  # the highest revision that was answered

    async def one(self, caller: Caller) -> None:
        """Makes one change. Raises AioRpcError where nobody knows what became of it."""
        answer = await self._ask(caller)
        self.acknowledged = max(self.acknowledged, answer.revision)
        del self.known[:-MEMORY]
        del self.roots[:-MEMORY]

    async def many(self, caller: Caller, count: int) -> int:
        """Makes so many, one after the other; the last revision."""
        for _ in range(count):
            await self.one(caller)
        return self.acknowledged

    def _ask(self, caller: Caller) -> Awaitable[Any]:
        chance, known = self._random.random(), self.known
        if len(known) < 4 or chance < 0.35:
            return self._add(caller)
        one, other = self._random.choice(known), self._random.choice(known)
        if chance < 0.50 and self.roots:
            child = self.roots.pop(self._random.randrange(len(self.roots)))
            return caller.tries.TryAddChild(pb.AddChildRequest(parent_id=other, child_id=child))
        if chance < 0.70:
            return caller.tries.TryUpdateInstance(self._described(one))
        if chance < 0.85:
            offered = debug_port(port=self._random.randint(1, 9))
            return caller.tries.TryAddService(pb.AddServiceRequest(instance_id=one, service=offered))
        known.remove(one)
        return caller.tries.TryKillInstance(pb.KillRequest(instance_id=one))

    def _described(self, name: str = "", **fields: Any) -> pb.InstanceDescription:
        return description(
            name,
            instance_type=self._random.choice(TYPES),
            hostname=self._random.choice(HOSTS),
            labels=self._random.choice(LABELS),
            **fields,
        )

    def _add(self, caller: Caller) -> Awaitable[Any]:
        parent = self._random.choice(self.known) if self.known and self._random.random() < 0.5 else ""
        services = [debug_port()] if self._random.random() < 0.3 else []
        sent = self._described(parent_id=parent, services=services)
        self.known.append(sent.instance_id)
        if not parent:
            self.roots.append(sent.instance_id)
        return caller.tries.TryAddInstance(sent)


def filters(seed: int, subtrees: list[str]) -> dict[str, Any]:
    """The fields of a random filter; half of them let nearly everything through."""
    chosen = random.Random(seed)
    some: list[dict[str, Any]] = [
        {},
        {},
        {"types": [chosen.choice(TYPES)]},
        {"hostnames": chosen.sample(HOSTS, 2)},
        {"labels": {"pool": chosen.choice(("warm", "hot"))}},
        {"service_types": [pb.CHROME_DEBUG_PORT]},
        *({"subtree_of": each} for each in subtrees[:2]),
        *({"subtree_of": each, "types": list(TYPES[:2])} for each in subtrees[2:3]),
        *({"parent_id": each} for each in subtrees[:1]),
    ]
    return some[seed % len(some)]


def held(present: Turn) -> None:
    """A change such as a manager makes, but that only the history knows of it."""
    call = Registration(new_id(), InstanceType.VLLM, hostname="held")
    revision = present.next_revision()
    one = Instance(call.id, call.type, call.hostname, LEASES[call.type].timeout, present.now, revision, revision)
    present.tell(Event(revision, EventType.ADDED, one.id, None, one))
