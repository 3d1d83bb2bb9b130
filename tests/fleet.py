"""A manager without its wire, on a test's own database, and the words by which tests arrange a fleet."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from manager.checks import Checks
from manager.domain.actor import Actor
from manager.domain.calls import Call, Kill, Link, Offer, Outcome, Registration, Tick
from manager.domain.grace import Patience
from manager.domain.instance import Cause, InstanceId, InstanceType, Service, ServiceType
from manager.domain.lease import Lease, leases
from manager.domain.metrics import Post, Sample
from manager.domain.policy import Policy
from manager.domain.preservation import Limits
from manager.presence import new_id
from manager.repository.database import Database as Connections
from manager.repository.trim import Retention
from manager.turns import Turns
from tests.conftest import NOTIFY, Database

S = timedelta(seconds=1)
LEASES = leases(Lease(30 * S, 10 * S), Lease(60 * S, 20 * S), Lease(15 * S, 5 * S))
# whoever is due dies at once: what holds back has tests of its own
AT_ONCE = Limits(rate=1e6, burst=1e6, size=10**9)
POLICY = Policy(LEASES, Patience(), pace=S, interval=2 * S, limits=AT_ONCE, notify=NOTIFY)

Answer = Outcome | BaseException


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def posted(sample: Sample) -> Post:
    """One that is read, as it was posted."""
    of, measured, *values = sample
    return Post(type(sample), [(of.bytes, (measured - EPOCH) // timedelta(milliseconds=1), *values)])


def service(port: int = 9222, host: str = "10.0.0.1", path: str = "") -> Service:
    """A DevTools port."""
    return Service(ServiceType.CHROME_DEBUG_PORT, host, port, path)


@dataclass
class Fleet:
    """What one manager does to the fleet; `sql` is a superuser's connection of its own."""

    connections: Connections
    turns: Turns
    checks: Checks
    sql: Any
    actor: str = "a test"

    async def answers(self, *calls: Call) -> Sequence[Answer]:
        """What became of calls that waited together, and so share a turn; refusals as they are."""
        return await asyncio.gather(*map(self.turns.submit, calls), return_exceptions=True)

    async def do(self, *calls: Call) -> list[Outcome]:
        """What became of calls that share a turn, none of them refused as bad input."""
        return list(await asyncio.gather(*map(self.turns.submit, calls)))

    async def add(
        self,
        parent: InstanceId | None = None,
        *,
        of: InstanceType = InstanceType.CHROME_BROWSER,
        timeout: timedelta | None = None,
        services: tuple[Service, ...] = (),
        labels: Mapping[str, str] | None = None,
    ) -> InstanceId:
        """A new instance."""
        call = Registration(new_id(), of, "host", labels or {}, parent, services, timeout, Actor(self.actor))
        (outcome,) = await self.do(call)
        assert outcome.reason is None
        return call.id

    async def chain(self, length: int) -> list[InstanceId]:
        """New instances, each but the first a child of the one before, from the root down; one turn."""
        ids = [new_id() for _ in range(length)]
        calls = [
            Registration(each, InstanceType.CHROME_BROWSER, parent=parent, actor=Actor(self.actor))
            for each, parent in zip(ids, [None, *ids], strict=False)
        ]
        assert all(outcome.reason is None for outcome in await self.do(*calls))
        return ids

    async def kill(self, aim: InstanceId, note: str = "") -> Outcome:
        """Kills one, alone in its turn."""
        return (await self.do(Kill(aim, note, Actor(self.actor))))[0]

    async def link(self, parent: InstanceId, child: InstanceId) -> Outcome:
        """Links two, alone in their turn."""
        return (await self.do(Link(parent, child, Actor(self.actor))))[0]

    async def offer(self, of: InstanceId, offered: Service) -> Outcome:
        """Adds a service, alone in its turn."""
        return (await self.do(Offer(of, offered, Actor(self.actor))))[0]

    async def check(self, *ids: InstanceId) -> list[Outcome]:
        """What health checks that wait together are told."""
        return list(await asyncio.gather(*map(self.checks.submit, ids)))

    async def silence(self, seconds: float, *ids: InstanceId) -> None:
        """Makes instances (all, if none is named) as silent as if they had been heard of last so long ago."""
        await self.sql.execute(
            "update heartbeat set last_seen = clock_timestamp() - $1::interval"
            " where cardinality($2::uuid[]) = 0 or instance_id = any($2)",
            timedelta(seconds=seconds),
            list(ids),
        )

    async def ticked(self, seconds: float) -> None:
        """Puts the last tick so long ago."""
        await self.sql.execute(
            "update control set ticked_at = clock_timestamp() - $1::interval", timedelta(seconds=seconds)
        )

    async def tick(self, *, since: float = 2, starting: bool = False) -> Outcome:
        """The reaper's pass, so many seconds after the one before it."""
        await self.ticked(since)
        return (await self.do(Tick(Actor(self.actor), starting)))[0]

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """Rows of a statement, as a superuser."""
        return list(await self.sql.fetch(statement, *arguments))

    async def value(self, statement: str, *arguments: object) -> Any:
        """The one value of a statement, as a superuser."""
        return await self.sql.fetchval(statement, *arguments)

    async def head(self) -> int:
        """The latest revision."""
        return int(await self.value("select coalesce(max(revision), 0) from event"))

    async def story(self, after: int = 0) -> list[tuple[int, int, str, InstanceId]]:
        """What was told since a revision: revision, ordinal, type, instance."""
        rows = await self.rows(
            "select revision, ordinal, type, instance_id from event_log where revision > $1 order by 1, 2", after
        )
        return [tuple(row) for row in rows]

    async def told(self, kind: str, after: int = 0) -> list[InstanceId]:
        """Of whom an event of that type was told since a revision, in its order."""
        return [instance for _, _, each, instance in await self.story(after) if each == kind]

    async def retain(self, retention: Retention) -> None:
        """Has everything kept so long and no longer, as a superuser, who alone may shorten it."""
        given = asdict(retention)
        columns = ", ".join(f"{name}_kept = ${place}" for place, name in enumerate(given, 1))
        await self.sql.execute(f"update control set {columns}", *given.values())

    async def living(self) -> set[InstanceId]:
        """Who is alive."""
        return {row["id"] for row in await self.rows("select id from instance where died_revision is null")}

    async def deaths(self) -> dict[InstanceId, tuple[int, Cause, InstanceId]]:
        """Revision, cause and root cause of all the dead."""
        rows = await self.rows(
            "select id, died_revision, death_cause, root_cause from instance where died_revision is not null"
        )
        return {row["id"]: (row["died_revision"], Cause(row["death_cause"]), row["root_cause"]) for row in rows}


@asynccontextmanager
async def fleet_of(database: Database, policy: Policy = POLICY, actor: str = "a test") -> AsyncIterator[Fleet]:
    """A manager's turns and checks, served until left."""
    connections = Connections(database.url, read_connections=2)
    turns = Turns(connections.turns, policy, linger=S / 1000, size=2_000, queue=50_000)
    checks = Checks(connections.checks, linger=S / 200, size=5_000, queue=50_000)
    sql = await asyncpg.connect(database.admin)
    try:
        async with asyncio.TaskGroup() as lanes:
            for lane in (turns.lane, checks.lane):
                lanes.create_task(lane.serve())
            yield Fleet(connections, turns, checks, sql, actor)
            for lane in (turns.lane, checks.lane):
                lane.close()
    finally:
        await sql.close()
        await connections.close()
