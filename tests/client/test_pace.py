import pytest

from manager.client.pace import Patience, check_deadline, check_delay, now, retry_delay


def test_checks_come_at_a_third_of_the_timeout_give_or_take_a_fifth() -> None:
    assert [check_delay(Patience(30), draw) for draw in (0, 0.5, 1)] == pytest.approx([8, 10, 12])


def test_the_manager_may_ask_for_longer_intervals_but_not_of_the_strict() -> None:
    assert check_delay(Patience(30), 0.5, told=25) == 25
    assert check_delay(Patience(30, strict=True), 0.5, told=25) == 10
    assert check_delay(Patience(30, strict=True), 0.5, told=7) == 7


def test_retries_have_full_jitter_below_a_bound_that_doubles() -> None:
    assert [retry_delay(failures, 300, 1.0) for failures in (1, 2, 3, 4, 5, 6, 99)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert retry_delay(5, 300, 0.0) == 0


def test_a_retry_never_comes_later_than_the_next_check_would() -> None:
    assert retry_delay(99, 3, 1.0) == 1
    assert retry_delay(1, 3, 1.0, asked=60) == 1


def test_a_retry_waits_as_long_as_the_manager_asks() -> None:
    assert retry_delay(1, 300, 0.0, asked=7) == 7


def test_a_check_leaves_time_for_two_more() -> None:
    assert check_deadline(3) == 1
    assert check_deadline(3600) == 10


def test_by_default_an_instance_outlives_its_timeout() -> None:
    patience = Patience(timeout=30)
    assert not patience.over(good=100, at=999)
    assert patience.over(good=100, at=1000)
    assert patience.limit(good=100, at=2000) is None


def test_the_strict_end_with_their_timeout_to_the_moment() -> None:
    patience = Patience(timeout=30, strict=True)
    assert patience.limit(good=100, at=110) == 20
    assert patience.limit(good=100, at=131) == 0
    assert patience.over(good=100, at=130)


def test_the_clock_only_goes_forward() -> None:
    times = [now() for _ in range(1000)]
    assert times == sorted(times)
