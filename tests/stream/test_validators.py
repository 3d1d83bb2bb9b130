"""The validators themselves: a perfect record passes, and a record spoiled in one promise is caught by that one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import grpc
import pytest

from manager.domain.filter import ResumeToken
from manager.pb import instance_manager_pb2 as pb
from manager.wire import encode
from tests.stream.plain import Fact, Owed, owed
from tests.stream.reader import WHOLE, Connected, Ended, Place, Story, Taken, place_of
from tests.stream.validators import Case, broken

EPOCH = UUID(int=7)
EVERYTHING = tuple(map(pb.EventType.ValueType, range(1, 9)))


def token(place: Place) -> bytes:
    revision, ordinal, part = place
    return encode.resume_token(ResumeToken(EPOCH, revision, ordinal, 0, 0 if part == WHOLE else part))


def state(parent: str = "", kind: int = pb.CHROME_BROWSER, host: str = "h") -> dict[str, object]:
    return {"type": kind, "hostname": host, "labels": {}, "parent": parent or None, "services": []}


def added(revision: int, name: str, parent: str = "") -> list[Fact]:
    first = Fact(revision, 0, pb.ADDED, name, after=state(parent))
    links = [
        Fact(revision, 1, pb.CHILD_ADDED, parent, related=name),
        Fact(revision, 2, pb.PARENT_ADDED, name, related=parent),
    ]
    return [first, *links] if parent else [first]


def updated(revision: int, name: str, kind: int, parent: str = "") -> Fact:
    return Fact(revision, 0, pb.UPDATED, name, after=state(parent, kind))


# a tree of four, two of them linked into it; a change of type either way; the tree's end
HISTORY = [
    *added(1, "root"),
    *added(2, "child", "root"),
    *added(3, "other"),
    *added(4, "grandchild", "other"),
    Fact(5, 0, pb.CHILD_ADDED, "root", related="other"),
    Fact(5, 1, pb.PARENT_ADDED, "other", related="root"),
    updated(6, "child", pb.VLLM, "root"),
    updated(7, "child", pb.CHROME_BROWSER, "root"),
    *added(8, "last", "child"),
    Fact(9, 0, pb.REMOVED, "root", cause=1, root="root"),
    Fact(9, 1, pb.REMOVED, "child", cause=3, root="root"),
    Fact(9, 2, pb.REMOVED, "other", cause=3, root="root"),
    Fact(9, 3, pb.REMOVED, "grandchild", cause=3, root="root"),
    Fact(9, 4, pb.REMOVED, "last", cause=3, root="root"),
    *added(10, "after"),
]


def said(due: Owed) -> pb.InstanceUpdate:
    """What a server without fault sends."""
    update = pb.InstanceUpdate(
        event_type=pb.EventType.ValueType(due.type),
        instance_id=due.instance,
        related_id=due.related,
        cause=pb.Cause.ValueType(due.cause),
        root_cause_id=due.root,
        revision=due.place[0],
        resume_token=token(due.place),
        end_of_revision=due.last,
    )
    if due.full:
        update.instance.instance_type = pb.InstanceType.ValueType(due.full.type)
        update.instance.hostname = due.full.hostname
        update.instance.parent_id = due.full.parent
    return update


def mark(revision: int, place: Place) -> pb.InstanceUpdate:
    return pb.InstanceUpdate(event_type=pb.BOOKMARK, revision=revision, resume_token=token(place))


def perfect(cut: int = 6, **fields: Any) -> Story:
    """Two connections, the second from the `cut`th message on; a bookmark first on both, and one at the end."""
    request = pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING, **fields)
    messages = owed(HISTORY, request).messages
    beginning = (0, 0, WHOLE)
    story = Story(request, [Connected(0.0, b"", token(beginning)), Taken(0.0, mark(0, beginning))])
    story.entries += [Taken(0.1, said(each)) for each in messages[:cut]]
    place = messages[cut - 1].place
    whole = messages[cut - 1].last
    story.entries += [Ended(0.2), Connected(0.3, token(place), token(place))]
    story.entries.append(Taken(0.3, mark(place[0] if whole else place[0] - 1, place)))
    story.entries += [Taken(0.4, said(each)) for each in messages[cut:]]
    story.entries.append(Taken(0.5, mark(10, (10, 0, WHOLE))))
    return story


def case(story: Story) -> Case:
    return Case(story, HISTORY, read_up_to=10)


@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"subtree_of": "root"},
        {"types": [pb.CHROME_BROWSER]},
        {"parent_id": "root"},
        {"types": [pb.CHROME_BROWSER], "subtree_of": "root"},
    ],
)
def test_a_record_without_fault_passes(fields: dict[str, object], cut: int) -> None:
    assert broken(case(perfect(cut, **fields))) == {}


def test_a_server_that_was_away_for_long_owes_no_bookmarks() -> None:
    story = perfect()
    story.entries = [Ended(-100.0), *story.entries, Ended(0.6), Ended(100.0)]
    assert broken(case(story)) == {}


def test_a_link_into_a_subtree_owes_each_of_the_linked() -> None:
    messages = owed(HISTORY, pb.SubscribeRequest(subtree_of="root")).messages
    assert [(each.place, each.type, each.instance, each.last) for each in messages if each.place[0] == 5] == [
        ((5, 0, WHOLE), pb.CHILD_ADDED, "root", False),
        ((5, 1, 1), pb.ADDED, "other", False),
        ((5, 1, WHOLE), pb.ADDED, "grandchild", True),
    ]


def test_a_change_of_type_owes_an_entry_and_an_exit() -> None:
    messages = owed(HISTORY, pb.SubscribeRequest(types=[pb.VLLM])).messages
    assert [(each.place[0], each.type, each.instance, each.cause) for each in messages] == [
        (6, pb.ADDED, "child", 0),
        (7, pb.REMOVED, "child", pb.CAUSE_LEFT_FILTER),
    ]


# ── spoiled ──────────────────────────────────────────────────────────────────────────────────────────────────────────

LAST = 2  # entries from the end: the last message; the last but one is of the kill


def swap(story: Story) -> None:
    """A parent's removal after its child's: numbered anew, so that only the depth tells."""
    one, other = story.entries[-7], story.entries[-6]
    assert isinstance(one, Taken)
    assert isinstance(other, Taken)
    assert (one.update.instance_id, other.update.instance_id) == ("root", "child")
    one.update.resume_token, other.update.resume_token = other.update.resume_token, one.update.resume_token
    story.entries[-7], story.entries[-6] = other, one


def repeat(story: Story) -> None:
    story.entries.insert(-LAST, story.entries[-LAST - 2])
    one, other = story.entries[-LAST - 1], story.entries[-LAST - 2]
    assert isinstance(one, Taken)
    assert isinstance(other, Taken)
    story.entries[-LAST - 1], story.entries[-LAST - 2] = story.entries[-LAST - 2], story.entries[-LAST - 1]


def drop(story: Story) -> None:
    del story.entries[-LAST - 2]


def end_early(story: Story) -> None:
    entry = story.entries[-LAST - 3]
    assert isinstance(entry, Taken)
    entry.update.end_of_revision = True


def end_never(story: Story) -> None:
    entry = story.entries[-LAST - 1]
    assert isinstance(entry, Taken)
    entry.update.end_of_revision = False


def resume_late(story: Story) -> None:
    del story.entries[_resumption(story) + 2]


def resume_elsewhere(story: Story) -> None:
    """The headers name a place that was not asked for."""
    number = _resumption(story)
    entry = story.entries[number]
    assert isinstance(entry, Connected)
    story.entries[number] = replace(entry, place=token((1, 0, WHOLE)), sent=entry.sent)


def refuse(story: Story) -> None:
    story.entries.append(Ended(0.6, grpc.StatusCode.OUT_OF_RANGE))


def mark_ahead(story: Story) -> None:
    story.entries[-LAST], story.entries[-1] = story.entries[-1], story.entries[-LAST]


def mark_a_revision_that_is_not_whole(story: Story) -> None:
    entry = story.entries[_resumption(story) + 1]
    assert isinstance(entry, Taken)
    entry.update.revision += 1


def mark_late(story: Story) -> None:
    story.entries[-1] = replace(story.entries[-1], at=9.0)


def mark_none(story: Story) -> None:
    del story.entries[1]


def change(story: Story) -> None:
    """A message says something else than what happened."""
    entry = story.entries[-LAST]
    assert isinstance(entry, Taken)
    entry.update.instance.hostname = "elsewhere"


def intrude(story: Story) -> None:
    """A message that the filter should have kept back."""
    due = Owed((9, 9, WHOLE), pb.REMOVED, "stranger", cause=pb.CAUSE_KILLED, root="stranger")
    story.entries.insert(-LAST, Taken(0.4, said(due)))


def _resumption(story: Story) -> int:
    return max(number for number, each in enumerate(story.entries) if isinstance(each, Connected))


SPOILED: list[tuple[Callable[[Story], None], set[str]]] = [
    (swap, {"ordered"}),
    (repeat, {"unique"}),
    (drop, {"reliable", "atomic"}),
    (end_early, {"atomic"}),
    (end_never, {"atomic"}),
    (resume_late, {"resumable", "reliable"}),
    (resume_elsewhere, {"resumable"}),
    (refuse, {"resumable"}),
    (mark_ahead, {"bookmarkable"}),
    (mark_a_revision_that_is_not_whole, {"bookmarkable"}),
    (mark_late, {"bookmarkable"}),
    (mark_none, {"bookmarkable"}),
    (intrude, {"filtered"}),
    (change, {"filtered", "atomic"}),
]


@pytest.mark.parametrize(("spoil", "promises"), SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
def test_a_spoiled_record_is_caught(spoil: Callable[[Story], None], promises: set[str]) -> None:
    story = perfect()
    spoil(story)
    assert set(broken(case(story))) == promises


def test_a_place_is_read_from_a_token() -> None:
    assert place_of(token((5, 1, 1))) < place_of(token((5, 1, WHOLE))) < place_of(token((5, 2, WHOLE)))


def test_a_link_above_a_subtree_owes_nothing_to_those_who_watch_it() -> None:
    above = [
        *added(11, "top"),
        Fact(12, 0, pb.CHILD_ADDED, "top", related="root"),
        Fact(12, 1, pb.PARENT_ADDED, "root"),
    ]
    history = [*HISTORY[:12], *above]
    assert [
        each for each in owed(history, pb.SubscribeRequest(subtree_of="child")).messages if each.place[0] > 10
    ] == []
