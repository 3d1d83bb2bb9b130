"""What a subscriber gets, over real sockets, with NOTIFY and without it."""

import asyncio
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest

from manager import subscription
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.settings import Settings
from tests.conftest import Database
from tests.stream.changes import Changes, filters
from tests.stream.conftest import Managers, managers_of
from tests.stream.reader import Story, listening, place_of, said
from tests.stream.validators import broken
from tests.wire.fleet import Fleet, debug_port, description

EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]


async def link(fleet: Fleet, parent: str, child: str) -> int:
    answer = await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=parent, child_id=child))
    assert answer.value
    return answer.revision


async def update(fleet: Fleet, name: str, **fields: Any) -> int:
    answer = await fleet.caller.tries.TryUpdateInstance(description(name, **fields))
    assert answer.value
    return answer.revision


async def offer(fleet: Fleet, name: str, port: int = 9222) -> int:
    answer = await fleet.caller.tries.TryAddService(pb.AddServiceRequest(instance_id=name, service=debug_port(port)))
    assert answer.value
    return answer.revision


# ── the empty request ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_headers_come_at_once_and_all_that_is_acknowledged_later_is_delivered(either: Managers) -> None:
    for replica in (0, 1) * 3:
        began = monotonic()
        async with listening(either.addresses[replica]) as stream:
            assert monotonic() - began < 0.5
            assert place_of(stream.token)[0] == await either.fleet.head()
            name = await either.fleet.add()
            assert said(await stream.take(1)) == [("ADDED", name)]


async def test_an_empty_request_means_the_five_kinds_of_everybody(either: Managers) -> None:
    fleet = either.fleet
    async with listening(either.addresses[1]) as stream:
        parent = await fleet.add(hostname="h", labels={"k": "v"})
        child = await fleet.add(parent_id=parent, services=[debug_port()])
        other = await fleet.add()
        await link(fleet, child, other)
        await update(fleet, other, hostname="moved")
        await offer(fleet, other)
        await fleet.kill(parent, "enough")
        updates = await stream.take(12)
    assert [(*each, update.end_of_revision) for each, update in zip(said(updates), updates, strict=True)] == [
        ("ADDED", parent, True),
        ("ADDED", child, False),
        ("CHILD_ADDED", parent, False),
        ("PARENT_ADDED", child, False),
        ("SERVICE_ADDED", child, True),
        ("ADDED", other, True),
        ("CHILD_ADDED", child, False),
        ("PARENT_ADDED", other, True),
        ("SERVICE_ADDED", other, True),
        ("REMOVED", parent, False),
        ("REMOVED", child, False),
        ("REMOVED", other, True),
    ]
    assert [each.related_id for each in updates[2:4]] == [child, parent]
    assert updates[4].service == debug_port()
    assert updates[0].instance.labels == {"k": "v"}
    assert updates[0].instance.status == pb.STATUS_HEALTHY
    assert [(each.cause, each.root_cause_id) for each in updates[9:]] == [
        (pb.CAUSE_KILLED, parent),
        (pb.CAUSE_PARENT_DIED, parent),
        (pb.CAUSE_PARENT_DIED, parent),
    ]
    assert all(each.timestamp_ms > 0 and each.resume_token for each in updates)


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_event_types_are_the_only_ones_that_come(managers: Managers) -> None:
    fleet = managers.fleet
    async with listening(managers.addresses[1], event_types=[pb.UPDATED, pb.REMOVED]) as stream:
        name = await fleet.add()
        await offer(fleet, name)
        await update(fleet, name, hostname="moved")
        await fleet.kill(name)
        updates = await stream.take(2)
    assert said(updates) == [("UPDATED", name), ("REMOVED", name)]
    assert updates[0].instance.hostname == "moved"
    assert all(each.end_of_revision for each in updates)


@pytest.mark.parametrize("asked", [True, False])
async def test_stale_and_recovered_come_to_those_who_ask(asked: bool, database: Database, settings: Settings) -> None:
    often = settings.model_copy(update={"reaper_interval": timedelta(milliseconds=100), "outage_after": timedelta(60)})
    async with managers_of(database, often, 1) as managers:
        kinds = EVERYTHING if asked else []
        async with listening(managers.addresses[0], event_types=kinds, types=[pb.CHROME_BROWSER]) as stream:
            name = await managers.fleet.add(timeout_ms=60_000)
            await database.run(
                "update heartbeat set last_seen = last_seen - interval '67 s' where instance_id = $1", name
            )
            await wait_told(database, "STALE")
            await managers.fleet.caller.tries.TryHealthCheck(pb.InstanceRequest(instance_id=name))
            await wait_told(database, "RECOVERED")
            await managers.fleet.kill(name)
            updates = [await stream.next()]
            while updates[-1].event_type != pb.REMOVED:
                updates.append(await stream.next())
    between = [("STALE", name), ("RECOVERED", name)] if asked else []
    assert said(updates) == [("ADDED", name), *between, ("REMOVED", name)]
    assert not asked or updates[2].instance.instance_id == name


