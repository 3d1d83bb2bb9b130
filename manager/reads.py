"""Reads of single instances: those that wait together are one statement a kind."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import Check, Instance, InstanceId
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, SystemSample
from manager.domain.refusals import Refusal
from manager.lane import Lane
from manager.repository import heartbeat, instances, metrics
from manager.repository.database import Session, refusal_of, why

log = logging.getLogger(__name__)

S = TypeVar("S", ProxySample, SystemSample, GpuSample, LlmSample)
Found = Callable[[AsyncConnection, Sequence[InstanceId]], Awaitable[Mapping[InstanceId, Any]]]

FOUND: Mapping[type[Any], Found] = {
    Instance: instances.find,
    Check: heartbeat.checks,
    **{kind: partial(metrics.latest, kind=kind) for kind in metrics.TABLE},
}


class Wanted(NamedTuple):
    """What is asked for, and of whom."""

    kind: type[Any]
    of: InstanceId


class Reads:
    """Of the living, on a connection of their own: themselves, their health checks, their latest samples.

    A read begins after it was asked for, so that it sees whatever was answered before.
    """

    def __init__(
        self,
        session: Session,
        *,
        linger: timedelta,
        size: int,
        queue: int,
        patience: timedelta,
        found: Mapping[type[Any], Found] = FOUND,
    ) -> None:
        self._session = session
        self._found = found
        self.lane: Lane[Wanted, Any] = Lane(self._run, linger=linger, size=size, queue=queue, patience=patience)

    async def instance(self, of: InstanceId) -> Instance | None:
        """A living instance, with its status and last health check; None for the dead and the unknown."""
        return cast(Instance | None, await self.lane.submit(Wanted(Instance, of)))

    async def check(self, of: InstanceId) -> Check | None:
        """The last health check of a living instance; None for the dead and the unknown."""
        return cast(Check | None, await self.lane.submit(Wanted(Check, of)))

    async def latest(self, kind: type[S], of: InstanceId) -> list[S]:
        """The latest sample of that kind; several for an instance with several GPUs, ordered; none before the first."""
        return cast(list[S], await self.lane.submit(Wanted(kind, of)) or [])

    async def _run(self, wanted: Sequence[Wanted]) -> Sequence[Any]:
        ids: dict[type[Any], dict[InstanceId, None]] = {}
        for each in wanted:
            ids.setdefault(each.kind, {})[each.of] = None
        try:
            async with self._session.use() as connection:
                found = {kind: await self._found[kind](connection, list(of)) for kind, of in ids.items()}
        except Exception as error:
            refusal: Refusal | None = refusal_of(error)
            if refusal is None:
                raise
            log.warning("%d reads failed: %s", len(wanted), why(error))
            return [refusal] * len(wanted)
        return [found[kind].get(of) for kind, of in wanted]
