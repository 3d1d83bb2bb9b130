"""Several hosts: the primary is the one ahead of all, and who was left behind is never gone back to."""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

import pytest

from manager.domain.calls import Registration
from manager.domain.instance import InstanceType
from manager.domain.refusals import Unavailable
from manager.embedded import start
from manager.presence import new_id
from manager.repository import hosts as module
from manager.repository.database import connect
from manager.repository.hosts import Answers, Host, Hosts, Known, NoPrimary, Server, hosts_of, who
from tests.conftest import PASSWORD, Database, admitted
from tests.faults.copies import caught_up, promote, standby_of
from tests.faults.postgres import migrated, started
from tests.fleet import fleet_of
from tests.stream import dumps

A, B, C = Host("a", 1), Host("b", 1), Host("c", 1)
OURS, FOREIGN = 7, 8
AWAY = TimeoutError()


def server(timeline: int, *, writable: bool = True, system: int = OURS, since: int = 0) -> Server:
    return Server(system, timeline, writable, datetime(2000, 1, 1, second=since, tzinfo=UTC))


OLD, NEW, FOLLOWER = server(1), server(2, since=1), server(1, writable=False)


# ── which one is the primary ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@a:1,b:1/db", (A, B)),
        ("postgresql+asyncpg://u:p%40@a:1,b:1,a:1/db?sslmode=require", (A, B)),
        ("postgresql://a,b:1/db", (Host("a"), B)),
        ("postgresql://u@/db?host=a,b&port=1", (A, B)),
        ("postgresql://u@/db?host=a,b&port=1,2", (A, Host("b", 2))),
        ("postgresql://u@/db?host=/run/a,[::1]:2,b:1", (Host("/run/a"), Host("::1", 2), B)),
        ("postgresql://%2Frun%2Fa,b:1/db", (Host("/run/a"), B)),
        ("postgresql://u:p@[::1]:1/db", (Host("::1", 1),)),
        ("postgresql:///db?user=u", (Host(""),)),
    ],
)
def test_an_address_names_its_hosts(url: str, hosts: tuple[Host, ...]) -> None:
    assert hosts_of(url) == hosts


def test_the_one_that_takes_writes_on_the_highest_timeline_is_the_primary() -> None:
    assert Known().after({A: OLD, B: FOLLOWER}) == Known(OURS, 1, A)
    assert Known().after({A: FOLLOWER, B: OLD}) == Known(OURS, 1, B)
    assert Known().after({A: OLD, B: NEW}) == Known(OURS, 2, B)
    assert Known(OURS, 1, A).after({A: OLD, B: NEW}) == Known(OURS, 2, B)
    assert Known(OURS, 1, A).after({A: NEW, B: AWAY}) == Known(OURS, 2, A)


def test_a_timeline_that_was_left_is_never_gone_back_to() -> None:
    known = Known(OURS, 2, B)
    assert known.after({A: OLD, B: AWAY}) == known
    assert known.after({A: OLD, B: server(2, writable=False)}) == Known(OURS, 2, None)
    assert Known(OURS, 2, None).after({A: OLD, B: AWAY}) == Known(OURS, 2, None)


def test_a_standby_of_the_new_primary_is_proof_of_it() -> None:
    behind = Known(OURS, 1, A).after({A: OLD, B: AWAY, C: server(2, writable=False)})
    assert behind == Known(OURS, 2, None)


def test_who_merely_does_not_answer_remains_the_primary() -> None:
    known = Known(OURS, 1, A)
    assert known.after({A: AWAY, B: AWAY}) == known
    assert known.after({A: AWAY, B: FOLLOWER}) == known
    assert known.after({A: FOLLOWER, B: AWAY}) == Known(OURS, 1, None)


def test_of_two_that_take_writes_on_one_timeline_none_is_the_primary() -> None:
    assert Known(OURS, 1, A).after({A: AWAY, B: NEW, C: server(2, since=2)}) == Known(OURS, 2, None)


def test_one_server_may_have_two_names() -> None:
    assert Known(OURS, 1, B).after({A: OLD, B: OLD}) == Known(OURS, 1, B)


def test_a_server_of_another_cluster_is_never_the_primary() -> None:
    stranger = server(9, system=FOREIGN)
    assert Known().after({A: stranger, B: OLD, C: FOLLOWER}) == Known(OURS, 1, B)
    assert Known(OURS, 1, None).after({A: stranger, B: AWAY}) == Known(OURS, 1, None)
    assert Known(OURS, 1, A).after({A: stranger, B: FOLLOWER}) == Known(OURS, 1, None)


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def twice(database: Database) -> str:
    """The database's one server under two names."""
    return database.url.replace(at(database), f"{at(database)},localhost:{at(database).rpartition(':')[2]}")