async def wait_told(database: Database, kind: str) -> None:
    async with asyncio.timeout(5):
        while not await database.value("select count(*) from event_log where type = $1", kind):
            await asyncio.sleep(0.02)


async def test_the_initial_state_is_the_live_fleet_and_then_what_changes(either: Managers, often: None) -> None:
    fleet = either.fleet
    parent = await fleet.add(hostname="born")
    child = await fleet.add(parent_id=parent, hostname="born", services=[debug_port()])
    silent, dead = await fleet.add(hostname="born"), await fleet.add(hostname="born")
    # as the reaper tells of it: by the clock alone nobody would hear of its recovery
    await either.database.run("update heartbeat set told_stale = true where instance_id = $1", silent)
    await fleet.kill(dead)
    story = Story(
        pb.SubscribeRequest(hostnames=["born"], send_initial_state=True, send_bookmarks=True, event_types=EVERYTHING)
    )
    async with listening(either.addresses[1], story) as stream:
        initial = await stream.take(4)
        synced = initial.pop()
        after = await fleet.add(hostname="born")
        updates = await stream.until(await fleet.head())
    assert sorted(said(initial)) == sorted(("ADDED", each) for each in (parent, child, silent))
    status = {each.instance_id: each.instance.status for each in initial}
    assert status == {parent: pb.STATUS_HEALTHY, child: pb.STATUS_HEALTHY, silent: pb.STATUS_STALE}
    assert synced.event_type == pb.SYNCED
    assert synced.resume_token == stream.token
    assert synced.end_of_revision
    assert said(updates) == [("ADDED", after)]
    assert broken(await either.case(story, updates[-1].revision)) == {}


async def test_the_initial_state_while_everything_changes_misses_and_doubles_nothing(
    either: Managers, often: None
) -> None:
    changes = Changes(3)
    writing = asyncio.create_task(changes.many(either.callers[0], 150))
    stories = []
    for number in range(8):
        while len(changes.known) < 4:
            await asyncio.sleep(0.01)
        wanted = filters(number, changes.known[:3])
        stories.append(
            Story(
                pb.SubscribeRequest(send_initial_state=True, send_bookmarks=True, event_types=EVERYTHING, **wanted),
                bundled=number % 4 > 1,
            )
        )
    # a snapshot is shared for some seconds, so half of these begin with an older one
    readers = []
    for number, story in enumerate(stories):
        readers.append(asyncio.create_task(_follow(either.addresses[number % 2], story, writing)))
        await asyncio.sleep(0.1)
    await asyncio.gather(*readers)
    for story in stories:
        assert broken(await either.case(story, changes.acknowledged)) == {}


async def _follow(address: str, story: Story, writing: asyncio.Task[int]) -> None:
    async with listening(address, story) as stream:
        while (await stream.next()).event_type != pb.SYNCED:
            pass
        await stream.until(await writing)


async def test_a_bookmark_comes_first_and_then_within_five_seconds(managers: Managers) -> None:
    async with listening(managers.addresses[1], send_bookmarks=True) as stream:
        began = monotonic()
        first = await stream.next(0.5)
        assert first.event_type == pb.BOOKMARK
        assert first.revision == await managers.fleet.head()
        await managers.fleet.add()  # moves on what the bookmark says, and does not put it off
        assert (await stream.next()).event_type == pb.ADDED
        second = await stream.next(5.2)
        assert second.event_type == pb.BOOKMARK
        assert monotonic() - began <= 5.0
        assert second.revision == await managers.fleet.head()


async def test_a_bookmark_moves_on_where_the_filter_lets_nothing_through(either: Managers, often: None) -> None:
    async with listening(either.addresses[1], send_bookmarks=True, hostnames=["nowhere"]) as stream:
        for _ in range(20):
            await either.fleet.add()
        head = await either.fleet.head()
        assert await stream.until(head) == []
        again = await either.rest(stream.story.token, stream.story, head)
    assert [each.event_type for each in again.updates] == [pb.BOOKMARK]


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ONE, OTHER = str(new_id()), str(new_id())


