"""The console's stream: the fleet once, then what changes, batched, and on from where it was lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.wire.asker import Frame, ask, live
from tests.wire.caller import calling
from tests.wire.fleet import Fleet, debug_port, request


async def until(frames: AsyncIterator[Frame], kind: str) -> Frame:
    """The next frame of a kind."""
    async with asyncio.timeout(15):
        async for each in frames:
            if each.kind == kind:
                return each
    raise AssertionError("the stream ended")


async def state(frames: AsyncIterator[Frame]) -> tuple[dict[str, list[object]], list[Frame]]:
    """The whole fleet, by id, and the frames that it came in."""
    came = [await until(frames, "state")]
    while not came[-1].data["done"]:
        came.append(await until(frames, "state"))
    return {row[0]: row for each in came for row in each.data["rows"]}, came


async def test_a_browser_is_given_the_fleet_and_then_what_changes(lone: Fleet) -> None:
    parent = await lone.add(instance_type=pb.BROWSER_BACKEND)
    child = await lone.add(parent_id=parent, hostname="h", labels={"a": "b"}, services=[debug_port(path="/x")])
    async with live(lone.serving.http[0]) as frames:
        rows, _ = await state(frames)
        assert rows.keys() == {lone.serving.instance_id, parent, child}
        _, kind, host, status, above, created, services, labels, timeout = rows[child]
        assert (kind, host, status, above) == (pb.CHROME_BROWSER, "h", pb.STATUS_HEALTHY, parent)
        assert (services, labels, timeout) == ([[1, "10.0.0.1", 9222, "/x"]], {"a": "b"}, 30_000)
        assert created == (await lone.get(child)).created_at_ms
        other = await lone.add()
        changes = (await until(frames, "changes")).data
        assert [row[0] for row in changes["rows"]] == [other]
        revision = await lone.kill(parent, note="no")
        changes = (await until(frames, "changes")).data
        assert set(changes["gone"]) == {parent, child}
        told = [(event[0], event[3], event[4], event[8], event[9]) for event in changes["events"]]
        assert told == [
            (revision, pb.REMOVED, parent, pb.CAUSE_KILLED, parent),
            (revision, pb.REMOVED, child, pb.CAUSE_PARENT_DIED, parent),
        ]


async def test_a_large_fleet_comes_in_pages_after_a_glimpse_of_it(lone: Fleet) -> None:
    batch = [pb.InstanceDescription(instance_id=str(new_id()), instance_type=pb.VLLM) for _ in range(2_500)]
    for start in range(0, len(batch), 500):
        await lone.register(batch[start : start + 500])
    async with live(lone.serving.http[0]) as frames:
        rows, came = await state(frames)
        assert len(rows) == 2_501
    async with live(lone.serving.http[0]) as frames:
        glimpse = await anext(frames)
    assert (glimpse.kind, len(glimpse.data["rows"]), glimpse.id) == ("glimpse", 200, "")
    assert all(rows[row[0]] == row for row in glimpse.data["rows"])
    assert [len(each.data["rows"]) for each in came] == [1_000, 1_000, 501]
    assert [(each.data["first"], each.data["done"], bool(each.id)) for each in came] == [
        (True, False, False),
        (False, False, False),
        (False, True, True),
    ]
    assert {each.data["total"] for each in came} == {2_501}


async def test_many_changes_are_few_frames_and_say_what_became_of_each_in_the_end(lone: Fleet) -> None:
    async with live(lone.serving.http[0]) as frames:
        await state(frames)
        begun = monotonic()
        alive = [await lone.add() for _ in range(300)]
        dead = alive[:100]
        await asyncio.gather(*map(lone.kill, dead))
        took = monotonic() - begun
        seen: dict[str, bool] = {}
        count = told = 0
        while len(seen) < 300 or any(seen[each] for each in dead):
            changes = (await until(frames, "changes")).data
            seen |= {row[0]: True for row in changes["rows"]} | dict.fromkeys(changes["gone"], False)
            told += len(changes["events"]) + changes["skipped"]
            count += 1
    assert seen == {each: each not in dead for each in alive}
    assert told == 400
    assert count <= took / 0.25 + 3


async def test_who_lost_the_stream_goes_on_after_the_last_frame(lone: Fleet) -> None:
    async with live(lone.serving.http[0]) as frames:
        _, came = await state(frames)
        one = await lone.add()
        last = (await until(frames, "changes")).id
    two = await lone.add()
    for since, expected in ((came[-1].id, [one, two]), (last, [two])):
        async with live(lone.serving.http[0], last_event_id=since) as frames:
            came_on: list[str] = []
            while len(came_on) < len(expected):  # the later one may be read a moment after the other
                came_on += [row[0] for row in (await until(frames, "changes")).data["rows"]]
            assert came_on == expected


async def test_who_cannot_go_on_is_given_the_fleet_anew(lone: Fleet) -> None:
    async with live(lone.serving.http[0]) as frames:
        _, came = await state(frames)
    for since in ("x", "AAAA", "\u00e9", came[0].id[:-4] + "AAAA"):
        async with live(lone.serving.http[0], last_event_id=since) as frames:
            assert (await anext(frames)).kind == "glimpse"


async def test_who_falls_silent_is_shown_as_stale_and_then_as_healthy(settings: Settings, database: Database) -> None:
    brief = {"reaper_interval": timedelta(seconds=0.1), "grace": timedelta(hours=1), "outage_grace": timedelta(0)}
    ticking = settings.model_copy(update=brief)
    async with serving(ticking) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        one = await fleet.add()
        async with live(started.http[0]) as frames:
            await state(frames)
            statement = "update heartbeat set last_seen = last_seen - interval '1 minute' where instance_id = $1"
            await database.run(statement, one)
            for status in (pb.STATUS_STALE, pb.STATUS_HEALTHY):
                rows = [row for row in (await until(frames, "changes")).data["rows"] if row[0] == one]
                assert [row[3] for row in rows] == [status]
                await caller.tries.TryHealthCheck(request(one))


async def test_a_pulse_says_what_is_amiss(settings: Settings) -> None:
    polling = settings.model_copy(update={"notify": False, "reaper_interval": timedelta(seconds=0.1)})
    async with serving(polling) as started, asyncio.timeout(10):
        degraded: dict[str, str] = {}
        while "poll_only" not in degraded:
            async with live(started.http[0]) as frames:
                degraded = (await until(frames, "pulse")).data["degraded"]


async def test_a_pulse_comes_however_much_changes(lone: Fleet) -> None:
    async def change() -> None:
        while True:
            await lone.add()
            await asyncio.sleep(0.1)

    async with live(lone.serving.http[0]) as frames:
        await state(frames)
        await until(frames, "pulse")
        changing = asyncio.create_task(change())
        kinds = []
        async with asyncio.timeout(12):
            while "pulse" not in kinds:
                kinds.append((await anext(frames)).kind)
        changing.cancel()
    assert kinds.count("changes") > 5


async def test_too_many_streams_are_refused_and_a_stopping_server_ends_those_there_are(settings: Settings) -> None:
    few = settings.model_copy(update={"subscriptions": 1})
    async with serving(few) as started:
        held = live(started.http[0])
        frames = await held.__aenter__()
        await state(frames)
        answer = await ask(started.http[0], "/live")
        assert (answer.status, answer.json["code"]) == (429, "resource_exhausted")
        begun = monotonic()
    assert monotonic() - begun < 3
    assert [each.kind async for each in frames if each.kind == "state"] == []
    await held.__aexit__(None, None, None)
