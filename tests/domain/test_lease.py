"""How long an instance may be silent, and how often it should speak: pure decisions."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as some

from manager.domain.instance import InstanceType
from manager.domain.lease import LONGEST, STEP, WARM_POOL, Lease, leases, stretched

S = timedelta(seconds=1)
demands = some.floats(min_value=0, max_value=1e7)


def test_every_type_has_a_lease_and_vllm_and_warm_pools_their_own() -> None:
    general, vllm, warm = Lease(30 * S, 10 * S), Lease(60 * S, 20 * S), Lease(15 * S, 5 * S)
    of = leases(general, vllm, warm)
    assert set(of) == set(InstanceType)
    assert [each for each in of if of[each] == vllm] == [InstanceType.VLLM]
    assert {each for each in of if of[each] == warm} == set(WARM_POOL)


@given(some.floats(min_value=1, max_value=LONGEST), demands)
def test_intervals_stretch_by_little_at_a_time_and_never_below_one(present: float, demand: float) -> None:
    after = stretched(present, demand, 1_000)
    assert 1.0 <= after <= LONGEST * STEP
    assert present / STEP <= after * 1.000001
    assert after <= present * STEP * 1.000001


@given(demands)
def test_they_settle_where_the_load_is_what_it_may_be(demand: float) -> None:
    stretch = 1.0
    for _ in range(60):
        stretch = stretched(stretch, demand, 1_000)
    assert stretched(stretch, demand, 1_000) == stretch
    assert abs(stretch - min(max(demand / 1_000, 1.0), LONGEST)) <= 0.06 * stretch


def test_a_small_fleet_is_not_stretched() -> None:
    assert stretched(1.0, 999, 1_000) == 1.0
