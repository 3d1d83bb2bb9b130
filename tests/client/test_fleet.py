"""A fleet over real managers: what it shows and tells, through breaks, take-overs, restores and lost history."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

import pytest

from manager.client import (
    Added,
    BecameStale,
    Change,
    Client,
    Fleet,
    InvalidRequestError,
    Linked,
    Recovered,
    Removed,
    Resynced,
    ServiceAdded,
    Updated,
    new_id,
)
from manager.client.follower import resume_delay
from manager.pb.instance_manager_pb2 import (
    BROWSER_BACKEND,
    CAUSE_KILLED,
    CAUSE_LEFT_FILTER,
    CAUSE_PARENT_DIED,
    CAUSE_UNSPECIFIED,
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    VLLM,
    VLLM_OPENAI_COMPATIBLE,
    WARMPOOL_CHROME_BROWSER,
    AddChildRequest,
    AddServiceRequest,
    InstanceDescription,
    InstanceRequest,
    InstanceType,
    KillRequest,
    Service,
)
from manager.repository.database import Database as Connections
from manager.repository.turn import open_epoch
from manager.server import Serving
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.proxy import Proxy, proxied

PORT = Service(service_type=CHROME_DEBUG_PORT, host="h", port=1)
BROWSERS = (CHROME_BROWSER, WARMPOOL_CHROME_BROWSER)


@dataclass
class Hearing:
    """All that a fleet told."""

    changes: list[Change] = field(default_factory=list)

    def hear(self, change: Change) -> None:
        """The fleet's callback."""
        self.changes.append(change)

    def take(self) -> list[tuple[type[Change], str]]:
        """What was told since the last time: kinds and ids."""
        taken, self.changes = self.changes, []
        return [(type(each), "" if isinstance(each, Resynced) else each.member.id) for each in taken]


@pytest.fixture
async def client(server: Serving) -> AsyncIterator[Client]:
    async with Client(server.addresses[0]) as connected:
        yield connected


@pytest.fixture
async def proxy(server: Serving) -> AsyncIterator[Proxy]:
    async with proxied(server.addresses[0]) as one:
        yield one


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Waits until it holds."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


def reaping(settings: Settings, interval: timedelta) -> Settings:
    """A reaper that comes often, and has no patience with what seems to be the test database's long outage."""
    return settings.model_copy(update={"reaper_interval": interval, "outage_grace": timedelta(0)})


