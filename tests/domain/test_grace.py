"""What an outage earns: pure decisions, over thousands of histories."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from manager.domain.grace import EVER, NONE, Grace, Patience, Silence, Why, earned

S = timedelta(seconds=1)
HOUR = timedelta(hours=1)
PATIENCE = Patience(start_grace=20 * S)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
lengths = some.timedeltas(min_value=NONE, max_value=2 * HOUR)


@given(some.timedeltas(min_value=NONE, max_value=10 * S), some.timedeltas(min_value=-2 * S, max_value=2 * S))
def test_a_gap_and_a_drift_up_to_the_limit_earn_nothing(gap: timedelta, drift: timedelta) -> None:
    assert earned(Silence(gap, drift=drift), PATIENCE) is None


@pytest.mark.parametrize(
    ("silence", "why"),
    [
        (Silence(11 * S), Why.OUTAGE),
        (Silence(2 * S, away=6 * S), Why.AWAY),
        (Silence(2 * S, drift=3 * S), Why.CLOCK),
        (Silence(2 * S, drift=-3 * S), Why.CLOCK),
        (Silence(-3600 * S), Why.CLOCK),
        (Silence(2 * S, starting=True), Why.START),
    ],
    ids=lambda value: value.name if isinstance(value, Why) else "",
)
def test_each_kind_of_outage_earns_grace(silence: Silence, why: Why) -> None:
    found = earned(silence, PATIENCE)
    assert found == (why, (20 if why is Why.START else 60) * S)


@given(some.timedeltas(min_value=-HOUR, max_value=HOUR))
def test_a_start_never_earns_less(gap: timedelta) -> None:
    found, started = earned(Silence(gap), PATIENCE), earned(Silence(gap, starting=True), PATIENCE)
    assert started is not None
    assert started[1] >= (found[1] if found else 20 * S)


def test_without_a_start_grace_a_start_earns_none() -> None:
    assert earned(Silence(S, starting=True), Patience()) is None


def test_a_grace_is_for_those_alive_before_and_their_silence_counts_from_now() -> None:
    grace = Grace().given(NOW, NOW - 80 * S, 60 * S, HOUR)
    assert grace == Grace(NOW - 80 * S, NOW, NOW + 60 * S, 60 * S)


def test_an_outage_within_a_grace_forgives_those_of_the_first_too() -> None:
    first = Grace().given(NOW, NOW - 80 * S, 60 * S, HOUR)
    later = NOW + 100 * S  # it ended 40 s ago, but the second outage began before
    second = first.given(later, NOW + 20 * S, 60 * S, HOUR)
    assert second.since == first.since
    assert second.until == later + 60 * S


def test_an_outage_after_it_begins_anew() -> None:
    first = Grace().given(NOW, NOW - 80 * S, 60 * S, HOUR)
    second = first.given(NOW + 300 * S, NOW + 200 * S, 60 * S, HOUR)
    assert second.since == NOW + 200 * S


def test_an_outage_that_began_earlier_widens_a_grace_that_goes_on() -> None:
    first = Grace().given(NOW, NOW - S, 60 * S, HOUR)
    assert first.given(NOW, EVER, 30 * S, HOUR).since == EVER


def test_without_a_bound_it_is_given_whole_and_counts_for_the_share() -> None:
    spent = Grace().given(NOW, NOW - S, HOUR, 900 * S)
    soon = NOW + 900 * S + S
    assert spent.given(soon, EVER, 300 * S, 900 * S) == spent
    assert spent.given(soon, EVER, 300 * S, None) == Grace(EVER, soon, soon + 300 * S, 1_200 * S)


def test_without_a_bound_it_is_for_everybody_though_no_longer_than_what_is_left() -> None:
    long = Grace().given(NOW, NOW - S, 900 * S, 900 * S)
    assert long.given(NOW, EVER, 300 * S, None) == Grace(EVER, NOW, NOW + 900 * S, 900 * S)


@given(some.timedeltas(min_value=NONE, max_value=HOUR), lengths)
def test_a_shorter_one_never_cuts_a_longer_one(length: timedelta, more: timedelta) -> None:
    first = Grace().given(NOW, NOW - S, length, 10 * HOUR)
    assert first.given(NOW, NOW - S, more, 10 * HOUR).left(NOW) >= first.left(NOW)


@pytest.mark.parametrize("seed", range(50))
def test_in_no_hour_there_is_more_than_its_share(seed: int) -> None:
    """Whatever outages come: 40 random histories of two days each seed, looked at minute by minute."""
    chance = random.Random(seed)
    most = timedelta(minutes=15)
    for _ in range(40):
        now, grace, covered = NOW, Grace(), []
        for _ in range(60):
            now += timedelta(seconds=chance.expovariate(1 / 600))
            before = grace.until or now
            grace = grace.given(now, now - 20 * S, timedelta(seconds=chance.choice((60, 300, 1200))), most)
            if grace.until and grace.until > max(before, now):
                covered.append((max(before, now), grace.until))
        for start, _ in covered:
            window = [min(end, start + HOUR) - begin for begin, end in covered if start <= begin < start + HOUR]
            assert sum(window, NONE) <= most


def test_a_spent_share_comes_back_an_hour_after_the_last_grace() -> None:
    most = timedelta(minutes=15)
    grace = Grace().given(NOW, NOW - S, HOUR, most)
    assert grace.until == NOW + most
    soon = NOW + most + timedelta(minutes=59)
    assert grace.given(soon, soon - S, 60 * S, most) == grace
    later = NOW + most + HOUR
    assert grace.given(later, later - S, 60 * S, most).left(later) == 60 * S


def test_a_clock_that_was_set_back_does_not_lengthen_a_grace() -> None:
    grace = Grace().given(NOW, NOW - S, 60 * S, HOUR)
    back = NOW - HOUR
    assert grace.set_back(back).left(back) == 60 * S
    assert grace.set_back(NOW + S) == grace
    assert grace.set_back(back).since == back
    assert grace.set_back(NOW - S / 2).since == NOW - S, "those who were forgiven stay so"
    assert Grace().set_back(back) == Grace()
