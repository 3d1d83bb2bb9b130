"""The cookbook: every query of it on a known history, and the answers that it prints.

`IM_WRITE_COOKBOOK=1` writes the answers into the page, for whoever then reads whether they are right.
"""

import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Call, Kill, Link, Registration, Update
from manager.domain.grace import Patience
from manager.domain.instance import InstanceId, InstanceType, Service, ServiceType
from manager.domain.lease import Lease, leases
from manager.domain.policy import Policy
from tests.conftest import PASSWORD, Database, _recreate, addressed, at
from tests.fleet import AT_ONCE, Fleet, S, fleet_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cookbook.md"
QUESTION = re.compile(r"^### (.+?)\n(.*?)^```sql\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
QUESTIONS = {found[1]: (found[3], found[4] or "") for found in QUESTION.finditer(PAGE.read_text())}
OF_EVENTS = re.compile(r"\b(events|instances_at|record)\b")

# long, so that nobody falls silent but who is made to
LEASES = leases(Lease(1_000 * S, 1_000 * S), Lease(1_000 * S, 1_000 * S), Lease(1_000 * S, 1_000 * S))
POLICY = Policy(LEASES, Patience(outage_after=10_000 * S, outage_grace=S), pace=S, interval=2 * S, limits=AT_ONCE)

DAY = datetime(2026, 3, 2, tzinfo=UTC)
MIB = 1 << 20


def named(name: str) -> InstanceId:
    """The instance whose id ends so."""
    return InstanceId(UUID(f"{name:0>32}"))


def clock(time: str) -> datetime:
    """That time of the day, such as 16:20 or 16:45:30."""
    return DAY + timedelta(**dict(zip(("hours", "minutes", "seconds"), map(int, time.split(":")), strict=False)))


@dataclass
class Afternoon:
    """A history that is told step by step; when each step was is written into it afterwards."""

    fleet: Fleet
    times: list[tuple[datetime, int]] = field(default_factory=list)

    async def at(self, time: str, *calls: Call) -> None:
        """What was asked for at that time, all of it done."""
        for call in calls:
            (outcome,) = await self.fleet.do(call)
            assert outcome.reason is None
        await self._told(time)

    async def falls_silent(self, time: str, name: str) -> None:
        await self.fleet.silence(1_500, named(name))
        await self.fleet.tick()
        await self._told(time)

    async def recovers(self, time: str, name: str) -> None:
        await self.fleet.check(named(name))
        await self.fleet.tick()
        await self._told(time)

    async def expires(self, time: str, name: str) -> None:
        await self.fleet.silence(4_500, named(name))
        await self.fleet.tick()
        await self._told(time)

    async def _told(self, time: str) -> None:
        self.times.append((clock(time), await self.fleet.head()))

    async def write_times(self) -> None:
        """Every revision is as of its step; on the trail too, which nobody verifies here."""
        await self.fleet.sql.execute("alter table trail disable trigger trail_is_final")
        done = 0
        for moment, revision in self.times:
            span = (moment, done, revision)
            for table, column, of in (
                ("event", "at", "revision"),
                ("instance", "created_at", "created_revision"),
                ("instance", "died_at", "died_revision"),
                ("trail", "at", "revision"),
            ):
                await self.fleet.sql.execute(f"update {table} set {column} = $1 where {of} > $2 and {of} <= $3", *span)
            done = revision
        await self.fleet.sql.execute("update instance set last_seen = died_at - interval '45 seconds'")


def registered(
    name: str, of: InstanceType, host: str, parent: str = "", services: tuple[Service, ...] = ()
) -> Registration:
    return Registration(
        named(name), of, host, {}, named(parent) if parent else None, services, actor=Actor("ann"), timeout=1_000 * S
    )


CHROME, WARM, PROXY = InstanceType.CHROME_BROWSER, InstanceType.WARMPOOL_CHROME_BROWSER, InstanceType.WARMPOOL_PROXY
BACKEND, VLLM = InstanceType.BROWSER_BACKEND, InstanceType.VLLM
DEVTOOLS = Service(ServiceType.CHROME_DEBUG_PORT, "10.0.0.1", 9222)
OPENAI = Service(ServiceType.VLLM_OPENAI_COMPATIBLE, "10.0.0.9", 8000, "/v1")


async def happened(story: Afternoon) -> None:
    """The afternoon."""
    await story.at("16:00", registered("b1", BACKEND, "host-a"))
    await story.at("16:01", *(registered(f"c{each}", CHROME, "host-a", "b1") for each in (2, 3, 4)))
    await story.at("16:01", registered("c1", CHROME, "host-a", "b1", (DEVTOOLS,)))
    await story.at("16:02", registered("e1", VLLM, "gpu-1", services=(OPENAI,)), registered("b2", BACKEND, "host-b"))
    await story.at("16:03", registered("a1", PROXY, "host-b"))
    await story.at("16:04", *(registered(f"d{each}", WARM, "host-b") for each in (1, 2)))
    await story.at("16:05", registered("e2", VLLM, "gpu-2", "b1"))
    await story.at("16:06", Update(named("d1"), CHROME, "host-b", timeout=1_000 * S, actor=Actor("ann")))
    await story.falls_silent("16:10", "a1")
    await story.recovers("16:11", "a1")
    await story.falls_silent("16:12", "a1")
    await story.recovers("16:14", "a1")
    await story.at("16:15", Link(named("b2"), named("e1"), Actor("ann")))
    await story.falls_silent("16:19", "d2")
    await story.at("16:25", Kill(named("c4"), "leaks memory", Actor("bob")))
    await story.at("16:30", Kill(named("b1"), "rollout 7", Actor("bob")))
    await story.expires("16:40", "d2")
    await story.at("16:45", registered("c6", CHROME, "host-a"))
    await story.at("16:45:30", Kill(named("c6"), "", Actor("ann")))


SAMPLES: dict[str, list[tuple[Any, ...]]] = {
    "llm_metrics": [
        ("16:10", "e1", 100, 1_000, 500),
        ("16:50", "e1", 300, 3_000, 1_500),
        ("17:10", "e1", 350, 3_500, 1_700),
        ("16:10", "e2", 10, 200, 100),
        ("16:25", "e2", 40, 800, 400),
    ],
    "system_metrics": [
        ("16:10", "c1", 100 * MIB, 8_192 * MIB),
        ("16:10:30", "c1", 200 * MIB, 8_192 * MIB),
        ("16:20", "c4", 900 * MIB, 8_192 * MIB),
    ],
    "proxy_metrics": [("16:05", "a1", 2, 10, 1_000, 4_000), ("16:35", "a1", 1, 25, 3_000, 9_000)],
    "gpu_metrics": [
        ("16:10", "e1", 0, 30_000 * MIB, 40_000 * MIB, 85.0),
        ("16:40", "e1", 0, 35_000 * MIB, 40_000 * MIB, 60.0),
    ],
}
LATEST: dict[str, list[tuple[Any, ...]]] = {
    "llm_metrics": [("17:10", "e1", 350, 3_500, 1_700)],
    "system_metrics": [("17:10", "e1", 4_000 * MIB, 8_192 * MIB), ("17:10", "b2", 96 * MIB, 8_192 * MIB)],
    "gpu_metrics": [("16:40", "e1", 0, 35_000 * MIB, 40_000 * MIB, 60.0)],
}


async def posted(fleet: Fleet) -> None:
    """The samples, on a day of their own."""
    for table, samples in SAMPLES.items():
        await fleet.sql.execute(
            f"create table {table}_20260302 partition of {table}"
            " for values from ('2026-03-02 00:00+00') to ('2026-03-03 00:00+00')"
        )
        for into, rows in ((table, samples), (f"latest_{table}", LATEST.get(table, []))):
            for time, name, *values in rows:
                moment = clock(time)
                places = ", ".join(f"${number}" for number in range(1, len(values) + 4))
                await fleet.sql.execute(f"insert into {into} values ({places})", moment, named(name), moment, *values)
        await rolled_up(fleet, table)


async def rolled_up(fleet: Fleet, table: str) -> None:
    """What the managers would have made of the samples of that day, which began a week."""
    for level, days, made in (("minutes", 7, "rolled"), ("hours", 28, "hourly")):
        into = f"{table}_{level}"
        await fleet.sql.execute(
            f"create table {into}_20260302 partition of {into}"
            f" for values from ('2026-03-02 00:00+00') to ('{DAY + timedelta(days=days)}')"
        )
        await fleet.sql.execute(
            f"insert into {into} select * from {table}_{made}($1, $2)", DAY, DAY + timedelta(days=1)
        )
        await fleet.sql.execute(
            "update metrics_rollup set done_until = $1 where name = $2", DAY + timedelta(days=1), into
        )


@asynccontextmanager
async def told(cluster: str, template: str, name: str, *, trimmed: bool = False) -> AsyncIterator[Any]:
    """A connection of the record's reader, to a database in which all that has happened."""
    await _recreate(cluster, name, f"template {template} strategy file_copy")
    database: Database = addressed(at(cluster, database=name))
    await database.run(f"alter role im_auditor login password '{PASSWORD}'")
    async with fleet_of(database, POLICY, actor="manager-1") as fleet:
        story = Afternoon(fleet)
        await happened(story)
        await story.write_times()
        await posted(fleet)
        if trimmed:
            await fleet.sql.execute("select compact_history(10_000)")
            await fleet.sql.execute("select delete_compacted(10_000)")
            assert await fleet.value("select count(*) from event") == 0
    connection = await asyncpg.connect(at(cluster, database=name, user="im_auditor", password=PASSWORD))
    yield connection
    await connection.close()
    admin = await asyncpg.connect(cluster)
    await admin.execute(f'drop database "{name}" with (force)')
    await admin.close()


@pytest.fixture(scope="module")
async def afternoon(cluster: str, template: str) -> AsyncIterator[Any]:
    async with told(cluster, template, f"im_test_cookbook_{os.getpid()}") as connection:
        yield connection


@pytest.fixture(scope="module")
async def weeks_later(cluster: str, template: str) -> AsyncIterator[Any]:
    """The same once its events are past their retention, and its dead are not."""
    async with told(cluster, template, f"im_test_cookbook_{os.getpid()}_later", trimmed=True) as connection:
        yield connection


def shown(rows: Sequence[Any]) -> str:
    """Rows as the page shows them: aligned, with a head."""
    cells = [list(rows[0].keys()), *([_cell(each) for each in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells
    )


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%H:%M:%S}"
    if isinstance(value, UUID):
        return f"…{str(value)[-2:]}"
    return "-" if value is None else str(value)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_the_answer_is_exact(afternoon: Any, question: str) -> None:
    query, answer = QUESTIONS[question]
    rows = await afternoon.fetch(query)
    assert rows, "an empty answer proves nothing"
    if os.environ.get("IM_WRITE_COOKBOOK"):
        _write(query, shown(rows))
    else:
        assert shown(rows) == answer


@pytest.mark.parametrize("question", [each for each, (query, _) in QUESTIONS.items() if not OF_EVENTS.search(query)])
async def test_what_does_not_ask_the_events_is_answered_alike_once_they_are_trimmed(
    weeks_later: Any, question: str
) -> None:
    query, answer = QUESTIONS[question]
    assert shown(await weeks_later.fetch(query)) == answer


async def test_tokens_by_subtree_and_tokens_by_the_hour_come_to_the_same(afternoon: Any) -> None:
    sums = [
        sum(row["sent"] for row in await afternoon.fetch(QUESTIONS[question][0]))
        for question in ("How many tokens by the hour?", "How many tokens by subtree and hour?")
    ]
    assert sums[0] == sums[1]


def _write(query: str, answer: str) -> None:
    page = PAGE.read_text()
    place = re.compile(re.escape(f"```sql\n{query}```\n") + r"(?:\n```text\n.*?^```\n)?", re.M | re.S)
    PAGE.write_text(place.sub(lambda _: f"```sql\n{query}```\n\n```text\n{answer}```\n", page))


def test_the_cookbook_has_twenty_questions_and_each_of_them_an_answer() -> None:
    assert len(QUESTIONS) >= 20
    assert PAGE.read_text().count("```sql") == len(QUESTIONS)
    assert all(answer for _, answer in QUESTIONS.values())
