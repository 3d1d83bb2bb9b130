"""Self-preservation: many deaths at once are more likely a fault between us and them, and are held back.

Pure decisions. A group is the instances of one type on one host; the whole fleet is one more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum

from manager.domain.instance import InstanceId

NONE = timedelta(0)
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """A type and a host; the fleet has neither."""

    type: int = 0
    hostname: str = ""


FLEET = Group()


class Mode(IntEnum):
    """How a group's silent die: at the general rate, one by one, or not at all for now."""

    NORMAL = 0
    SLOWED = 1
    STOPPED = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Roots a second that die in all, and from which share of silent ones on a group is slowed or stopped."""

    rate: float = 10.0
    burst: float = 50.0
    slow_rate: float = 1.0
    size: int = 20
    slow: float = 0.15
    stop: float = 0.5
    stop_fleet: float = 0.3
    calm: float = 0.1
    calm_for: timedelta = timedelta(seconds=60)
    stop_most: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of a group from tick to tick.

    `stopped`: for how long it was stopped until `stopped_at`, within an hour; `tokens`: deaths that it has saved up.
    """

    since: datetime
    mode: Mode = Mode.NORMAL
    calm_since: datetime | None = None
    stopped: timedelta = NONE
    stopped_at: datetime | None = None
    tokens: float = 0.0

    def forgettable(self, now: datetime) -> bool:
        """Whether it says nothing any more."""
        past = self.stopped_at is None or now - self.stopped_at >= HOUR
        return self.mode is Mode.NORMAL and past


@dataclass(frozen=True, slots=True)
class Survey:
    """How many of a group are alive, and how many of these are silent for longer than their timeout."""

    size: int
    silent: int

    def share(self, limits: Limits) -> float:
        """The share of the silent; nothing where the group is too small to say."""
        return self.silent / self.size if self.size >= limits.size else 0.0


def watched(group: Group, before: Watch, survey: Survey, now: datetime, elapsed: timedelta, limits: Limits) -> Watch:
    """The group's watch after one more look, `elapsed` after the last."""
    share = survey.share(limits)
    earned = elapsed.total_seconds() * limits.slow_rate
    watch = replace(
        before,
        calm_since=(before.calm_since or now) if share < limits.calm else None,
        tokens=min(before.tokens + earned, max(1.0, earned)),
    )
    if before.stopped_at and now - before.stopped_at >= HOUR:
        watch = replace(watch, stopped=NONE, stopped_at=None)
    if before.mode is Mode.STOPPED:
        watch = replace(watch, stopped=watch.stopped + elapsed, stopped_at=now)
    mode = _mode(group, watch, share, now, limits)
    return watch if mode is before.mode else replace(watch, mode=mode, since=now)


def _mode(group: Group, watch: Watch, share: float, now: datetime, limits: Limits) -> Mode:
    calm = watch.calm_since is not None and now - watch.calm_since >= limits.calm_for
    if watch.mode is not Mode.NORMAL and calm:
        return Mode.NORMAL
    stop = limits.stop_fleet if group == FLEET else limits.stop
    if share >= stop or watch.mode is Mode.STOPPED:
        return Mode.STOPPED if watch.stopped < limits.stop_most else Mode.SLOWED
    return Mode.SLOWED if share >= limits.slow else watch.mode


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who dies now, and what is left: the fleet's tokens, and the watches of the groups."""

    roots: tuple[InstanceId, ...]
    tokens: float
    watches: Mapping[Group, Watch]


def admitted(due: Iterable[tuple[InstanceId, Group]], watches: Mapping[Group, Watch], tokens: float) -> Admitted:
    """As many of the due, in the order given, as the rate and their groups allow. One with its subtree counts once."""
    left, roots = dict(watches), []
    for root, group in due:
        if tokens < 1.0:
            break
        ways = [left[each] for each in (FLEET, group) if each in left]
        if any(each.mode is Mode.STOPPED or (each.mode is Mode.SLOWED and each.tokens < 1.0) for each in ways):
            continue
        for each in (FLEET, group):
            if each in left and left[each].mode is Mode.SLOWED:
                left[each] = replace(left[each], tokens=left[each].tokens - 1.0)
        tokens -= 1.0
        roots.append(root)
    return Admitted(tuple(roots), tokens, left)


def refilled(tokens: float, elapsed: timedelta, limits: Limits) -> float:
    """The fleet's tokens, some time later."""
    return min(limits.burst, tokens + elapsed.total_seconds() * limits.rate)
