"""Self-preservation: pure decisions, over thousands of histories."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from manager.domain.instance import InstanceId
from manager.domain.preservation import (
    FLEET,
    NONE,
    Group,
    Limits,
    Mode,
    Survey,
    Watch,
    admitted,
    refilled,
    watched,
)

S = timedelta(seconds=1)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LIMITS = Limits()
HOST = Group(1, "host-1")
TICK = 2 * S


def ids(count: int) -> list[InstanceId]:
    return [InstanceId(UUID(int=number)) for number in range(count)]


def run(group: Group, surveys: list[Survey], watch: Watch | None = None) -> Iterator[Watch]:
    """The watch after each of a row of ticks."""
    present = watch or Watch(NOW)
    for number, survey in enumerate(surveys):
        present = watched(group, present, survey, NOW + TICK * number, TICK, LIMITS)
        yield present


@pytest.mark.parametrize(
    ("group", "size", "silent", "mode"),
    [
        (HOST, 100, 14, Mode.NORMAL),
        (HOST, 100, 15, Mode.SLOWED),
        (HOST, 100, 49, Mode.SLOWED),
        (HOST, 100, 50, Mode.STOPPED),
        (HOST, 19, 19, Mode.NORMAL),
        (HOST, 20, 10, Mode.STOPPED),
        (FLEET, 100, 29, Mode.SLOWED),
        (FLEET, 100, 30, Mode.STOPPED),
        (FLEET, 19, 19, Mode.NORMAL),
    ],
)
def test_the_share_of_the_silent_decides(group: Group, size: int, silent: int, mode: Mode) -> None:
    (after,) = run(group, [Survey(size, silent)])
    assert after.mode is mode


def test_it_ends_only_after_a_minute_of_calm() -> None:
    calm, noise = Survey(100, 9), Survey(100, 10)
    modes = [each.mode for each in run(HOST, [Survey(100, 20), *[calm] * 29, noise, *[calm] * 40])]
    assert set(modes[:61]) == {Mode.SLOWED}
    assert modes[61] is Mode.NORMAL


def test_it_stops_for_five_minutes_an_hour_and_then_goes_slowly() -> None:
    watches = list(run(HOST, [Survey(100, 80)] * 1_000))
    modes = [each.mode for each in watches]
    assert modes[:151] == [Mode.STOPPED] * 150 + [Mode.SLOWED]
    assert set(modes[150:]) == {Mode.SLOWED}


@pytest.mark.parametrize("seed", range(30))
def test_in_no_hour_it_is_stopped_for_longer(seed: int) -> None:
    chance = random.Random(seed)
    surveys, silent = [], 0
    for _ in range(4_000):  # more than two hours
        if chance.random() < 0.01:
            silent = chance.choice((0, 5, 12, 20, 60, 100))
        surveys.append(Survey(100, silent))
    stopped = [each.mode is Mode.STOPPED for each in run(HOST, surveys)]
    for start in range(0, len(stopped), 60):
        assert sum(stopped[start : start + 1_800]) * TICK <= LIMITS.stop_most


@given(some.integers(0, 200), some.floats(0, 60), some.floats(0, 10))
def test_the_rate_is_kept(count: int, tokens: float, seconds: float) -> None:
    tokens = refilled(tokens, timedelta(seconds=seconds), LIMITS)
    assert tokens <= LIMITS.burst
    after = admitted([(each, HOST) for each in ids(count)], {}, tokens)
    assert len(after.roots) == min(count, int(tokens))
    assert after.tokens == pytest.approx(tokens - len(after.roots))


def test_ten_a_second_in_the_long_run() -> None:
    tokens, dead = 50.0, 0
    for _ in range(100):
        tokens = refilled(tokens, TICK, LIMITS)
        after = admitted([(each, HOST) for each in ids(1_000)], {}, tokens)
        tokens, dead = after.tokens, dead + len(after.roots)
    assert dead == 50 + 99 * 20


def test_a_stopped_group_keeps_nobody_else_waiting() -> None:
    other = Group(1, "host-2")
    stopped = Watch(NOW, Mode.STOPPED)
    one, two, three = ids(3)
    after = admitted([(one, HOST), (two, other), (three, HOST)], {HOST: stopped}, 10.0)
    assert after.roots == (two,)


def test_a_stopped_fleet_stops_all() -> None:
    after = admitted([(each, HOST) for each in ids(5)], {FLEET: Watch(NOW, Mode.STOPPED)}, 10.0)
    assert after.roots == ()
    assert after.tokens == 10.0


def test_a_slowed_group_loses_one_a_second() -> None:
    watch, dead = Watch(NOW, Mode.SLOWED), 0
    for number in range(50):
        watch = watched(HOST, watch, Survey(100, 30), NOW + TICK * number, TICK, LIMITS)
        after = admitted([(each, HOST) for each in ids(100)], {HOST: watch}, 50.0)
        watch, dead = after.watches[HOST], dead + len(after.roots)
    assert dead == 100


def test_a_slowed_fleet_loses_one_a_second_whatever_the_groups() -> None:
    fleet = Watch(NOW, Mode.SLOWED, tokens=2.0)
    due = [(each, Group(1, f"host-{number % 7}")) for number, each in enumerate(ids(50))]
    assert len(admitted(due, {FLEET: fleet}, 50.0).roots) == 2


def test_what_says_nothing_any_more_is_forgotten() -> None:
    assert Watch(NOW).forgettable(NOW)
    assert not Watch(NOW, Mode.SLOWED).forgettable(NOW)
    past = Watch(NOW, stopped=60 * S, stopped_at=NOW)
    assert not past.forgettable(NOW + 3_599 * S)
    assert past.forgettable(NOW + 3_600 * S)


def test_a_long_gap_between_ticks_saves_up_no_deaths() -> None:
    watch = watched(HOST, replace(Watch(NOW, Mode.SLOWED), tokens=0.0), Survey(100, 30), NOW, 10 * S, LIMITS)
    assert watch.tokens == 10.0
    assert watched(HOST, watch, Survey(100, 30), NOW, NONE, LIMITS).tokens <= 1.0
