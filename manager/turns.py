"""Turns: all calls that wait to change the fleet share one transaction, and each gets its own outcome."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, cast

from manager.admission import Admission
from manager.domain.calls import Call, Kill, Link, Offer, Outcome, Registration, Tick, Ticked, Update
from manager.domain.policy import Policy
from manager.domain.refusals import Exhausted, Refusal, Unreplicated
from manager.lane import Lane
from manager.repository.add import add
from manager.repository.database import Session, is_passing, is_too_long, refusal_of, why
from manager.repository.kill import kill
from manager.repository.link import link
from manager.repository.offer import offer
from manager.repository.tick import tick
from manager.repository.turn import Turn, UnknownHistoryError, open_epoch, turn
from manager.repository.update import update

log = logging.getLogger(__name__)

TRIES = 4
Outcomes = Sequence[Outcome | Refusal]


def _urgent(call: Call) -> bool:
    """What has to get through, however many wait to be registered."""
    return isinstance(call, (Kill, Tick))


class Turns:
    """Runs turns on one held connection. The calls of a turn are concurrent, so their order is ours to choose."""

    def __init__(
        self,
        session: Session,
        policy: Policy,
        *,
        linger: timedelta,
        size: int,
        queue: int,
        admission: Admission | None = None,
    ) -> None:
        self._session = session
        self._policy = policy
        self._admission = admission
        self.unreplicated = 0  # turns whose changes no synchronous standby has
        self.lane: Lane[Call, Outcome] = Lane(self._run, linger=linger, size=size, queue=queue, urgent=_urgent)

    async def submit(self, call: Call) -> Outcome:
        """What became of a call, once it is committed. Raises Unavailable where nobody knows."""
        self._admit(call)
        return await self.lane.submit(call)

    async def submit_many(self, calls: Sequence[Call]) -> list[Outcome | Exception]:
        """What became of many calls, each by itself; what was refused, or failed, as an exception."""
        outcomes: dict[int, Outcome | Exception] = {}
        for place, call in enumerate(calls):
            try:
                self._admit(call)
            except Refusal as refusal:
                outcomes[place] = refusal
        admitted = [place for place in range(len(calls)) if place not in outcomes]
        answers = await self.lane.submit_many([calls[place] for place in admitted])
        outcomes.update(zip(admitted, answers, strict=True))
        return [outcomes[place] for place in range(len(calls))]

    def _admit(self, call: Call) -> None:
        if self._admission and isinstance(call, Registration) and not call.is_manager:
            self._admission.admit()

    async def tick(self, call: Tick) -> Ticked:
        """The reaper's pass. While it leaves grace to the fleet, registrations are admitted at a bounded rate."""
        ticked = cast(Ticked, await self.submit(call))
        if self._admission:
            self._admission.guard(ticked.grace)
        return ticked

    async def _run(self, calls: Sequence[Call]) -> Outcomes:
        try:
            return await self._persist(calls)
        except Exception as error:
            refusal = refusal_of(error)
            if len(calls) > 1 and (refusal is None or is_too_long(error)):
                return await self._singly(calls)
            if is_too_long(error) and isinstance(calls[0], Kill):
                refusal = Exhausted("the subtree is too large for one kill: kill its children first")
            if refusal is None:
                raise
            self.unreplicated += isinstance(refusal, Unreplicated)
            log.warning("a turn of %d failed: %s", len(calls), why(error))
            return [refusal] * len(calls)

    async def _singly(self, calls: Sequence[Call]) -> Outcomes:
        """So that only the poisonous one fails."""
        outcomes: list[Outcome | Refusal] = []
        for call in calls:
            try:
                outcomes.extend(await self._run([call]))
            except Exception as error:
                log.exception("a call failed by itself")
                outcomes.append(cast(Refusal, error))
        return outcomes

    async def _persist(self, calls: Sequence[Call]) -> Outcomes:
        """Runs one turn, again where its failure was of the passing kind."""
        for left in reversed(range(TRIES)):
            try:
                return await self._turn(calls)
            except UnknownHistoryError:
                if not left:
                    raise
                await self.recognize()
            except Exception as error:
                if not (left and is_passing(error)):
                    raise
        raise AssertionError("the last try returns or raises")

    async def _turn(self, calls: Sequence[Call]) -> Outcomes:
        outcomes: Outcomes
        about = frozenset(chain.from_iterable(call.about for call in calls))
        async with self._session.use() as connection, turn(connection, about, notify=self._policy.notify) as present:
            outcomes = await self._carry_out(present, calls)
        return outcomes  # committed

    async def recognize(self) -> None:
        """Opens an epoch where the database's history has none yet: nothing is written, or read on from, before."""
        async with self._session.use() as connection:
            opened = await open_epoch(connection, "the database was promoted, restored or copied")
        if opened is not None:
            epoch, number = opened
            log.log(
                logging.INFO if number == 1 else logging.WARNING,
                "opened epoch %d (%s) of the history: the database is %s",
                number,
                epoch,
                "new" if number == 1 else "not the one of the epoch before; older resume tokens may be refused",
            )

    async def _carry_out(self, present: Turn, calls: Sequence[Call]) -> Outcomes:
        """Adds, updates, services, links, kills, expiries: each kind at once, in one order that all managers keep."""
        policy = self._policy
        kinds: list[tuple[type[Any], Callable[[Any], Awaitable[Outcomes]]]] = [
            (Registration, lambda some: add(present, some, policy.leases)),
            (Update, lambda some: update(present, some, policy.leases)),
            (Offer, lambda some: offer(present, some)),
            (Link, lambda some: link(present, some)),
            (Kill, lambda some: kill(present, some)),
            (Tick, lambda some: tick(present, some, policy)),
        ]
        outcomes: dict[int, Outcome | Refusal] = {}
        for kind, operation in kinds:
            places = [place for place, call in enumerate(calls) if type(call) is kind]
            if places:
                await present.written()
                outcomes.update(zip(places, await operation([calls[place] for place in places]), strict=True))
        return [outcomes[place] for place in range(len(calls))]
