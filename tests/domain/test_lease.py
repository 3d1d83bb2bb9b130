"""How long silence is forgiven: a pure decision."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as some

from manager.domain.instance import InstanceType
from manager.domain.lease import Lease, Patience, grace_after, leases

S = timedelta(seconds=1)
PATIENCE = Patience(outage_after=10 * S, outage_grace=60 * S, start_grace=20 * S)
gaps = some.timedeltas(min_value=-3600 * S, max_value=3600 * S)


@given(some.timedeltas(min_value=0 * S, max_value=10 * S))
def test_a_gap_of_up_to_the_limit_earns_nothing(gap: timedelta) -> None:
    assert grace_after(gap, False, PATIENCE) == 0 * S


@given(some.timedeltas(min_value=10 * S, max_value=3600 * S).filter(lambda gap: gap > 10 * S))
def test_a_longer_one_earns_grace(gap: timedelta) -> None:
    assert grace_after(gap, False, PATIENCE) == 60 * S


@given(some.timedeltas(min_value=-3600 * S, max_value=-S))
def test_a_clock_that_was_set_back_counts_as_an_outage(gap: timedelta) -> None:
    assert grace_after(gap, False, PATIENCE) == 60 * S


@given(gaps, some.booleans())
def test_a_start_never_earns_less(gap: timedelta, starting: bool) -> None:
    assert grace_after(gap, True, PATIENCE) >= grace_after(gap, False, PATIENCE)
    assert grace_after(gap, True, PATIENCE) >= 20 * S


def test_every_type_has_a_lease_and_vllm_its_own() -> None:
    general, vllm = Lease(30 * S, 10 * S), Lease(60 * S, 20 * S)
    of = leases(general, vllm)
    assert set(of) == set(InstanceType)
    assert [each for each in of if of[each] == vllm] == [InstanceType.VLLM]