def often(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The manager sends bookmarks at this pace."""
    monkeypatch.setattr("manager.subscription.BOOKMARK_EVERY", seconds)
    monkeypatch.setattr("manager.subscription.PATIENCE", seconds)


def shows(fleet: Fleet, instance_id: str) -> Callable[[], bool]:
    """Whether the fleet has it."""
    return lambda: fleet.get(instance_id) is not None


async def add(
    client: Client, of: InstanceType.ValueType = CHROME_BROWSER, *services: Service, parent: str = "", host: str = "h"
) -> str:
    one = InstanceDescription(
        instance_id=new_id(), instance_type=of, hostname=host, parent_id=parent, services=services, labels={"k": host}
    )
    assert (await client.try_.TryAddInstance(one)).value
    return one.instance_id


async def become(client: Client, instance_id: str, of: InstanceType.ValueType) -> None:
    one = InstanceDescription(instance_id=instance_id, instance_type=of, hostname="h")
    assert (await client.try_.TryUpdateInstance(one)).value


async def kill(client: Client, instance_id: str) -> None:
    assert (await client.try_.TryKillInstance(KillRequest(instance_id=instance_id))).value


async def test_it_shows_what_is_there_and_every_change_as_it_comes(client: Client) -> None:
    there = await add(client, BROWSER_BACKEND)
    hearing = Hearing()
    async with Fleet(client, told=hearing.hear, types=[*BROWSERS, BROWSER_BACKEND]) as fleet:
        await fleet.wait_synced(10)
        assert [each.id for each in fleet.instances()] == [there]
        assert hearing.take() == [(Added, there)]
        one = await add(client, WARMPOOL_CHROME_BROWSER, PORT)
        await client.try_.TryAddChild(AddChildRequest(parent_id=there, child_id=one))
        more = Service(service_type=VLLM_OPENAI_COMPATIBLE, host="::1", port=2, path="/v1")
        await client.try_.TryAddService(AddServiceRequest(instance_id=one, service=more))
        await become(client, one, CHROME_BROWSER)
        await until(lambda: len(hearing.changes) == 4)
        told = list(hearing.changes)
        assert hearing.take() == [(Added, one), (Linked, one), (ServiceAdded, one), (Updated, one)]
        assert [each.revision for each in told] == sorted({each.revision for each in told})
        member = fleet.get(one)
        assert member is not None
        assert (member.instance_type, member.parent_id) == (CHROME_BROWSER, there)
        assert [each.address for each in member.services] == ["h:1", "[::1]:2"]
        assert [each.path for each in fleet.endpoints(VLLM_OPENAI_COMPATIBLE)] == ["/v1"]
        await kill(client, there)
        await until(lambda: not fleet.instances())
        gone = [each for each in hearing.changes if isinstance(each, Removed)]
        assert [(each.member.id, each.cause, each.root_cause_id) for each in gone] == [
            (there, CAUSE_KILLED, there),
            (one, CAUSE_PARENT_DIED, there),
        ]


async def test_it_is_asked_by_type_service_labels_and_health(database: Database, settings: Settings) -> None:
    async with serving(reaping(settings, timedelta(hours=1))) as server, Client(server.addresses[0]) as client:
        await ask_in_every_way(client, database)


async def ask_in_every_way(client: Client, database: Database) -> None:
    chrome = await add(client, CHROME_BROWSER, PORT, host="a")
    model = await add(client, VLLM, host="b")
    await database.run(
        "update heartbeat set told_stale = timeout < interval '60 s', last_seen = last_seen - interval '35 s'"
    )
    other = await add(client, CHROME_BROWSER, PORT, host="b")
    async with Fleet(client, types=[CHROME_BROWSER, VLLM]) as fleet:
        await fleet.wait_synced(10)
        assert [each.id for each in fleet.instances()] == [model, other]
        assert [each.id for each in fleet.instances(healthy=False)] == [chrome]
        assert [each.id for each in fleet.instances(healthy=None)] == [chrome, model, other]
        assert [each.id for each in fleet.instances(instance_type=VLLM)] == [model]
        assert [each.id for each in fleet.instances(service_type=CHROME_DEBUG_PORT)] == [other]
        assert [each.id for each in fleet.instances(labels={"k": "b"})] == [model, other]
        assert [each.instance_id for each in fleet.endpoints(CHROME_DEBUG_PORT)] == [other]


async def test_no_reader_ever_sees_half_a_change(client: Client) -> None:
    """A tree dies in one revision: whoever hears of the first of it sees none of the others."""
    root = await add(client, BROWSER_BACKEND)
    children = [await add(client, parent=root) for _ in range(20)]
    seen: list[int] = []
    async with Fleet(client, types=[BROWSER_BACKEND, CHROME_BROWSER]) as fleet:
        await fleet.wait_synced(10)
        changes = fleet.changes()
        await kill(client, root)
        async with asyncio.timeout(10):
            async for change in changes:
                assert isinstance(change, Removed)
                seen.append(len(fleet.instances(healthy=None)))
                if len(seen) == len(children) + 1:
                    break
    assert set(seen) == {0}


async def test_a_watcher_of_a_type_hears_when_a_warm_browser_becomes_a_chrome_browser_either_way(
    client: Client,
) -> None:
    one = await add(client, WARMPOOL_CHROME_BROWSER)
    warm_told, chrome_told = Hearing(), Hearing()
    async with (
        Fleet(client, told=warm_told.hear, types=[WARMPOOL_CHROME_BROWSER]) as warm,
        Fleet(client, told=chrome_told.hear, types=[CHROME_BROWSER]) as chrome,
    ):
        await warm.wait_synced(10)
        await chrome.wait_synced(10)
        assert (len(warm.instances()), len(chrome.instances())) == (1, 0)
        warm_told.take()
        await become(client, one, CHROME_BROWSER)
        await until(lambda: bool(warm_told.changes and chrome_told.changes))
        (left,) = warm_told.changes
        assert isinstance(left, Removed)
        assert left.cause == CAUSE_LEFT_FILTER
        assert (warm_told.take(), chrome_told.take()) == ([(Removed, one)], [(Added, one)])
        assert (len(warm.instances()), len(chrome.instances())) == (0, 1)
        await become(client, one, WARMPOOL_CHROME_BROWSER)
        await until(lambda: bool(warm_told.changes and chrome_told.changes))
        assert (warm_told.take(), chrome_told.take()) == ([(Added, one)], [(Removed, one)])


async def test_the_stale_stay_marked_and_come_back(database: Database, settings: Settings) -> None:
    quick = reaping(settings, timedelta(milliseconds=100))
    hearing = Hearing()
    async with serving(quick) as server, Client(server.addresses[0]) as client:
        one = await add(client, CHROME_BROWSER, PORT)
        async with Fleet(client, told=hearing.hear, types=[CHROME_BROWSER]) as fleet:
            await fleet.wait_synced(10)
            assert len(fleet.endpoints(CHROME_DEBUG_PORT)) == 1
            await silence(database, one)
            await until(lambda: fleet.endpoints(CHROME_DEBUG_PORT) == ())
            assert fleet.instances() == []
            assert (member := fleet.get(one)) is not None
            assert member.stale
            await client.try_.TryHealthCheck(InstanceRequest(instance_id=one))
            await until(lambda: len(fleet.endpoints(CHROME_DEBUG_PORT)) == 1)
    assert hearing.take() == [(Added, one), (BecameStale, one), (Recovered, one)]


async def test_a_broken_connection_is_resumed_and_everything_told_once(client: Client, proxy: Proxy) -> None:
    known = [await add(client) for _ in range(3)]
    hearing = Hearing()
    async with (
        Client(proxy.address) as cut,
        Fleet(cut, told=hearing.hear, types=[CHROME_BROWSER]) as fleet,
    ):
        await fleet.wait_synced(10)
        hearing.take()
        for round_ in range(5):
            proxy.down()
            await until(lambda: fleet.trouble is not None)
            assert len(fleet.instances()) == 3  # it goes on with what it knows
            await kill(client, known[round_ % 3])
            known[round_ % 3] = await add(client)
            proxy.up()
            await until(lambda: len(hearing.changes) == 2)
            assert [kind for kind, _ in hearing.take()] == [Removed, Added]
            assert {each.id for each in fleet.instances()} == set(known)
            await until(lambda: fleet.trouble is None)


@pytest.mark.parametrize("budget", [2_000, 20_000, 40_000])
async def test_a_break_in_the_middle_of_a_revision_loses_and_doubles_nothing(
    client: Client, proxy: Proxy, budget: int
) -> None:
    root = await add(client, BROWSER_BACKEND)
    children = set(await asyncio.gather(*(add(client, parent=root) for _ in range(400))))
    sizes: set[int] = set()
    hearing = Hearing()
    async with Client(proxy.address) as cut, Fleet(cut, told=hearing.hear, types=[CHROME_BROWSER]) as fleet:
        await fleet.wait_synced(10)
        assert {each.id for each in fleet.instances()} == children
        hearing.take()
        proxy.budget = budget
        await kill(client, root)
        async with asyncio.timeout(10):
            while fleet.instances():
                sizes.add(len(fleet.instances()))
                await asyncio.sleep(0)
    assert proxy.cuts == 1
    assert sizes == {400}
    assert sorted(hearing.take()) == sorted((Removed, each) for each in children)


async def test_another_manager_takes_over(settings: Settings) -> None:
    async with serving(settings) as stays:
        async with serving(settings) as goes:
            client = Client(goes.addresses[0], stays.addresses[0])
            # calls take turns, so that of two streams one is at each manager
            fleets = [Fleet(client, types=[CHROME_BROWSER]) for _ in range(2)]
            for each in fleets:
                each.start()
                await each.wait_synced(10)
        one = await add(client)
        for each in fleets:
            await until(shows(each, one))
            await each.close()
        await client.close()


async def test_a_manager_that_restarts_on_the_same_database_is_found_again(settings: Settings) -> None:
    hearing = Hearing()
    async with serving(settings) as server:
        address = server.addresses[0]
        client = Client(address)
        one = await add(client)
        fleet = Fleet(client, told=hearing.hear, types=[CHROME_BROWSER])
        fleet.start()
        await fleet.wait_synced(10)
    await until(lambda: fleet.trouble is not None)
    async with serving(settings.model_copy(update={"port": int(address.rpartition(":")[2]), "http_port": 0})):
        await kill(client, one)
        await until(lambda: not fleet.instances())
        await fleet.close()
        await client.close()
    assert hearing.take() == [(Added, one), (Removed, one)]


async def test_after_a_restore_of_the_database_only_the_difference_is_told(client: Client, database: Database) -> None:
    kept, moved = await add(client), await add(client)
    backup = await database.value("select max(revision) from event")
    lost = await add(client)
    hearing = Hearing()
    async with Fleet(client, told=hearing.hear, types=[CHROME_BROWSER]) as fleet:
        await fleet.wait_synced(10)
        hearing.take()
        for statement in (
            "delete from heartbeat where instance_id in (select id from instance where created_revision > $1)",
            "delete from instance where created_revision > $1",
            "delete from event where revision > $1",
        ):
            await database.run(statement, backup)
        await database.run("update instance set hostname = 'other' where id = $1", moved)
        await new_epoch(database)
        added = await add(client)
        await until(shows(fleet, added))
        assert hearing.take() == [(Removed, lost), (Updated, moved), (Added, added)]
        assert [each.id for each in fleet.instances()] == [kept, moved, added]


async def new_epoch(database: Database) -> None:
    """What `imctl admin new-epoch` does."""
    connections = Connections(database.url, read_connections=1)
    async with connections.turns.use() as connection:
        assert await open_epoch(connection, "a test", forced=True) is not None
    await connections.close()


async def test_an_epoch_in_which_nothing_was_lost_is_passed_unnoticed(client: Client, database: Database) -> None:
    hearing = Hearing()
    async with Fleet(client, told=hearing.hear, types=[CHROME_BROWSER]) as fleet:
        await fleet.wait_synced(10)
        one = await add(client)
        await until(shows(fleet, one))
        await new_epoch(database)
        other = await add(client)
        await until(shows(fleet, other))
    assert hearing.take() == [(Added, one), (Added, other)]


async def test_where_the_history_was_trimmed_meanwhile_only_the_difference_is_told(
    client: Client, proxy: Proxy, database: Database
) -> None:
    kept, lost = await add(client), await add(client)
    hearing = Hearing()
    async with (
        Client(proxy.address) as cut,
        Fleet(cut, told=hearing.hear, types=[CHROME_BROWSER]) as fleet,
    ):
        await fleet.wait_synced(10)
        hearing.take()
        proxy.down()
        await kill(client, lost)
        passing, added = await add(client), await add(client)
        await kill(client, passing)
        await database.run("update event set at = at - interval '8 days'")
        while await database.value("select compact_history(1000)") is not None:
            pass
        proxy.up()
        await until(shows(fleet, added))
        (removed, _) = hearing.changes
        assert isinstance(removed, Removed)
        assert removed.cause == CAUSE_UNSPECIFIED  # nobody can say any more
        assert hearing.take() == [(Removed, lost), (Added, added)]
        assert [each.id for each in fleet.instances()] == [kept, added]


async def test_a_connection_that_is_silent_is_given_up(
    server: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    often(monkeypatch, 0.2)
    async with (
        proxied(server.addresses[0]) as first,
        proxied(server.addresses[0]) as second,
        Client(first.address, second.address) as cut,
        Fleet(cut, silence=0.6, types=[CHROME_BROWSER]) as fleet,
    ):
        await fleet.wait_synced(10)
        for dying in (first, second):
            dying.swallow()
            one = await add(client)
            await until(shows(fleet, one))
            dying.cut()


async def test_what_is_shown_says_how_old_it_is(client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    often(monkeypatch, 0.1)
    monkeypatch.setattr("manager.client.fleet.FRESH_FOR", 0.9)
    async with Client(proxy.address) as cut:
        fleet = Fleet(cut)
        assert (fleet.age, fleet.fresh, fleet.revision) == (math.inf, False, 0)
        async with fleet:
            await fleet.wait_synced(10)
            for _ in range(20):
                await asyncio.sleep(0.05)
                assert fleet.fresh
            proxy.down()
            await until(lambda: fleet.trouble is not None)  # what was on its way has come by now
            before, begun = fleet.age, monotonic()
            await asyncio.sleep(1)
            assert not fleet.fresh
            assert fleet.age - before == pytest.approx(monotonic() - begun, abs=0.1)
            assert fleet.trouble is not None
            proxy.up()
            await until(lambda: fleet.fresh)
            assert fleet.trouble is None


async def test_a_slow_reader_hears_once_that_it_fell_behind_and_goes_on_without_a_gap(client: Client) -> None:
    async with Fleet(client, types=[CHROME_BROWSER]) as fleet:
        await fleet.wait_synced(10)
        slow, quick = fleet.changes(backlog=3), fleet.changes()
        ids = [await add(client) for _ in range(6)]
        await until(lambda: fleet.get(ids[-1]) is not None)
        heard = await anext(slow)
        assert isinstance(heard, Resynced)
        assert (heard.missed, [each.id for each in heard.members], heard.revision) == (6, ids, fleet.revision)
        ids.append(await add(client))
        following = await anext(slow)
        assert isinstance(following, Added)
        assert following.member.id == ids[-1]
        told = [await anext(quick) for _ in ids]
        assert [each.member.id for each in told if isinstance(each, Added)] == ids


async def test_closing_ends_the_iterations_and_keeps_what_is_known(client: Client) -> None:
    one = await add(client)
    fleet = Fleet(client, types=[CHROME_BROWSER])
    fleet.start()
    iteration = asyncio.create_task(collected(fleet))
    await fleet.wait_synced(10)
    await until(shows(fleet, one))
    await fleet.close()
    assert [type(each) for each in await iteration] == [Added]
    assert [each async for each in fleet] == []  # none will come any more
    assert [each.id for each in fleet.instances()] == [one]


async def collected(fleet: Fleet) -> list[Change]:
    return [each async for each in fleet]


async def test_a_callback_that_fails_stops_nothing(client: Client) -> None:
    def broken(_: Change) -> None:
        raise LookupError("no such thing")

    async with Fleet(client, told=broken, types=[CHROME_BROWSER]) as fleet:
        await fleet.wait_synced(10)
        one, other = await add(client), await add(client)
        await until(lambda: fleet.get(one) is not None and fleet.get(other) is not None)


async def test_a_filter_that_the_manager_refuses_raises_at_once(client: Client) -> None:
    async with Fleet(client, subtree_of="nonsense") as fleet:
        iteration = fleet.changes()
        with pytest.raises(InvalidRequestError, match="subtree_of"):
            await fleet.wait_synced(10)
        with pytest.raises(InvalidRequestError):
            await anext(iteration)
        assert isinstance(fleet.trouble, InvalidRequestError)


async def test_without_a_manager_waiting_ends_in_time_and_says_why(proxy: Proxy) -> None:
    proxy.down()
    async with Client(proxy.address) as cut, Fleet(cut) as fleet:
        with pytest.raises(TimeoutError, match=r"within 0\.5 s: .*connect"):
            await fleet.wait_synced(0.5)
        proxy.up()
        await fleet.wait_synced(10)


async def test_a_subtree_is_followed_as_it_grows(client: Client) -> None:
    root, branch = await add(client, BROWSER_BACKEND), await add(client, BROWSER_BACKEND)
    leaf = await add(client, parent=branch)
    async with Fleet(client, subtree_of=root) as fleet:
        await fleet.wait_synced(10)
        assert [each.id for each in fleet.instances()] == [root]
        await client.try_.TryAddChild(AddChildRequest(parent_id=root, child_id=branch))
        await until(shows(fleet, leaf))
        assert {each.id for each in fleet.instances()} == {root, branch, leaf}


async def test_what_was_registered_before_is_in_the_first_snapshot(client: Client) -> None:
    for _ in range(3):
        one = await add(client)
        async with Fleet(client, types=[CHROME_BROWSER]) as fleet:
            await fleet.wait_synced(10)
            assert fleet.get(one) is not None


async def test_a_recovery_before_the_reaper_came_is_not_missed(database: Database, settings: Settings) -> None:
    async with (
        serving(reaping(settings, timedelta(seconds=2))) as server,
        Client(server.addresses[0]) as client,
    ):
        one = await add(client)
        await silence(database, one)
        async with Fleet(client, types=[CHROME_BROWSER]) as fleet:
            await fleet.wait_synced(10)
            await client.try_.TryHealthCheck(InstanceRequest(instance_id=one))
            await client.get.GetInstance(InstanceRequest(instance_id=one))
            await asyncio.sleep(2.5)
            assert [each.id for each in fleet.instances()] == [one]


async def test_a_stale_one_that_comes_to_match_is_stale(database: Database, settings: Settings) -> None:
    async with (
        serving(reaping(settings, timedelta(milliseconds=100))) as server,
        Client(server.addresses[0]) as client,
        Fleet(client, types=[CHROME_BROWSER]) as fleet,
    ):
        await fleet.wait_synced(10)
        one = await add(client, WARMPOOL_CHROME_BROWSER)
        await silence(database, one, 18)
        async with asyncio.timeout(10):
            while not await database.value("select told_stale from heartbeat where instance_id = $1", one):
                await asyncio.sleep(0.02)
        await become(client, one, CHROME_BROWSER)
        await until(shows(fleet, one))
        assert fleet.instances() == []


async def silence(database: Database, instance_id: str, seconds: int = 35) -> None:
    """As if it had not been heard of for longer than its timeout."""
    await database.run(
        "update heartbeat set last_seen = last_seen - make_interval(secs => $2) where instance_id = $1",
        instance_id,
        seconds,
    )


@pytest.mark.parametrize(
    ("failures", "draw", "asked", "delay"),
    [
        (1, 1.0, None, 0.25),
        (1, 0.0, None, 0.0),
        (3, 1.0, None, 0.25),
        (5, 1.0, None, 1.0),
        (99, 0.5, None, 2.5),
        (1, 0.5, 3.0, 3.0),
    ],
)
def test_the_pace_of_resuming(failures: int, draw: float, asked: float | None, delay: float) -> None:
    assert resume_delay(failures, draw, asked) == delay
