"""Where a stream cannot go on it says which promise it cannot keep, and how to go on; it is never silently wrong."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2

from manager import subscription
from manager.domain.filter import ResumeToken
from manager.pb import instance_manager_pb2 as pb
from manager.settings import Settings
from manager.wire import decode, encode
from tests.conftest import Database, serving
from tests.stream.changes import Changes
from tests.stream.conftest import Managers, beginning, managers_of
from tests.stream.reader import Story, listening, place_of, refused, said
from tests.stream.validators import broken
from tests.wire.caller import Refused, refusal

EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]
LARGE = {f"label-{number}": "x" * 250 for number in range(30)}


@pytest.fixture
async def alone(database: Database, settings: Settings) -> AsyncIterator[Managers]:
    """Two managers on a database that this test may spoil; the ring holds a hundred events."""
    async with managers_of(database, settings.model_copy(update={"feed_events": 100}), 2) as started:
        yield started


def changed(token: bytes, change: Callable[[ResumeToken], ResumeToken]) -> bytes:
    return encode.resume_token(change(decode.resume_token("resume_token", token)))


# ── tokens that are no good ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("token", [b"x", b"\x01" * 37, b"\x02" + b"\0" * 36, b"\x01" + b"\xff" * 36, b"\0" * 4096])
async def test_a_token_that_is_none_is_refused_by_its_name(token: bytes, managers: Managers) -> None:
    answer = await refused(managers.addresses[0], token=token)
    if len(token) == 37 and token[0] == 1 and token[-1] == 1:  # well formed, and of no history
        assert answer.reasons == ["EPOCH_CHANGED"]
        return
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
    assert answer.fields == ["resume_token"]


@pytest.mark.parametrize(
    "change",
    [
        lambda place: replace(place, revision=place.revision + 1),
        lambda place: replace(place, revision=2**63 - 1),
        lambda place: replace(place, epoch=uuid4()),
        lambda place: replace(place, nonce=place.nonce ^ 1),
        lambda place: replace(place, nonce=place.nonce ^ 1, revision=place.revision - 1),
    ],
    ids=["the future", "the end of time", "another epoch", "another nonce", "another nonce before"],
)
async def test_a_token_of_another_history_is_told_so(
    change: Callable[[ResumeToken], ResumeToken], managers: Managers
) -> None:
    name = await managers.fleet.add()
    await managers.fleet.kill(name)
    async with listening(managers.addresses[0]) as stream:
        token = stream.token
    answer = await refused(managers.addresses[1], token=changed(token, change))
    assert answer.code == grpc.StatusCode.FAILED_PRECONDITION
    assert answer.reasons == ["EPOCH_CHANGED"]
    assert "list again" in answer.message


async def test_an_initial_state_and_a_token_exclude_each_other(managers: Managers) -> None:
    async with listening(managers.addresses[0]) as stream:
        request = Story(pb.SubscribeRequest(send_initial_state=True, resume_token=stream.token))

    async def subscribe() -> None:
        async with listening(managers.addresses[0], request) as both:
            await both.next()

    answer = await refusal(subscribe())
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
    assert answer.fields == ["send_initial_state"]


async def test_a_part_counted_by_another_filter_leaves_nothing_out(managers: Managers, often: None) -> None:
    fleet = managers.fleet
    async with listening(managers.addresses[0]) as stream:
        parent, child = await fleet.chain(2)
        updates = await stream.take(4)
    within = changed(updates[1].resume_token, lambda place: replace(place, part=7))
    story = Story(pb.SubscribeRequest(send_bookmarks=True))
    async with listening(managers.addresses[1], story, token=within) as again:
        rest = await again.until(updates[-1].revision)
    assert said(rest) == [("ADDED", child), ("CHILD_ADDED", parent), ("PARENT_ADDED", child)]


# ── history that is no longer kept ───────────────────────────────────────────────────────────────────────────────────


async def trim(database: Database, *, keep: int = 0, delete: bool = True) -> int:
    """Cuts off all but the last `keep` revisions, as the upkeep does; the last revision that is gone."""
    await database.run(
        "update event set at = clock_timestamp() - interval '8 days'"
        " where revision <= (select max(revision) from event) - $1",
        keep,
    )
    await database.run("select compact_history(100000)")
    if delete:
        await database.run("select delete_compacted(100000)")
    revision: int = await database.value("select compacted_revision from control")
    return revision


@pytest.mark.parametrize("delete", [True, False], ids=["deleted", "cut off"])
async def test_a_token_before_the_kept_history_is_told_the_oldest_revision(
    delete: bool, alone: Managers, often: None
) -> None:
    story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
    changes = Changes(5)
    async with listening(alone.addresses[0], story) as stream:
        head = await changes.many(alone.callers[0], 60)
        updates = await stream.until(head)
    kept = await trim(alone.database, keep=20, delete=delete)
    for each in (stream.token, updates[0].resume_token):
        answer = await refused(alone.addresses[1], token=each)
        assert answer.code == grpc.StatusCode.OUT_OF_RANGE
        assert f"from revision {kept + 1} on" in answer.message
    for number, each_update in enumerate(updates):
        token = each_update.resume_token
        if each_update.revision < kept or (each_update.revision == kept and not each_update.end_of_revision):
            assert (await refused(alone.addresses[1], token=token)).code == grpc.StatusCode.OUT_OF_RANGE
        else:
            again = await alone.rest(token, story, head)
            assert [each for each in again.updates if each.event_type != pb.BOOKMARK] == updates[number + 1 :]


async def test_events_trimmed_to_none_and_written_again_are_one_history(alone: Managers, often: None) -> None:
    story = Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING))
    async with listening(alone.addresses[0], story) as stream:
        await alone.fleet.chain(5)
        before = await stream.until(await alone.fleet.head())
    kept = await trim(alone.database)
    assert await alone.database.value("select count(*) from event") == 0
    fresh = await alone.callers[1].gets.GetAllInstances(pb.InstanceFilter())
    assert fresh.revision == kept
    async with listening(alone.addresses[1]) as empty:
        assert place_of(empty.token) == place_of(fresh.resume_token) == place_of(before[-1].resume_token)
    added = await alone.fleet.add()
    assert await alone.fleet.head() == kept + 1
    for token in (before[-1].resume_token, fresh.resume_token, empty.token):
        again = await alone.rest(token, story, kept + 1)
        assert said([each for each in again.updates if each.event_type != pb.BOOKMARK]) == [("ADDED", added)]
    answer = await refused(alone.addresses[1], token=before[-2].resume_token)
    assert answer.code == grpc.StatusCode.OUT_OF_RANGE


async def test_a_subtree_goes_on_from_the_very_end_of_what_was_trimmed(alone: Managers, often: None) -> None:
    top, middle, _ = await alone.fleet.chain(3)
    async with listening(alone.addresses[0]) as stream:
        token = stream.token
    await trim(alone.database)
    late = await alone.fleet.add(parent_id=middle)
    await alone.fleet.add()
    story = Story(pb.SubscribeRequest(subtree_of=top, send_bookmarks=True))
    async with listening(alone.addresses[1], story, token=token) as again:
        rest = await again.until(await alone.fleet.head())
    assert said(rest) == [("ADDED", late), ("CHILD_ADDED", middle), ("PARENT_ADDED", late)]


async def test_a_slow_reader_of_a_trimmed_history_is_told_and_never_given_a_hole(
    alone: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PAGE", 7)
    for _ in range(200):
        await alone.fleet.add(labels=LARGE)
    history = await alone.history()
    begun = await beginning(alone.database)
    async with listening(alone.addresses[1], token=begun, narrow=True) as slow:
        await slow.take(10)
        await trim(alone.database)
        ended = await slow.end()
    assert ended.code == grpc.StatusCode.OUT_OF_RANGE
    assert ended.reasons == ["HISTORY_GONE"]
    got = [(each.revision, each.instance_id) for each in slow.story.updates]
    assert got == [(each.revision, each.instance) for each in history][1 : len(got) + 1]
    assert 10 < len(got) < 200


# ── readers who take nothing ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stalled_subscriber_is_told_where_to_go_on_and_nobody_else_notices(
    database: Database, settings: Settings, often: None
) -> None:
    impatient = settings.model_copy(update={"subscriber_patience": timedelta(seconds=0.3)})
    async with managers_of(database, impatient, 2) as managers:
        healthy = Story(pb.SubscribeRequest(send_bookmarks=True))
        stalled = Story(pb.SubscribeRequest())
        async with (
            listening(managers.addresses[1], healthy) as reader,
            listening(managers.addresses[1], stalled, narrow=True) as stream,
        ):
            for _ in range(60):
                await managers.fleet.add(labels=LARGE)
            head = await managers.fleet.head()
            await reader.until(head)
            await asyncio.sleep(0.5)
            ended = await stream.end()
            token = stalled_at(ended)
            assert place_of(token) == place_of(stalled.token)
            assert 0 < len(stalled.updates) < 60
        async with listening(managers.addresses[0], stalled, token=token) as stream:
            await stream.take(60 - len(stalled.updates))
        for story in (healthy, stalled):
            case = await managers.case(story, head)
            case.story.entries = [each for each in story.entries if getattr(each, "code", None) is None]
            assert broken(case) == {}


def stalled_at(ended: Refused) -> bytes:
    """The token that comes with the status."""
    assert ended.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ended.reasons == ["STALLED"]
    (info,) = [each for each in ended.details if isinstance(each, error_details_pb2.ErrorInfo)]
    return base64.b64decode(info.metadata["resume_token"])


async def test_a_stalled_subscriber_who_never_reads_does_not_keep_the_server(
    database: Database, settings: Settings
) -> None:
    impatient = settings.model_copy(update={"subscriber_patience": timedelta(seconds=0.2)})
    async with managers_of(database, impatient, 1) as managers, listening(managers.addresses[0], narrow=True):
        for _ in range(60):
            await managers.fleet.add(labels=LARGE)
        await asyncio.sleep(0.4)
        began = monotonic()
    assert monotonic() - began < 2.0


# ── servers and connections that go away ─────────────────────────────────────────────────────────────────────────────


async def test_a_server_that_stops_ends_its_streams_with_unavailable_and_they_go_on_elsewhere(
    database: Database, settings: Settings, often: None
) -> None:
    # the first takes nothing, the others all that comes
    stories = [Story(pb.SubscribeRequest(send_bookmarks=True)) for _ in range(5)]
    async with managers_of(database, settings, 1) as staying, AsyncExitStack() as stack:
        async with serving(settings) as leaving:
            streams = [
                await stack.enter_async_context(listening(leaving.addresses[0], story, narrow=story is stories[0]))
                for story in stories
            ]
            names = [await staying.fleet.add(labels=LARGE) for _ in range(40)]
            ends = [asyncio.create_task(each.end()) for each in streams[1:]]
            await asyncio.sleep(0.1)
        ends.append(asyncio.create_task(streams[0].end()))
        assert {(await each).code for each in ends} == {grpc.StatusCode.UNAVAILABLE}
        head = await staying.fleet.head()
        for story in stories:
            async with listening(staying.addresses[0], story, token=story.token) as stream:
                await stream.until(head)
            added = [each.instance_id for each in story.updates if each.event_type == pb.ADDED]
            assert added[-40:] == names
            assert broken(await staying.case(story, head)) == {}


async def terminate(database: Database, like: str) -> None:
    """Ends the connections whose application is named so."""
    await database.run(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = $1 and application_name like $2 and pid <> pg_backend_pid()",
        database.name,
        like,
    )


@pytest.mark.parametrize("like", ["instance-manager doorbell", "instance-manager reads", "%"])
async def test_nothing_is_lost_where_connections_are(like: str, alone: Managers, often: None) -> None:
    changes = Changes(11)
    stories = [Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING)) for _ in range(4)]
    done = asyncio.Event()
    readers = [
        asyncio.create_task(persist(alone, number, story, lambda: changes.acknowledged if done.is_set() else 0))
        for number, story in enumerate(stories)
    ]
    for _ in range(4):
        for _ in range(15):
            await insistently(changes, alone)
        await terminate(alone.database, like)
    head = await insistently(changes, alone)
    done.set()
    await asyncio.gather(*readers)
    for story in stories:
        assert broken(await alone.case(story, head)) == {}


async def pause(error: grpc.aio.AioRpcError) -> None:
    """What a client does whose server, or its database, is away."""
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    await asyncio.sleep(0.05)


async def insistently(changes: Changes, managers: Managers) -> int:
    """One change, as soon as somebody takes it."""
    while True:
        try:
            await changes.one(managers.callers[0])
        except grpc.aio.AioRpcError as error:
            await pause(error)
        else:
            return changes.acknowledged


async def persist(managers: Managers, number: int, story: Story, upto: Callable[[], int]) -> None:
    """Reads, and goes on wherever its stream ended, until it has all up to a revision, once that is known."""
    while True:
        try:
            async with listening(managers.addresses[number % 2], story, token=story.token) as stream:
                while True:
                    update = await stream.next()
                    if upto() and update.revision >= upto():
                        return
        except grpc.aio.AioRpcError as error:
            number += 1
            await pause(error)


async def test_a_doorbell_that_was_cut_off_is_heard_again_at_once(alone: Managers) -> None:
    async with listening(alone.addresses[1]) as stream:
        await terminate(alone.database, "instance-manager doorbell")
        await asyncio.sleep(1.0)
        delays = []
        for _ in range(5):
            await asyncio.sleep(0.03)
            began = monotonic()
            await alone.fleet.add()
            await stream.take(1)
            delays.append(monotonic() - began)
    assert sorted(delays)[2] < 0.5  # the poll of a feed that believes it hears comes once a second