def at(database: Database) -> str:
    return database.url.rpartition("@")[2].partition("/")[0]


async def test_a_single_host_is_not_asked(database: Database) -> None:
    hosts = Hosts(database.url)
    connection = await connect(hosts, name="a test")
    await hosts.heed()
    assert hosts.known == Known()
    assert not hosts.left(1, 1)
    await connection.close()


async def test_connections_to_a_server_that_was_left_are_closed() -> None:
    async with started(settings={"fsync": "off"}) as primary, standby_of(primary) as follower:
        database = await migrated(primary)
        await caught_up(primary, follower)
        hosts = Hosts(database.url.replace(primary.address, f"{primary.address},{follower.address}"))
        old = await connect(hosts, name="a test")
        await hosts.ask(10)
        assert (await who(old)).timeline == 1
        await promote(follower)
        await hosts.ask(10)
        assert old.is_closed()
        new = await connect(hosts, name="a test")
        assert await new.fetchval("select inet_server_port()") == follower.port
        await hosts.ask(10)
        assert not new.is_closed()
        await new.close()


async def test_a_connection_that_is_made_while_another_is_promoted_is_refused(database: Database) -> None:
    hosts = Hosts(twice(database))
    await hosts.ask()
    system = hosts.known.system
    assert system is not None
    hosts.known = replace(hosts.known, timeline=9)
    with pytest.raises(NoPrimary, match=r"is on timeline 1, and 9 has begun"):
        await connect(hosts, name="a test")
    assert hosts.left(system, 1)


async def test_a_turn_on_a_server_that_was_left_changes_nothing(database: Database) -> None:
    async with fleet_of(replace(database, url=twice(database))) as fleet:
        await fleet.add()
        known = fleet.connections.hosts.known
        fleet.connections.hosts.known = replace(known, timeline=known.timeline + 1)
        with pytest.raises(Unavailable):
            await fleet.turns.submit(Registration(new_id(), InstanceType.CHROME_BROWSER))
        assert len(await fleet.living()) == 1


async def test_a_process_that_stood_still_asks_before_it_does_anything(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_of(replace(database, url=twice(database))) as fleet:
        await fleet.add()
        hosts, asked = fleet.connections.hosts, list[Answers]()
        monkeypatch.setattr(hosts, "learn", asked.append)
        await fleet.add()
        assert not asked
        monkeypatch.setattr(module, "OLD", 0.0)
        await fleet.add()
        assert asked


async def test_who_comes_together_is_asked_for_together(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, rounds = Hosts(twice(database)), list[Answers]()
    monkeypatch.setattr(hosts, "learn", rounds.append)
    await asyncio.gather(*(hosts.ask() for _ in range(50)))
    assert len(rounds) <= 2


async def test_a_host_that_takes_its_time_keeps_nobody_waiting_for_long(database: Database) -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    held = asyncio.Event()
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    begun = monotonic()
    connection = await connect(database.url.replace("@", f"@127.0.0.1:{port},", 1), name="a test")
    assert monotonic() - begun < 3
    await connection.close()
    held.set()
    listener.close()


# ── what people are told ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_change_of_primary_is_told_once_and_a_stranger_is_named(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "manager.repository.hosts")
    with start(None, ephemeral=True, durable=False) as other:
        await dumps.roles(database.admin, other.url())
        await other.create_database(database.name)
        stranger = await admitted(other.url(database=database.name))
        hosts = Hosts(twice(database).replace(at(database), f"{at(database)},{at(stranger)}"))
        for _ in range(3):
            await (await connect(hosts, name="a test")).close()
            await hosts.ask()
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == 2
    assert said[0].startswith(f"{at(stranger)} is refused: its system identifier is")
    assert said[1] == f"the primary is {at(database)}, on timeline 1"


async def test_without_a_primary_each_host_is_named_with_the_reason(database: Database) -> None:
    closed = database.url.replace(at(database), "127.0.0.1:1,localhost:1")
    with pytest.raises(NoPrimary, match=r"127\.0\.0\.1:1 does not answer \(.+\); localhost:1 does not") as refused:
        await connect(closed, name="a test")
    assert PASSWORD not in str(refused.value)
