"""A manager is an instance of the fleet that it manages: seen by all, killed like all."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import uuid5

from manager.checks import Checks
from manager.domain.actor import Actor
from manager.domain.calls import Kill, Registration
from manager.domain.instance import WORKER_LABEL, Cause, InstanceId, InstanceType
from manager.ids import new_id as new_id
from manager.repository.database import Readers, why
from manager.repository.listing import describe
from manager.turns import Turns

log = logging.getLogger(__name__)

RETRY = 1.0
EXPIRED = ""

T = TypeVar("T")


@dataclass(slots=True)
class Supervisor:
    """What the worker of that number is a part of: an instance that stands for all workers.

    They keep it between them: it is alive as long as one of them is, whatever befalls the process above them.
    """

    id: InstanceId
    worker: int
    stops: bool = False  # all of it, and not this worker alone


@dataclass(slots=True)
class Presence:
    """The registration of this process, under a new id at each start and after each expiry."""

    turns: Turns
    checks: Checks
    readers: Readers
    pace: float
    labels: Mapping[str, str]
    id: InstanceId
    supervisor: Supervisor | None = None

    async def keep(self) -> str:
        """Registers and checks health until somebody kills this manager; who, and why."""
        await self._register()
        while True:
            await self._until_refused()
            killer = await _insist(self._killer)
            if killer is not None:
                return killer
            log.warning("this manager had expired as %s, and registers anew", self.id)
            self.id = new_id()
            await self._register()

    async def leave(self) -> None:
        """Takes itself out of the fleet; where the database is away, its lease runs out instead."""
        try:
            async with asyncio.timeout(RETRY * 2):
                await self.turns.submit(Kill(self._leaving(), "stopped", actor=Actor.manager(self.id)))
        except Exception as error:
            log.warning("could not take itself out of the fleet: %s", why(error))

    def _leaving(self) -> InstanceId:
        # the first worker that has stopped takes all out: the others are on their way
        return self.supervisor.id if self.supervisor and self.supervisor.stops else self.id

    async def _register(self) -> None:
        for call in self._registrations():
            await _insist(partial(self.turns.submit, call))

    def _registrations(self) -> list[Registration]:
        """What is to be in the fleet: this process, below its supervisor, which any worker registers."""
        if self.supervisor is None:
            return [self._registration(self.id, self.labels)]
        labels = {**self.labels, WORKER_LABEL: str(self.supervisor.worker)}
        return [
            self._registration(self.supervisor.id, self.labels),
            self._registration(self.id, labels, self.supervisor.id),
        ]

    def _registration(
        self, of: InstanceId, labels: Mapping[str, str], parent: InstanceId | None = None
    ) -> Registration:
        return Registration(
            id=of,
            type=InstanceType.INSTANCE_MANAGER,
            hostname=socket.gethostname()[:253],
            labels=labels,
            parent=parent,
            actor=Actor.manager(self.id),
        )

    def _kept(self) -> list[InstanceId]:
        return [self.id, *([self.supervisor.id] if self.supervisor else [])]

    async def _until_refused(self) -> None:
        while True:
            for each in self._kept():
                if (await _insist(partial(self.checks.submit, each))).reason is not None:
                    return
            await asyncio.sleep(self.pace)

    async def _killer(self) -> str | None:
        """Who killed this manager; None where it expired, or is not known to this history of the database."""
        own, *above = [await self._death(each) for each in self._kept()]
        killer = own or next(iter(above), None)
        if self.supervisor and above == [EXPIRED]:
            # all workers come to the same new id without asking each other, and so do those started later
            self.supervisor.id = InstanceId(uuid5(self.supervisor.id, "registered anew"))
        return killer or None

    async def _death(self, one: InstanceId) -> str | None:
        """Who killed an instance, EXPIRED where nobody did; None where it lives, or is not known."""
        async with self.readers.use() as connection:
            chain, actor, note = await describe(connection, one)
        if not chain or chain[0].death is None or chain[-1].death is None:
            return None
        if chain[-1].death.cause is Cause.EXPIRED:
            return EXPIRED
        return f"{actor} ({note})" if note else actor


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    """The answer, however long the database is away, or amiss: others are served by what still works."""
    while True:
        try:
            return await call()
        except Exception as error:
            log.warning("this manager's own call was not answered: %s", why(error))
        await asyncio.sleep(RETRY)
