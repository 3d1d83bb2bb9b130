"""Registrations after an outage: a bounded rate, and a time for each to come again."""

from datetime import timedelta

import pytest

from manager.admission import Admission
from manager.domain.refusals import Exhausted

S = timedelta(seconds=1)


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(rate=10, burst=20, clock=clock)


def admitted(admission: Admission, count: int) -> int:
    """How many of so many are let in."""
    taken = 0
    for _ in range(count):
        try:
            admission.admit()
        except Exhausted:
            continue
        taken += 1
    return taken


def test_in_ordinary_times_everybody_is_let_in(admission: Admission) -> None:
    assert admitted(admission, 10_000) == 10_000


def test_while_the_fleet_comes_back_the_rate_is_kept(admission: Admission, clock: Clock) -> None:
    admission.guard(60 * S)
    assert admitted(admission, 1_000) == 20
    for _ in range(30):
        clock.now += 1
        assert admitted(admission, 1_000) == 10


def test_it_ends_with_the_grace(admission: Admission, clock: Clock) -> None:
    admission.guard(60 * S)
    assert admitted(admission, 1_000) == 20
    clock.now += 60
    assert admitted(admission, 1_000) == 1_000


def test_each_is_told_another_time_to_come_again(admission: Admission) -> None:
    admission.guard(60 * S)
    admitted(admission, 20)
    asked = []
    for _ in range(400):
        with pytest.raises(Exhausted) as refused:
            admission.admit()
        assert refused.value.retry is not None
        asked.append(refused.value.retry.total_seconds())
    assert asked[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(asked) == 30


def test_whoever_comes_as_told_is_let_in(admission: Admission, clock: Clock) -> None:
    """200 wait for their times, and nobody else comes."""
    admission.guard(60 * S)
    admitted(admission, 20)
    times = []
    for _ in range(200):
        with pytest.raises(Exhausted) as refused:
            admission.admit()
        assert refused.value.retry is not None
        times.append(clock.now + refused.value.retry.total_seconds())
    for each in times:
        clock.now = each + 1e-6
        admission.admit()
