"""Samples of any values: what PostgreSQL reads back is what was posted, in the order of arrival."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, Post, Posted, ProxySample, SystemSample
from manager.presence import new_id
from manager.repository import metrics
from manager.repository.metrics import TABLE, latest, store
from tests.conftest import Database
from tests.fleet import EPOCH, Fleet, S, fleet_of, posted

LAST = 253402300799999  # milliseconds
AMOUNT = st.one_of(st.integers(0, 9), st.integers(0, 2**63 - 1), st.just(2**63 - 1))
TIME = st.one_of(st.integers(0, LAST), st.sampled_from([0, LAST, 946684799999, 946684800001, 951782400000]))
PERCENT = st.floats(0, 100)
VALUES: dict[type[Any], tuple[st.SearchStrategy[float], ...]] = {
    SystemSample: (AMOUNT, AMOUNT),
    ProxySample: (AMOUNT, AMOUNT, AMOUNT, AMOUNT),
    GpuSample: (st.integers(0, 2), AMOUNT, AMOUNT, PERCENT),
    LlmSample: (AMOUNT, AMOUNT, AMOUNT),
}
LIVING, DEAD, UNKNOWN = range(3), 3, 4


@st.composite
def posts(draw: st.DrawFn) -> list[Post]:
    """A few, of all kinds, of the living and of others, who are numbers yet."""
    ids = st.sampled_from([*LIVING, DEAD, UNKNOWN]).map(lambda each: bytes([each]))
    return [
        Post(kind, draw(st.lists(st.tuples(ids, TIME, *VALUES[kind]), min_size=1, max_size=12)))
        for kind in draw(st.lists(st.sampled_from(list(VALUES)), max_size=8))
    ]


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


@pytest.fixture
async def ids(fleet: Fleet) -> list[InstanceId]:
    """Of those whom the numbers mean."""
    found = [await fleet.add() for _ in (*LIVING, DEAD)]
    await fleet.kill(found[DEAD])
    return [*found, new_id()]


def as_posted(row: Any) -> Posted:
    """A row of the history, or of the latest, as it was posted."""
    _, of, measured, *values = row
    return of.bytes, round((measured - EPOCH) / S * 1000), *values


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=posts(), size=st.sampled_from([1, 3, 2_500]))
async def test_what_is_read_back_is_what_was_posted_in_the_order_of_arrival(
    fleet: Fleet, ids: list[InstanceId], given: list[Post], size: int
) -> None:
    given = [Post(kind, [(ids[one[0]].bytes, time, *values) for one, time, *values in some]) for kind, some in given]
    for table in TABLE.values():
        await fleet.sql.execute(f"truncate {table}, latest_{table}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "SLICE", size)
        async with fleet.connections.samples.use() as connection:
            count = await store(connection, given)
    alive = {ids[each].bytes for each in LIVING}
    wanted = {
        kind: [each for post in given if post.kind is kind for each in post.samples if each[0] in alive]
        for kind in TABLE
    }
    assert count == sum(map(len, wanted.values()))
    for kind, table in TABLE.items():
        rows = await fleet.rows(f"select * from {table} order by at")
        assert [as_posted(row) for row in rows] == wanted[kind]
        newest = {metrics.KEY[kind](as_posted(row)): tuple(row) for row in rows}
        shown = await fleet.rows(f"select * from latest_{table}")
        assert {metrics.KEY[kind](as_posted(row)): tuple(row) for row in shown} == newest


async def test_the_times_of_arrival_are_behind_those_of_the_samples_before(fleet: Fleet, ids: list[InstanceId]) -> None:
    one = ids[0].bytes
    async with fleet.connections.samples.use() as connection:
        for start in range(0, 30, 10):
            samples: list[Posted] = [(one, 0, start + place, 0) for place in range(10)]
            await store(connection, [Post(SystemSample, samples)])
    rows = await fleet.rows("select used_memory_bytes, at from system_metrics order by at")
    assert [row["used_memory_bytes"] for row in rows] == list(range(30))
    assert len({row["at"] for row in rows}) == 30


@pytest.mark.parametrize("kind", TABLE)
async def test_the_highest_values_are_read_as_they_were_posted(
    fleet: Fleet, ids: list[InstanceId], kind: type[Any]
) -> None:
    of = ids[0]
    highest = {"gpu_index": 1023, "utilization_percent": 99.99999999999999}
    values = [highest.get(each, 2**63 - 1) for each in kind._fields[2:]]
    sample = kind(of, EPOCH + S * (LAST // 1000) + S * 999 / 1000, *values)
    async with fleet.connections.samples.use() as connection:
        assert await store(connection, [posted(sample)]) == 1
        assert await latest(connection, [of], kind) == {of: [sample]}
