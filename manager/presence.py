"""A manager is an instance of the fleet that it manages: seen by all, killed like all."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from secrets import token_bytes
from time import time_ns
from uuid import UUID

from manager.checks import Checks
from manager.domain.calls import Kill, Outcome, Registration
from manager.domain.instance import Cause, InstanceId, InstanceType
from manager.domain.refusals import Refusal
from manager.repository.database import Readers
from manager.repository.listing import describe
from manager.turns import Turns

log = logging.getLogger(__name__)

RETRY = 1.0


def new_id() -> InstanceId:
    """A UUID of version 7 (RFC 9562): ordered by the time at which it was made."""
    milliseconds = time_ns() // 1_000_000
    number = int.from_bytes(milliseconds.to_bytes(6) + token_bytes(10))
    number = (number & ~(0xF << 76)) | (7 << 76)
    return InstanceId(UUID(int=(number & ~(0x3 << 62)) | (2 << 62)))


@dataclass(slots=True)
class Presence:
    """The registration of this process, under a new id at each start and after each expiry."""

    turns: Turns
    checks: Checks
    readers: Readers
    pace: float
    labels: Mapping[str, str]
    id: InstanceId

    async def keep(self) -> str:
        """Registers and checks health until somebody kills this manager; who, and why."""
        await self._register()
        while True:
            await self._until_refused()
            killer = await self._killer()
            if killer is not None:
                return killer
            log.warning("this manager had expired as %s, and registers anew", self.id)
            self.id = new_id()
            await self._register()

    async def leave(self) -> None:
        """Takes itself out of the fleet; where the database is away, its lease runs out instead."""
        try:
            async with asyncio.timeout(RETRY * 2):
                await self.turns.submit(Kill(self.id, "stopped", actor=f"manager {self.id}"))
        except (Refusal, TimeoutError) as error:
            log.warning("could not take itself out of the fleet: %s", error)

    async def _register(self) -> None:
        call = Registration(
            id=self.id,
            type=InstanceType.INSTANCE_MANAGER,
            hostname=socket.gethostname()[:253],
            labels=self.labels,
            actor=f"manager {self.id}",
        )
        await _insist(lambda: self.turns.submit(call))

    async def _until_refused(self) -> None:
        while (await _insist(lambda: self.checks.submit(self.id))).reason is None:
            await asyncio.sleep(self.pace)

    async def _killer(self) -> str | None:
        """Who killed this manager; None where it expired, or is not known to this history of the database."""
        async with self.readers.use() as connection:
            chain, actor, note = await describe(connection, self.id)
        if not chain or chain[0].death is None or chain[-1].death is None or chain[-1].death.cause is Cause.EXPIRED:
            return None
        return f"{actor} ({note})" if note else actor


async def _insist(call: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """The answer, however long the database is away."""
    while True:
        try:
            return await call()
        except Refusal as refusal:
            log.warning("this manager's own call was not taken: %s", refusal)
        await asyncio.sleep(RETRY)