@pytest.mark.parametrize(
    ("wanted", "before", "within"),
    [
        ({"types": [pb.CHROME_BROWSER]}, {"instance_type": pb.WARMPOOL_CHROME_BROWSER}, {}),
        ({"types": [pb.WARMPOOL_CHROME_BROWSER]}, {}, {"instance_type": pb.WARMPOOL_CHROME_BROWSER}),
        ({"hostnames": ["here", "there"]}, {"hostname": "elsewhere"}, {"hostname": "here"}),
        ({"labels": {"a": "1", "b": "2"}}, {"labels": {"a": "1", "b": "3"}}, {"labels": {"a": "1", "b": "2"}}),
    ],
    ids=["types", "types-back", "hostnames", "labels"],
)
async def test_who_comes_to_match_is_added_and_who_ceases_to_is_removed(
    wanted: dict[str, Any], before: dict[str, Any], within: dict[str, Any], either: Managers, often: None
) -> None:
    fleet = either.fleet
    async with listening(either.addresses[1], send_bookmarks=True, **wanted) as stream:
        name = await fleet.add(**before)
        await offer(fleet, name)
        assert await stream.until(await fleet.head()) == []
        entered = await update(fleet, name, **within)
        await offer(fleet, name, port=1)
        left = await update(fleet, name, **before)
        await offer(fleet, name, port=2)
        again = await update(fleet, name, **within)
        await fleet.kill(name)
        updates = await stream.until(await fleet.head())
    assert said(updates) == [
        ("ADDED", name),
        ("SERVICE_ADDED", name),
        ("REMOVED", name),
        ("ADDED", name),
        ("REMOVED", name),
    ]
    assert [each.revision for each in updates][::2] == [entered, left, updates[-1].revision]
    assert [each.cause for each in updates] == [0, 0, pb.CAUSE_LEFT_FILTER, 0, pb.CAUSE_KILLED]
    assert updates[2].root_cause_id == ""
    assert len(updates[0].instance.services) == 1
    assert len(updates[3].instance.services) == 3
    assert updates[3].revision == again
    assert broken(await either.case(stream.story, updates[-1].revision)) == {}


async def test_who_offers_the_service_is_added(managers: Managers, often: None) -> None:
    fleet = managers.fleet
    async with listening(managers.addresses[1], send_bookmarks=True, service_types=[pb.CHROME_DEBUG_PORT]) as stream:
        silent, name = await fleet.add(), await fleet.add()
        await offer(fleet, name)
        await offer(fleet, name, port=1)
        at_once = await fleet.add(services=[debug_port()])
        await fleet.kill(silent)
        updates = await stream.until(await fleet.head())
    assert said(updates) == [
        ("ADDED", name),
        ("SERVICE_ADDED", name),
        ("ADDED", at_once),
        ("SERVICE_ADDED", at_once),
    ]
    assert list(updates[0].instance.services) == [debug_port()]


async def test_ids_their_beginning_and_a_parent_are_filters_too(managers: Managers, often: None) -> None:
    fleet = managers.fleet
    parent, child = await fleet.add(), str(new_id())
    wanted: tuple[dict[str, Any], ...] = ({"ids": [child]}, {"id_prefix": child}, {"parent_id": parent})
    stories = [Story(pb.SubscribeRequest(send_bookmarks=True, **each)) for each in wanted]
    seen = []
    for story in stories:
        async with listening(managers.addresses[1], story) as stream:
            if story is stories[0]:
                await fleet.add(child)
                await fleet.add()
                await link(fleet, parent, child)
                token = stream.token
        async with listening(managers.addresses[1], story, token=token) as stream:
            seen.append(said(await stream.until(await fleet.head())))
    assert seen == [
        [("ADDED", child), ("PARENT_ADDED", child)],
        [("ADDED", child), ("PARENT_ADDED", child)],
        [("ADDED", child)],
    ]


