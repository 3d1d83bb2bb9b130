"""The background checks of one instance: what an answer, an error or a silence means."""

import asyncio
import random
from collections.abc import Callable

from manager.client.errors import EpochChangedError, ManagerError
from manager.client.notices import BackInReach, End, Ending, Notice, NotLinked, OutOfReach, RegisteredAgain
from manager.client.pace import Patience, check_deadline, check_delay, now, retry_delay
from manager.client.registration import Registration
from manager.pb.instance_manager_pb2 import (
    REASON_DEAD,
    REASON_UNKNOWN_INSTANCE,
    Bool,
    Reason,
)


def end_of(answer: Bool) -> End:
    """What a health check answered with false means."""
    reason = Reason.Name(answer.reason).removeprefix("REASON_")
    ending = Ending.UNKNOWN if answer.reason == REASON_UNKNOWN_INSTANCE else Ending.DEAD
    return End(ending, f"the manager answered {reason}")


class Heartbeat:
    """Checks until the instance must terminate. `good` is when the last answered check was sent."""

    def __init__(
        self, registration: Registration, patience: Patience, tell: Callable[[Notice], None], good: float
    ) -> None:
        self.registration = registration
        self.patience = patience
        self.tell = tell
        self.good = good
        self.deadline = check_deadline(patience.timeout)
        self.failures = 0
        self.told: float | None = None
        self.parted_at: float | None = None

    async def run(self) -> End:
        """Returns when the process must terminate, with the reason; never for an error alone."""
        asked: float | None = None
        while True:
            try:
                async with asyncio.timeout(self.patience.limit(self.good, now())):
                    await asyncio.sleep(self._delay(asked))
                    end = await self._check()
            except TimeoutError:
                return End(Ending.LOST, "no manager answered for longer than the timeout")
            except ManagerError as error:
                end, asked = self._failed(error), error.retry_after
            if end is not None:
                return end

    def _delay(self, asked: float | None) -> float:
        draw = random.random()  # noqa: S311 - no secret
        if self.failures:
            return retry_delay(self.failures, self.patience.timeout, draw, asked)
        return check_delay(self.patience, draw, self.told)

    async def _check(self) -> End | None:
        sent = now()
        try:
            answer, self.told = await self.registration.check(self.deadline)
        except EpochChangedError:
            answer = await self._renew()
        if not answer.value:
            return end_of(answer)
        self._answered(sent)
        await self.registration.settle()
        return await self._relink() if self.registration.link_due else None

    def _answered(self, sent: float) -> None:
        if self.failures:
            self.tell(BackInReach(sent - self.good))
        self.good, self.failures = sent, 0

    def _failed(self, error: ManagerError) -> End | None:
        self.failures += 1
        if self.patience.over(self.good, now()):
            return End(Ending.LOST, f"no manager answered for too long: {error}")
        if self.failures == 1:
            self.tell(OutOfReach(error, self.patience.left(self.good, now())))
        return None

    async def _renew(self) -> Bool:
        answer = await self.registration.renew()
        if answer.value:
            self.parted_at = now()
            self.tell(RegisteredAgain())
        return answer

    async def _relink(self) -> End | None:
        answer = await self.registration.relink()
        if answer.value:
            return None
        if answer.reason == REASON_DEAD:
            return End(Ending.ORPHANED, "its parent is dead")
        if answer.reason == REASON_UNKNOWN_INSTANCE:
            return self._parentless()
        self.registration.link_due = False
        self.tell(NotLinked(answer.reason))
        return None

    def _parentless(self) -> End | None:
        since = now() if self.parted_at is None else self.parted_at
        if now() - since < self.patience.orphan_after:
            return None
        return End(Ending.ORPHANED, "its parent did not come back after the loss of data")
