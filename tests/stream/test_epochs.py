"""A database that was promoted, restored or copied is another history: old tokens are judged, and nobody is misled."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from manager.client import Client, Fleet, Instance
from manager.embedded import start
from manager.pb import instance_manager_pb2 as pb
from manager.settings import Settings
from tests.conftest import NOTIFY, Database, at, serving
from tests.faults.copies import archived, caught_up, cut_off, promote, standby_of
from tests.faults.postgres import migrated, started
from tests.stream import dumps
from tests.stream.changes import Changes
from tests.stream.conftest import Managers, beginning, managers_of
from tests.stream.plain import facts
from tests.stream.reader import Story, Stream, listening, place_of, refused
from tests.stream.validators import Case, broken
from tests.wire.caller import Refused

HASTY = {"fsync": "off"}
EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]


def on(settings: Settings, database: Database) -> Settings:
    return settings.model_copy(update={"database_url": database.url})


async def recorded(managers: Managers, count: int, story: Story | None = None) -> list[pb.InstanceUpdate]:
    """Some changes, and what a subscriber was told of them."""
    story = story or Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
    async with listening(managers.addresses[0], story, token=story.token) as stream:
        return await stream.until(await Changes(count).many(managers.callers[0], count))


async def judged(managers: Managers, kept: Sequence[pb.InstanceUpdate], lost: Sequence[pb.InstanceUpdate]) -> None:
    """Tokens of what both histories have give exactly the rest; those of the other one alone are told so."""
    story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
    async with listening(managers.addresses[0], story, token=kept[-1].resume_token) as stream:
        name = await managers.fleet.add()
        news = await stream.until(await managers.fleet.head())
    assert news[-1].instance_id == name
    for number, each in list(enumerate(kept))[-7:]:
        again = await managers.rest(each.resume_token, story, news[-1].revision, replica=0)
        got = [each for each in again.updates if each.event_type != pb.BOOKMARK]
        assert [said(each) for each in got] == [said(each) for each in [*kept[number + 1 :], *news]]
    for each in lost:
        told_so(await refused(managers.addresses[0], token=each.resume_token))


def said(update: pb.InstanceUpdate) -> tuple[object, ...]:
    """A message without its token, which names the epoch in which it was given."""
    return (*place_of(update.resume_token), update.event_type, update.instance_id, update.end_of_revision)


def told_so(answer: Refused) -> None:
    assert answer.code == grpc.StatusCode.FAILED_PRECONDITION
    assert answer.reasons == ["EPOCH_CHANGED"]


async def epochs(database: Database) -> list[int]:
    """Where each began."""
    return [row["base_revision"] for row in await database.run("select * from history_epoch order by number")]


# ── an operator's word ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("notify", [True, False], ids=["notified", "polling"])
async def test_an_epoch_that_changes_nothing_ends_no_stream(
    notify: bool, database: Database, settings: Settings, often: None
) -> None:
    async with managers_of(database, settings.model_copy(update={"notify": notify and NOTIFY}), 2) as managers:
        before = await recorded(managers, 20)
        story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
        async with listening(managers.addresses[1], story, token=before[10].resume_token) as stream:
            await stream.until(before[-1].revision)
            await database.run(
                "insert into history_epoch (number, system_identifier, timeline, database_oid, event_oid,"
                " base_revision, reason) select number + 1, system_identifier, timeline, database_oid, event_oid,"
                " (select max(revision) from event), 'an operator said so' from history_epoch"
            )
            head = await Changes(2).many(managers.callers[0], 20)
            await stream.until(head)
        assert broken(await managers.case(story, head)) == {}
        await judged(managers, before, [])
        assert len(await epochs(database)) == 2


# ── dumps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fresh", [False, True], ids=["the same cluster", "a fresh cluster"])
async def test_a_restored_dump_is_another_history(
    fresh: bool, cluster: str, database: Database, settings: Settings, often: None, tmp_path: Path
) -> None:
    story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
    async with managers_of(database, settings, 1) as managers:
        kept = await recorded(managers, 20, story)
        await dumps.dump(database, tmp_path / "dump")
        lost = await recorded(managers, 10, story)
    name = f"{database.name}_restored"
    if not fresh:
        restored = await dumps.restore(tmp_path / "dump", at(cluster, database=name))
        await judge_restored(restored, settings, kept, lost)
        await database.run(f'drop database "{name}" with (force)')
        return
    with start(None, ephemeral=True, durable=False) as other:
        await dumps.roles(cluster, other.url())
        restored = await dumps.restore(tmp_path / "dump", other.url(database=name))
        await judge_restored(restored, settings, kept, lost)


async def judge_restored(
    restored: Database,
    settings: Settings,
    kept: Sequence[pb.InstanceUpdate],
    lost: Sequence[pb.InstanceUpdate],
) -> None:
    async with managers_of(restored, on(settings, restored), 1) as managers:
        assert len(await epochs(restored)) == 2
        assert (await epochs(restored))[1] == kept[-1].revision
        # until it has grown past them the lost are of the future, and then of another history
        await judged(managers, kept, lost)
        await Changes(9).many(managers.callers[0], 40)
        assert await managers.fleet.head() > lost[-1].revision
        await judged(managers, (await replayed(managers))[:30], lost)
        history = await facts(restored)
        assert [each.revision for each in history] == sorted(each.revision for each in history)
        assert {each.revision for each in history} == set(range(1, history[-1].revision + 1))


async def replayed(managers: Managers) -> list[pb.InstanceUpdate]:
    """The present history from its beginning."""
    story = Story(pb.SubscribeRequest(event_types=EVERYTHING, send_bookmarks=True))
    async with listening(managers.addresses[0], story, token=await beginning(managers.database)) as stream:
        return await stream.until(await managers.fleet.head())


# ── a point in time ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_restore_to_a_point_in_time_is_another_history(settings: Settings, often: None) -> None:
    story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
    async with started(settings=HASTY) as primary:
        database = await migrated(primary)
        async with archived(primary) as archive:
            async with managers_of(database, on(settings, database), 1) as managers:
                kept = await recorded(managers, 20, story)
                await archive.point("before")
                lost = await recorded(managers, 10, story)
                await archive.complete()
            await primary.kill9()
            async with archive.restored("before") as restored:
                await judge_restored(restored.database, settings, kept, lost)


async def test_clients_of_a_restored_fleet_find_back_by_themselves(settings: Settings) -> None:
    async with started(settings=HASTY) as primary:
        database = await migrated(primary)
        async with archived(primary) as archive, AsyncExitStack() as clients:
            hurried = on(settings, database).model_copy(update={"reaper_interval": timedelta(milliseconds=300)})
            async with serving(hurried) as manager:
                client = await clients.enter_async_context(Client(manager.addresses[0]))
                fleet = await clients.enter_async_context(Fleet(client))
                old = await clients.enter_async_context(Instance(client, browser()))
                await archive.point("before")
                new = await clients.enter_async_context(Instance(client, browser()))
                await until(lambda: {old.id, new.id} <= shown(fleet))
                await archive.complete()
            await primary.kill9()
            port = int(manager.addresses[0].rpartition(":")[2])
            async with (
                archive.restored("before", port=primary.port),
                serving(hurried.model_copy(update={"port": port, "http_port": 0})),
            ):
                await until(lambda: {old.id, new.id} <= shown(fleet) and fleet.fresh)
                async with asyncio.timeout(20):
                    while True:
                        listed = await client.get.GetAllInstances(pb.InstanceFilter())
                        if {each.instance_id for each in listed.instances} == shown(fleet) >= {old.id, new.id}:
                            break
                        await asyncio.sleep(0.1)


def browser() -> pb.InstanceDescription:
    return pb.InstanceDescription(instance_type=pb.CHROME_BROWSER, timeout_ms=2_000)


def shown(fleet: Fleet) -> set[str]:
    return {each.id for each in fleet.instances()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.05)


# ── a standby ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_promoted_standby_ends_those_who_know_more_and_lets_the_others_go_on(
    settings: Settings, often: None
) -> None:
    async with started(settings=HASTY) as primary, standby_of(primary) as follower:
        database = await migrated(primary)
        two_hosts = database.url.replace(primary.address, f"{primary.address},{follower.address}")
        hurried = settings.model_copy(
            update={"database_url": two_hosts, "reaper_interval": timedelta(milliseconds=300)}
        )
        async with managers_of(database, hurried, 2) as managers:
            kept = await recorded(managers, 20)
            await caught_up(primary, follower)
            await cut_off(follower)
            knowing = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
            async with listening(managers.addresses[1], knowing) as stream:
                behind = Story(pb.SubscribeRequest(event_types=EVERYTHING, send_bookmarks=True))
                lost = await lose(managers, stream)
                await primary.kill9()
                promoted = await promote(follower)
                told_so(await stream.end())
            await again(managers)
            assert (await epochs(promoted))[1:] == [kept[-1].revision]
            managers = Managers(promoted, managers.addresses, managers.callers, managers.fleet)
            async with listening(managers.addresses[1], behind, token=kept[5].resume_token) as stream:
                head = await Changes(9).many(managers.callers[0], 20)
                await stream.until(head)
            for each in lost:
                told_so(await refused(managers.addresses[0], token=each.resume_token))
            assert broken(Case(behind, await facts(promoted), head)) == {}


async def lose(managers: Managers, stream: Stream) -> list[pb.InstanceUpdate]:
    """Changes that the standby never hears of."""
    return await stream.until(await Changes(4).many(managers.callers[0], 12))


async def again(managers: Managers) -> None:
    """Returns once a change is taken again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await managers.fleet.add()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return
