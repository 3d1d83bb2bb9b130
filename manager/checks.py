"""Health checks: collected, answered from the truth, written where the stored time is old enough to matter."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from typing import cast

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
        self.stopping = asyncio.Event()  # streams of checks are to end, since they would outlast any drain
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
        answers = await self.lane.submit_many(ids)
        while left := [place for place, answer in enumerate(answers) if answer is None]:
            if monotonic() > until:
                again: Sequence[Outcome | Exception | None] = [Unavailable(CHANGED)] * len(left)
            else:
                await asyncio.sleep(PAUSE)
                again = await self.lane.submit_many([ids[place] for place in left])
            for place, answer in zip(left, again, strict=True):
                answers[place] = answer
        return cast(list[Outcome | Exception], answers)

    async def _run(self, ids: Sequence[InstanceId]) -> Sequence[Outcome | Refusal | None]:
        """None for those of whom nothing can be said yet, since somebody holds or has just taken their row."""
        distinct = list(dict.fromkeys(ids))
        try:
            answers = await self._judge(distinct)
        except Exception as error:
            if is_passing(error):
                return [None] * len(ids)
            refusal = refusal_of(error)
            if refusal is None:
                raise
            log.warning("%d health checks failed: %s", len(ids), why(error))
            return [refusal] * len(ids)
        if len(distinct) == len(ids):
            return answers
        told = dict(zip(distinct, answers, strict=True))
        return [told[each] for each in ids]

    async def _judge(self, ids: Sequence[InstanceId]) -> Sequence[Outcome | Refusal | None]:
        """Alive is answered only when the time was recorded."""
        async with self._session.use() as connection:
            told, moment = await verdicts(connection, ids)
        alive = [each for each, said in zip(ids, told, strict=True) if isinstance(said, Checked)]
        missed = await self._heartbeats.record(alive, moment)
        if not missed:
            return told
        return [None if each in missed else said for each, said in zip(ids, told, strict=True)]
