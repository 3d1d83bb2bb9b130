"""Registrations after an outage: admitted at a bounded rate, so that health checks and kills are not behind them."""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic

from manager.domain.refusals import Exhausted

LONGEST = 30.0


class Admission:
    """A token bucket that is in force only for as long as the fleet comes back. Times are seconds."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._until = clock()
        self._tokens, self._at = burst, clock()
        self._booked = clock()

    def guard(self, length: timedelta) -> None:
        """In force from now on, for so long."""
        self._until = self._clock() + length.total_seconds()

    def admit(self) -> None:
        """Takes one more; raises Exhausted with the time at which to come again, another one for each."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if now >= self._until:
            return
        if self._tokens < 1:
            self._booked = max(self._booked, now) + 1 / self._rate
            raise Exhausted(
                "the fleet is coming back after an outage, and registrations wait their turn; retry",
                timedelta(seconds=min(self._booked - now, LONGEST)),
            )
        self._tokens -= 1
