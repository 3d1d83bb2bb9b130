"""How much each caller may ask for: a bucket for everybody who calls, in a table that does not grow with strangers."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from manager.domain.refusals import Exhausted

LONGEST = 30.0
SOONEST = 0.05
SLACK = 1e-6  # of a second, for sums of fractions


class Buckets:
    """A token bucket for each caller: `rate` calls a second, and as many at once as come to `burst` seconds of it.

    A call may be of many items: whoever has one left may spend more than that, and waits the longer. What is kept of a
    caller is when his bucket will be full again. `most`: of how many callers; who is forgotten has a full one.
    """

    def __init__(self, kind: str, rate: float, burst: float, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._kind = kind
        self._each = 1 / rate
        self._room = burst - self._each + SLACK
        self._most = most
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self.refused = 0

    def take(self, who: str, items: int = 1) -> None:
        """Takes so many; raises Exhausted with the time after which there is something left again."""
        now = self._clock()
        full_at = self._full_at.get(who, now)
        if full_at < now:
            full_at = now
        wait = full_at - now - self._room
        if wait > 0:
            self.refused += 1
            raise Exhausted(
                f"{who} has used up its quota of {self._kind}, {1 / self._each:g} a second on each manager; retry",
                timedelta(seconds=min(max(wait, SOONEST), LONGEST)),
            )
        self._full_at[who] = full_at + items * self._each
        if len(self._full_at) > self._most:
            self._forget(now)

    @property
    def callers(self) -> int:
        """Of how many it is kept what they have left."""
        return len(self._full_at)

    def _forget(self, now: float) -> None:
        """Those who have all left that there may be, and where these are few, half of all."""
        self._full_at = {who: full_at for who, full_at in self._full_at.items() if full_at > now}
        if len(self._full_at) > self._most // 2:
            for who in list(self._full_at)[: len(self._full_at) - self._most // 2]:
                del self._full_at[who]


class Open:
    """What goes on for long, and how many of it each caller has at once."""

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self._most = most
        self._open: Counter[str] = Counter()
        self.refused = 0

    @contextmanager
    def one_more(self, who: str) -> Iterator[None]:
        """While in here, he has one more; raises Exhausted where he has as many as he may."""
        if self._open[who] >= self._most:
            self.refused += 1
            raise Exhausted(
                f"{who} has {self._most} {self._kind} at once on this manager, which is the most",
                timedelta(seconds=1),
            )
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]

    @property
    def callers(self) -> int:
        """How many have any."""
        return len(self._open)

    @property
    def total(self) -> int:
        """How many all of them have."""
        return self._open.total()
