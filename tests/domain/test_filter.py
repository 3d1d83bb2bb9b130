"""Filters: which ids a prefix means, and when two filters are the same."""

from random import Random
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from manager.domain.filter import Filter
from manager.domain.instance import InstanceId, InstanceType
from manager.wire.decode import id_range

labels = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=4)


@given(st.uuids(), st.integers(1, 36))
def test_an_id_is_in_the_range_of_each_beginning_of_it(one: UUID, length: int) -> None:
    lowest, highest = id_range(str(one)[:length])
    assert lowest <= one <= highest
    assert id_range(str(one)[:length].upper()) == (lowest, highest)


@given(st.uuids(), st.integers(1, 36), st.uuids())
def test_an_id_is_in_the_range_of_a_prefix_if_its_text_begins_with_it_and_only_then(
    one: UUID, length: int, other: UUID
) -> None:
    prefix = str(one)[:length]
    lowest, highest = id_range(prefix)
    assert (lowest <= other <= highest) == str(other).startswith(prefix)
    neighbours = [UUID(int=number) for number in (lowest.int - 1, highest.int + 1) if 0 <= number < 1 << 128]
    assert not any(str(each).startswith(prefix) for each in neighbours)


@given(labels, st.randoms())
def test_the_order_of_labels_is_no_part_of_a_filter(given: dict[str, str], random: Random) -> None:
    shuffled = list(given.items())
    random.shuffle(shuffled)
    assert Filter(labels=dict(shuffled)).digest == Filter(labels=given).digest


def test_each_criterion_is_a_part_of_a_filter() -> None:
    one = InstanceId(UUID(int=1))
    others = [
        Filter(),
        Filter(ids=(one,)),
        Filter(id_range=(one, one)),
        Filter(types=(InstanceType.VLLM,)),
        Filter(hostnames=("a",)),
        Filter(labels={"a": ""}),
        Filter(parent=one),
        Filter(subtree_of=one),
    ]
    assert len({each.digest for each in others}) == len(others)
