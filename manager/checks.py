"""Health checks: collected, answered from the truth, written where the stored time is old enough to matter."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic

from manager.domain.calls import Outcome
from manager.domain.instance import InstanceId
from manager.domain.refusals import Refusal, Unavailable
from manager.lane import Lane
from manager.repository.database import Session, is_passing, refusal_of
from manager.repository.heartbeat import Heartbeats, verdicts

log = logging.getLogger(__name__)

PATIENCE = 5.0
PAUSE = 0.02


class Checks:
    """Health checks on a connection of their own, so that a long turn does not keep the living waiting."""

    def __init__(self, session: Session, *, linger: timedelta, size: int, queue: int) -> None:
        self._session = session
        self._heartbeats = Heartbeats(session)
        self.lane: Lane[InstanceId, Outcome] = Lane(self._run, linger=linger, size=size, queue=queue)

    async def submit(self, instance_id: InstanceId) -> Outcome:
        """Done: keep running, the time is recorded. Refused: terminate."""
        return await self.lane.submit(instance_id)

    async def _run(self, ids: Sequence[InstanceId]) -> Sequence[Outcome | Refusal]:
        try:
            answers = await self._judge(sorted(set(ids)))
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            log.warning("%d health checks failed: %s", len(ids), error)
            return [refusal] * len(ids)
        return [answers[each] for each in ids]

    async def _judge(self, ids: Sequence[InstanceId]) -> dict[InstanceId, Outcome | Refusal]:
        """Alive is answered only when the time was recorded; whoever could not be is asked about anew."""
        answers: dict[InstanceId, Outcome | Refusal] = {}
        pending = list(ids)
        until = monotonic() + PATIENCE
        while pending := await self._round(pending, answers):
            if monotonic() > until:
                break
            await asyncio.sleep(PAUSE)
        return answers | {each: Unavailable("the instance is being changed; retry") for each in pending}

    async def _round(
        self, pending: Sequence[InstanceId], answers: dict[InstanceId, Outcome | Refusal]
    ) -> list[InstanceId]:
        try:
            async with self._session.use() as connection:
                told, now = await verdicts(connection, pending)
            living = [each for each, verdict in told.items() if verdict == Outcome()]
            recorded = await self._heartbeats.record(living, now)
        except Exception as error:
            if is_passing(error):
                return list(pending)
            raise
        answers |= {each: verdict for each, verdict in told.items() if verdict != Outcome()}
        answers |= {each: Outcome.done() for each in recorded}
        return [each for each in living if each not in recorded]
