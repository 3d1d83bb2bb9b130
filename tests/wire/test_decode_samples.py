"""Samples read many at once: what one by one is taken is taken, and whatever is refused so is refused."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.domain.metrics import GpuSample, LlmSample, Post, ProxySample, SystemSample
from manager.domain.refusals import InvalidRequest
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.wire import batches, decode

KINDS: dict[type[Any], type[Any]] = {
    ProxySample: pb.ProxyMetrics,
    SystemSample: pb.SystemMetrics,
    GpuSample: pb.GpuMetrics,
    LlmSample: pb.LlmMetrics,
}
ID = "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f"
GOOD_ID = st.uuids().map(str) | st.uuids().map(lambda each: str(each).upper())
BAD_ID = st.sampled_from(
    [
        "",
        ID[:-1],
        ID + "0",
        ID.replace("-", ""),
        "{" + ID[1:-1] + "}",
        ID[:-1] + "g",
        ID[:-1] + "\u0663",  # a digit, but no hexadecimal one
        ID[:-2] + "  ",
        " " + ID[1:],
        ID[:-1] + "-",
        ID[:8] + "0" + ID[9:],
        ID[:7] + "-" + ID[7] + ID[9:],
        "urn:uuid:" + ID,
    ]
)
GOOD_TIME = st.integers(0, decode.MAX_MILLISECONDS)
BAD_TIME = st.integers(-(2**63), -1) | st.integers(decode.MAX_MILLISECONDS + 1, 2**63 - 1)
GOOD: dict[str, st.SearchStrategy[Any]] = {"gpu_index": st.integers(0, 1023), "utilization_percent": st.floats(0, 100)}
BAD: dict[str, st.SearchStrategy[Any]] = {
    "gpu_index": st.integers(1024, 2**32 - 1),
    "utilization_percent": st.one_of(
        st.sampled_from([float("nan"), float("inf"), float("-inf"), 100.00000000000001, -5e-324]),
        st.floats(max_value=-1e-9),
        st.floats(min_value=100.001),
    ),
}


def message(kind: type[Any], *, bad: str = "") -> st.SearchStrategy[Any]:
    """A sample; `bad` is the field that is wrong in it."""
    fields = {
        "instance_id": BAD_ID if bad == "instance_id" else GOOD_ID,
        "timestamp_ms": BAD_TIME if bad == "timestamp_ms" else GOOD_TIME,
    }
    for name in kind._fields[2:]:
        good = GOOD.get(name, st.integers(0, 2**63 - 1))
        fields[name] = BAD.get(name, st.integers(2**63, 2**64 - 1)) if bad == name else good
    return st.builds(KINDS[kind], **fields)


FIELDS = [(kind, field) for kind, made in KINDS.items() for field in made.DESCRIPTOR.fields_by_name]


def name_of(each: Any) -> str:
    """Of a test's argument."""
    return each if isinstance(each, str) else str(each.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
@settings(deadline=None)
@given(data=st.data())
def test_what_is_taken_one_by_one_is_taken_together(kind: type[Any], data: st.DataObject) -> None:
    messages = data.draw(st.lists(message(kind), min_size=1, max_size=20))
    assert decode.samples(kind, messages) == [decode.sample(kind, each) for each in messages]


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=name_of)
@settings(deadline=None)
@given(data=st.data())
def test_one_bad_sample_is_named_wherever_it_is_and_the_others_are_taken(
    kind: type[Any], field: str, data: st.DataObject
) -> None:
    good = data.draw(st.lists(message(kind), max_size=6))
    place = data.draw(st.integers(0, len(good)))
    bad = data.draw(message(kind, bad=field))
    given = [*good[:place], bad, *good[place:]]
    with pytest.raises(InvalidRequest) as refused:
        decode.sample(kind, bad)
    assert refused.value.field == field
    assert decode.samples(kind, given) is None
    name = next(name for name, each in batches.SAMPLES.items() if each is kind)
    posts, problems = batches.samples(fleet_pb2.MetricsBatch(**{name: given}))
    assert [each.samples for each in posts] == [[decode.sample(kind, each) for each in good]]
    assert [(type(each), str(each)) for each in problems] == [
        (InvalidRequest, str(InvalidRequest(f"{name}[{place}].{field}", refused.value.problem)))
    ]


@settings(deadline=None)
@given(ids=st.lists(GOOD_ID, min_size=2, max_size=4), shift=st.integers(1, 35))
def test_ids_that_are_whole_only_together_are_refused(ids: list[str], shift: int) -> None:
    joined = "".join(ids)
    first, *others = (len(ids[0]) - shift, *(36 for _ in ids[1:-1]), 36 + shift)
    cuts = [0, first]
    for each in others:
        cuts.append(cuts[-1] + each)
    parts = [joined[begin:end] for begin, end in pairwise(cuts)]
    assert "".join(parts) == joined
    assert decode.samples(SystemSample, [pb.SystemMetrics(instance_id=each) for each in parts]) is None


def test_an_empty_batch_and_one_of_nothing_but_bad_samples_take_nothing() -> None:
    assert batches.samples(fleet_pb2.MetricsBatch()) == ([], [])
    posts, problems = batches.samples(fleet_pb2.MetricsBatch(llm=[pb.LlmMetrics()] * 3))
    assert posts == [Post(LlmSample, [])]
    assert len(problems) == 3
