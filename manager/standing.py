"""How this manager stands: every degraded state is a gauge, and a line in the log when it begins and when it ends."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from prometheus_client import CollectorRegistry, Gauge

from manager.domain.calls import Ticked
from manager.domain.grace import NONE
from manager.domain.instance import InstanceType
from manager.domain.preservation import FLEET, Group, Mode

log = logging.getLogger(__name__)

# What each degraded state means to whoever reads the log at night.
MEANING = {
    "database_away": "the database does not take a tick: nothing is answered, and nobody expires",
    "grace": "after an outage nobody expires who was alive when it began",
    "self_preservation": "many are silent at once, and their deaths are held back",
    "stretched_intervals": "the fleet is larger than its load of health checks allows: all intervals are longer",
    "poll_only": "nobody rings the doorbell: the history is polled",
    "standby_lost": "changes are on no synchronous standby",
    "archive_failing": "changes are not archived, and the log stays on the database's disk until they are",
    "samples_dropped": "samples of metrics were dropped for want of room or of a database",
}


def registry() -> CollectorRegistry:
    """Where the gauges of one server live."""
    return CollectorRegistry()


@dataclass
class Standing:
    """What is degraded at present. `probes` say so of what no tick knows: state by state, whether it holds now."""

    probes: Mapping[str, Callable[[], bool]]
    gauges: CollectorRegistry = field(default_factory=registry)
    degraded: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._state = Gauge("im_degraded", "1 while a degraded state holds", ["state"], registry=self.gauges)
        self._grace = Gauge("im_grace_seconds", "grace that is left to the fleet", registry=self.gauges)
        self._held = Gauge(
            "im_held_back_groups", "groups whose deaths are slowed or stopped", ["mode"], registry=self.gauges
        )
        self._stretch = Gauge("im_interval_stretch", "what intervals are multiplied by", registry=self.gauges)
        for each in MEANING:
            self._state.labels(each).set(0)

    def hear(self, ticked: Ticked | None) -> None:
        """What the last tick found; None where the database did not take it."""
        present = {each: "" for each, holds in self.probes.items() if holds()}
        if ticked is None:
            present["database_away"] = ""
            present |= {each: self.degraded[each] for each in TICKED if each in self.degraded}
        else:
            present |= _found(ticked)
            self._tell(ticked)
        for state in MEANING:
            self._change(state, present.get(state))
        self.degraded = present

    def _tell(self, ticked: Ticked) -> None:
        if ticked.why:
            log.warning("grace for everybody alive: %s; %.0f s are left", ticked.why, ticked.grace.total_seconds())
        self._grace.set(ticked.grace.total_seconds())
        self._stretch.set(ticked.stretch)
        for mode in (Mode.SLOWED, Mode.STOPPED):
            self._held.labels(mode.name.lower()).set(sum(each.mode is mode for each in ticked.watches.values()))

    def _change(self, state: str, detail: str | None) -> None:
        before = self.degraded.get(state)
        if detail == before:
            return
        self._state.labels(state).set(detail is not None)
        if detail is None:
            log.warning("over: %s", state)
        else:
            log.warning("degraded: %s: %s%s", state, MEANING[state], f" ({detail})" if detail else "")


TICKED = ("grace", "self_preservation", "stretched_intervals")


def _found(ticked: Ticked) -> dict[str, str]:
    held = [f"{_name(group)} {watch.mode.name}" for group, watch in sorted(ticked.watches.items()) if watch.mode]
    found = {
        "grace": "" if ticked.grace > NONE else None,
        "self_preservation": ", ".join(held[:5]) + (f" and {len(held) - 5} more" if held[5:] else "") if held else None,
        "stretched_intervals": "" if ticked.stretch > 1 else None,
    }
    return {state: detail for state, detail in found.items() if detail is not None}


def _name(group: Group) -> str:
    return "the fleet" if group == FLEET else f"{InstanceType(group.type).name} on {group.hostname or 'no host'}"


@dataclass
class Lately:
    """A probe for what is counted and never ends: it holds for a while after each increase."""

    count: Callable[[], int]
    clock: Callable[[], float]
    lasts: timedelta = timedelta(minutes=1)
    seen: int = 0
    at: float | None = None

    def __call__(self) -> bool:
        """Whether the count has grown lately."""
        now, count = self.clock(), self.count()
        if count > self.seen:
            self.seen, self.at = count, now
        return self.at is not None and now - self.at < self.lasts.total_seconds()