async def test_a_link_into_a_subtree_adds_all_of_the_linked_and_can_be_resumed_within(
    either: Managers, often: None
) -> None:
    fleet = either.fleet
    root, *_ = await fleet.chain(2)
    top = await fleet.add(hostname="in")
    names = [top]
    for number in range(5):
        names.append(await fleet.add(parent_id=names[number // 2], hostname="in" if number != 2 else "out"))
    story = Story(pb.SubscribeRequest(subtree_of=root, hostnames=["in"], send_bookmarks=True, event_types=EVERYTHING))
    async with listening(either.addresses[0], story) as stream:
        linked = await link(fleet, root, top)
        late = await fleet.add(parent_id=names[4], hostname="in")
        killed = await fleet.kill(names[1])
        updates = await stream.until(killed)
    entered = [each for each in updates if each.revision == linked]
    assert {each.instance_id for each in entered} == {*names} - {names[3]}
    assert {each.event_type for each in entered} == {pb.ADDED}
    assert entered[0].instance_id == top
    assert [each.end_of_revision for each in entered] == [False] * 4 + [True]
    assert ("ADDED", late) in said(updates)
    assert broken(await either.case(story, killed)) == {}
    for number, each in enumerate(updates):
        again = await either.rest(each.resume_token, story, killed, replica=1)
        got = [one for one in again.updates if one.event_type != pb.BOOKMARK]
        assert got == updates[number + 1 :]


# ── tokens and lists ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bundled", [False, True], ids=["singly", "bundled"])
async def test_every_token_gives_exactly_the_rest_on_another_manager(
    bundled: bool, seed: int, either: Managers, often: None
) -> None:
    changes = Changes(seed)
    await changes.many(either.callers[0], 12)
    wanted = filters([0, 6, 2, 5][seed], changes.known)
    story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING, **wanted), bundled=bundled)
    async with listening(either.addresses[0], story) as stream:
        head = await changes.many(either.callers[seed % 2], 50)
        updates = await stream.until(head)
    assert broken(await either.case(story, head)) == {}
    tokens = [(0, stream.token)] + [(number, each.resume_token) for number, each in enumerate(updates, 1)]
    for number, token in tokens:
        again = await either.rest(token, story, head)
        assert [each for each in again.updates if each.event_type != pb.BOOKMARK] == updates[number:]
        assert again.updates[0].event_type == pb.BOOKMARK


@pytest.mark.parametrize("seed", range(9))
async def test_a_list_and_what_follows_is_the_later_list(seed: int, managers: Managers, often: None) -> None:
    changes = Changes(100 + seed)
    await changes.many(managers.callers[0], 25)
    wanted = filters(seed, changes.known)
    caller = managers.callers[1]
    before = await caller.gets.GetAllInstances(pb.InstanceFilter(**wanted))
    head = await changes.many(managers.callers[0], 40)
    story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING, **wanted))
    async with listening(managers.addresses[1], story, token=before.resume_token) as stream:
        updates = await stream.until(head)
    after = await caller.gets.GetAllInstances(pb.InstanceFilter(**wanted))
    assert after.revision == head
    fleet = {each.instance_id: each for each in before.instances}
    for each in updates:
        replay(fleet, each)
    assert {name: content(one) for name, one in fleet.items()} == {
        each.instance_id: content(each) for each in after.instances
    }


def replay(fleet: dict[str, pb.InstanceDescription], update: pb.InstanceUpdate) -> None:
    """What a client does with each message."""
    name = update.instance_id
    match update.event_type:
        case pb.ADDED | pb.UPDATED:
            fleet[name] = update.instance
        case pb.REMOVED:
            del fleet[name]
        case pb.PARENT_ADDED:
            fleet[name].parent_id = update.related_id
        case pb.SERVICE_ADDED if update.service not in fleet[name].services:
            fleet[name].services.append(update.service)


def content(one: pb.InstanceDescription) -> pb.InstanceDescription:
    """Without what no event tells of: the time of the last health check."""
    copy = pb.InstanceDescription()
    copy.CopyFrom(one)
    copy.ClearField("last_health_check_ms")
    return copy


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def forest(database: Database, root: str, count: int) -> None:
    """Puts so many children under a root, each with a history, in one go."""
    await database.run(
        "with born as (insert into instance (id, type, hostname, labels, timeout, digest, created_at,"
        " created_revision, updated_revision) select gen_random_uuid(), 1, 'h', '{}', interval '1 day',"
        " decode(repeat('00', 32), 'hex'), now(), 1, 1 from generate_series(1, $2) returning id)"
        " insert into parent_link (child_id, parent_id, revision) select id, $1::uuid, 1 from born",
        root,
        count,
    )


async def test_a_kill_of_ten_thousand_comes_whole_and_disturbs_nobody(
    database: Database, settings: Settings, often: None
) -> None:
    # a ring that holds a tenth of it, so that everybody has to read on from the table
    small = settings.model_copy(update={"feed_events": 1_000})
    async with managers_of(database, small, 2) as managers:
        root = await managers.fleet.add()
        await forest(database, root, 9_999)
        async with (
            listening(managers.addresses[1], send_bookmarks=True) as reader,
            listening(managers.addresses[1], hostnames=["other"], send_bookmarks=True) as neighbour,
        ):
            killed = await managers.fleet.kill(root)
            began = monotonic()
            other = await managers.fleet.add(hostname="other")
            assert said(await neighbour.until(killed + 1)) == [("ADDED", other)]
            waited = monotonic() - began
            updates = await reader.until(killed + 1)
        middle = updates[5_000].resume_token
        rest = await managers.rest(middle, reader.story, killed + 1, replica=0)
    assert [each.event_type for each in updates] == [pb.REMOVED] * 10_000 + [pb.ADDED]
    assert len({each.instance_id for each in updates}) == 10_001
    assert [number for number, each in enumerate(updates) if each.end_of_revision] == [9_999, 10_000]
    assert updates[0].instance_id == root
    assert waited < 10.0  # a tenth of it on a quiet machine
    assert [each for each in rest.updates if each.event_type != pb.BOOKMARK] == updates[5_001:]


def test_a_bookmark_is_due_within_five_seconds_whatever_else_is_waited_for() -> None:
    assert subscription.BOOKMARK_EVERY + subscription.PATIENCE < 5.0
