"""Health checks: collected, answered from the truth, written where the stored time is old enough to matter."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic

from manager.domain.calls import Checked, Outcome
from manager.domain.instance import InstanceId
from manager.domain.refusals import Refusal, Unavailable
from manager.lane import Lane
from manager.repository.database import Session, is_passing, refusal_of, why
from manager.repository.heartbeat import Heartbeats, verdicts

log = logging.getLogger(__name__)

PATIENCE = 5.0
PAUSE = 0.02
CHANGED = "the instance is being changed; retry"


class Checks:
    """Health checks on a connection of their own, so that a long turn does not keep the living waiting."""

    def __init__(
        self, session: Session, *, linger: timedelta, size: int, queue: int, patience: timedelta | None = None
    ) -> None:
        self._session = session
        self._heartbeats = Heartbeats(session)
        self.lane: Lane[InstanceId, Outcome | None] = Lane(
            self._run, linger=linger, size=size, queue=queue, patience=patience
        )

    async def submit(self, instance_id: InstanceId) -> Outcome:
        """Done: keep running, the time is recorded. Refused: terminate.

        Who cannot be answered yet comes again with a later batch, so that nobody else waits for it.
        """
        until = monotonic() + PATIENCE
        while (answer := await self.lane.submit(instance_id)) is None:
            if monotonic() > until:
                raise Unavailable(CHANGED)
            await asyncio.sleep(PAUSE)
        return answer

    async def submit_many(self, ids: Sequence[InstanceId]) -> list[Outcome | Exception]:
        """The same for many, in their order; what was refused, or failed, as an exception."""
        until = monotonic() + PATIENCE
        told: dict[InstanceId, Outcome | Exception] = {}
        left = list(dict.fromkeys(ids))
        while True:
            answers = await self.lane.submit_many(left)
            told |= {each: answer for each, answer in zip(left, answers, strict=True) if answer is not None}
            left = [each for each in left if each not in told]
            if not left:
                break
            if monotonic() > until:
                told |= {each: Unavailable(CHANGED) for each in left}
                break
            await asyncio.sleep(PAUSE)
        return [told[each] for each in ids]

    async def _run(self, ids: Sequence[InstanceId]) -> Sequence[Outcome | Refusal | None]:
        """None for those of whom nothing can be said yet, since somebody holds or has just taken their row."""
        try:
            answers = await self._judge(sorted(set(ids)))
        except Exception as error:
            if is_passing(error):
                return [None] * len(ids)
            refusal = refusal_of(error)
            if refusal is None:
                raise
            log.warning("%d health checks failed: %s", len(ids), why(error))
            return [refusal] * len(ids)
        return [answers.get(each) for each in ids]

    async def _judge(self, ids: Sequence[InstanceId]) -> dict[InstanceId, Outcome | Refusal]:
        """Alive is answered only when the time was recorded."""
        async with self._session.use() as connection:
            told, moment = await verdicts(connection, ids)
        alive = [each for each, said in told.items() if isinstance(said, Checked)]
        recorded = await self._heartbeats.record(alive, moment)
        return {each: said for each, said in told.items() if each in recorded or not isinstance(said, Checked)}
