"""What an outage earns the living: silence that is nobody's fault is forgiven, for a while, and not for ever.

The times are the database's, and handed in; only `Silence` also knows how long this process was away by its own
monotonic clock.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

NONE = timedelta(0)
HOUR = timedelta(hours=1)
# before all who were ever heard of; a real moment, as the database's -infinity is none in Python
EVER = datetime(1970, 1, 1, tzinfo=UTC)
# after a restore, a promotion or an operator's word; and all grace together in an hour
EPOCH_GRACE = timedelta(minutes=5)
MOST = timedelta(minutes=15)


class Why(StrEnum):
    """What grace is given for."""

    OUTAGE = "no manager had ticked"
    AWAY = "a manager was cut off from the database, or stood still"
    CLOCK = "the database's clock was set"
    START = "a manager started"
    EPOCH = "the database was promoted, restored or copied"


@dataclass(frozen=True, slots=True)
class Patience:
    """From when on silence is an outage's, and what it earns; `most`: all grace together in an hour."""

    outage_after: timedelta = timedelta(seconds=10)
    away_after: timedelta = timedelta(seconds=5)
    drift_after: timedelta = timedelta(seconds=2)
    outage_grace: timedelta = timedelta(seconds=60)
    start_grace: timedelta = NONE
    most: timedelta = MOST


@dataclass(frozen=True, slots=True)
class Silence:
    """What a tick finds: the time since the last one of any manager, by the database's clock; for how long this
    process could not tick though it should have; and by how much the two clocks moved apart meanwhile."""

    gap: timedelta
    away: timedelta = NONE
    drift: timedelta = NONE
    starting: bool = False

    @property
    def length(self) -> timedelta:
        """Since when nobody, or nobody through this manager, could be heard of."""
        return max(self.gap, self.away, NONE)


def earned(silence: Silence, patience: Patience) -> tuple[Why, timedelta] | None:
    """The grace to give from this tick on, and why; None where nobody was kept from being heard."""
    if silence.gap < NONE or abs(silence.drift) > patience.drift_after:
        return Why.CLOCK, max(patience.outage_grace, patience.start_grace if silence.starting else NONE)
    if silence.gap > patience.outage_after:
        return Why.OUTAGE, max(patience.outage_grace, patience.start_grace if silence.starting else NONE)
    if silence.away > patience.away_after:
        return Why.AWAY, patience.outage_grace
    return (Why.START, patience.start_grace) if silence.starting and patience.start_grace else None


@dataclass(frozen=True, slots=True)
class Grace:
    """Until `until` nobody dies, or is stale, who was alive at `since`; the silence of these counts from `at` on.

    `spent`: the grace of the last hour, for which it is refused beyond what an operator allows.
    """

    since: datetime | None = None
    at: datetime | None = None
    until: datetime | None = None
    spent: timedelta = NONE

    def left(self, now: datetime) -> timedelta:
        """For how long anybody is still forgiven."""
        return max(self.until - now, NONE) if self.until else NONE

    def given(self, now: datetime, since: datetime, length: timedelta, most: timedelta | None) -> "Grace":
        """More of it, for those who were alive at `since`; as it is where the hour's share is spent.

        Another outage within a grace does not forget those whom the first one forgave, and never shortens it. Without
        `most` it is given whole; it counts for the share all the same.
        """
        spent = NONE if self.until is None or now - self.until >= HOUR else self.spent
        ended = max(self.until or now, now)
        room = length if most is None else max(most - spent, NONE)
        until = min(max(ended, now + length), ended + room)
        if until <= now or (until == self.until and not room):
            return self
        begun = min(self.since, since) if self.since and self.until and self.until > since else since
        return Grace(begun, now, until, spent + (until - ended))

    def set_back(self, now: datetime) -> "Grace":
        """As it is after the clock was set back: what it had to go on for would last for as long as that again."""
        if self.since is None or self.until is None or self.at is None or self.at <= now:
            return self
        ahead = self.at - now
        return replace(self, since=min(self.since, now), at=now, until=self.until - ahead)
