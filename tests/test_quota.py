"""Quotas: so much for each caller, a time after which to come again, and a table that does not grow."""

from datetime import timedelta

import pytest

from manager.domain.refusals import Exhausted
from manager.quota import Buckets, Open
from tests.test_keyring import Clock


def buckets(clock: Clock, most: int = 100) -> Buckets:
    """Ten a second, twenty at once."""
    return Buckets("reads", rate=10, burst=2, most=most, clock=clock)


def taken(some: Buckets, who: str, tries: int) -> int:
    """How many of so many calls are let through."""
    through = 0
    for _ in range(tries):
        try:
            some.take(who)
        except Exhausted:
            continue
        through += 1
    return through


def test_a_caller_has_so_many_at_once_and_so_many_a_second() -> None:
    clock = Clock()
    some = buckets(clock)
    assert taken(some, "ann", 50) == 20
    clock.now += 1
    assert taken(some, "ann", 50) == 10
    clock.now += 3600
    assert taken(some, "ann", 50) == 20
    assert some.refused == 30 + 40 + 30


def test_what_one_uses_up_is_nobody_elses() -> None:
    some = buckets(Clock())
    taken(some, "ann", 50)
    assert taken(some, "ben", 20) == 20


def test_who_comes_again_when_he_was_told_to_is_let_through_and_not_before() -> None:
    clock = Clock()
    some = buckets(clock)
    taken(some, "ann", 20)
    some.take("ben", 20)
    with pytest.raises(Exhausted, match="ann has used up its quota of reads, 10 a second") as told:
        some.take("ann")
    assert told.value.retry is not None
    assert told.value.retry.total_seconds() == pytest.approx(0.1, abs=1e-3)
    clock.now += 0.09
    assert taken(some, "ann", 1) == 0
    clock.now += 0.01
    assert taken(some, "ann", 1) == 1


def test_a_great_batch_goes_through_once_and_its_caller_waits_the_longer() -> None:
    clock = Clock()
    some = buckets(clock)
    some.take("ann", 100)
    with pytest.raises(Exhausted) as told:
        some.take("ann")
    assert told.value.retry is not None
    assert told.value.retry.total_seconds() == pytest.approx(8.1, abs=1e-3)
    clock.now += 8.1
    some.take("ann")


def test_nobody_is_told_to_wait_for_more_than_half_a_minute() -> None:
    some = buckets(Clock())
    some.take("ann", 10_000)
    with pytest.raises(Exhausted) as told:
        some.take("ann")
    assert told.value.retry == timedelta(seconds=30)


def test_of_callers_who_have_spent_nothing_lately_nothing_is_kept() -> None:
    clock = Clock()
    some = buckets(clock)
    taken(some, "ann", 20)
    for number in range(10_000):
        clock.now += 0.11  # in which what one call took is back
        some.take(f"instance {number}")
        assert some.callers <= 100


def test_many_callers_at_once_are_not_kept_without_bound_and_the_newest_are() -> None:
    some = buckets(Clock())
    for number in range(10_000):
        taken(some, f"instance {number}", 20)
        assert some.callers <= 101
    assert taken(some, "instance 9999", 1) == 0


def test_a_caller_has_so_many_open_and_one_more_when_one_ends() -> None:
    some = Open("streams", 2)
    with some.one_more("ann"):
        with some.one_more("ann"), some.one_more("ben"):
            assert (some.callers, some.total) == (2, 3)
            with pytest.raises(Exhausted, match="ann has 2 streams at once"), some.one_more("ann"):
                raise AssertionError("it was let in")
        with some.one_more("ann"):
            pass
    assert (some.callers, some.total, some.refused) == (0, 0, 1)
