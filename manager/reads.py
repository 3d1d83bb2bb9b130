"""Reads of single instances: those that wait together are one statement."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import Check, Instance, InstanceId
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, Sample, SystemSample
from manager.domain.refusals import Refusal
from manager.lane import Lane
from manager.repository import heartbeat, instances, metrics
from manager.repository.database import Readers, refusal_of, why

log = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S", ProxySample, SystemSample, GpuSample, LlmSample)
Found = Callable[[AsyncConnection, Sequence[InstanceId]], Awaitable[Mapping[InstanceId, T]]]


class Lookup(Generic[T]):
    """One kind of read. It begins after it was asked for, so that it sees whatever was answered before."""

    def __init__(self, readers: Readers, found: Found[T], *, size: int, queue: int, patience: timedelta) -> None:
        self._readers = readers
        self._found = found
        self.lane: Lane[InstanceId, T | None] = Lane(
            self._run, linger=timedelta(0), size=size, queue=queue, patience=patience
        )

    async def of(self, instance_id: InstanceId) -> T | None:
        """What there is of this one, or None."""
        return await self.lane.submit(instance_id)

    async def _run(self, ids: Sequence[InstanceId]) -> Sequence[T | Refusal | None]:
        try:
            async with self._readers.use() as connection:
                found = await self._found(connection, list(dict.fromkeys(ids)))
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            log.warning("%d reads failed: %s", len(ids), why(error))
            return [refusal] * len(ids)
        return [found.get(each) for each in ids]


class Reads:
    """Of the living: themselves, their health checks, and their latest samples."""

    def __init__(self, readers: Readers, *, size: int, queue: int, patience: timedelta) -> None:
        def lookup(found: Found[T]) -> Lookup[T]:
            return Lookup(readers, found, size=size, queue=queue, patience=patience)

        self.instance: Lookup[Instance] = lookup(instances.find)
        self.check: Lookup[Check] = lookup(heartbeat.checks)
        self._samples: dict[type[Sample], Lookup[list[Any]]] = {
            kind: lookup(partial(metrics.latest, kind=kind)) for kind in metrics.TABLE
        }

    async def latest(self, kind: type[S], instance_id: InstanceId) -> list[S]:
        """The latest sample of that kind; several for an instance with several GPUs, ordered; none before the first."""
        return cast(list[S], await self._samples[kind].of(instance_id) or [])

    def lanes(self) -> list[Lane[Any, Any]]:
        """All of them, to be served and closed."""
        lookups: tuple[Lookup[Any], ...] = (self.instance, self.check, *self._samples.values())
        return [each.lane for each in lookups]
