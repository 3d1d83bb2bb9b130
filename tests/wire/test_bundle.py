"""Messages of many events: whole revisions where they fit, nothing lost, nothing twice, and none too large."""

from collections.abc import Sequence
from itertools import pairwise
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from manager.domain.filter import ResumeToken
from manager.pages import Page
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.wire import encode
from manager.wire.bundle import SIZE, Bundle
from manager.wire.subscribing import Piece

EPOCH = uuid4()


def piece(number: int, size: int, *, ends: bool, placed: bool = True) -> Piece:
    update = pb.InstanceUpdate(revision=number, instance_id="x" * size, end_of_revision=ends)
    place = ResumeToken(EPOCH, number + 1, 0, 0) if placed else None
    return Piece(update.SerializeToString(), place, ends)


def read(messages: Sequence[tuple[bytes, ResumeToken | None]]) -> list[fleet_pb2.InstanceUpdates]:
    found = []
    for content, place in messages:
        assert len(content) <= SIZE
        message = fleet_pb2.InstanceUpdates.FromString(content)
        assert message.resume_token == (encode.resume_token(place) if place else b"")
        assert message.SerializeToString() == content
        found.append(message)
    return found


def revisions(messages: Sequence[fleet_pb2.InstanceUpdates]) -> list[list[int]]:
    return [[each.revision for each in message.updates] for message in messages]


sizes = st.sampled_from([0, 10, 127, 128, 20_000, 400_000])
events = st.lists(st.tuples(sizes, st.booleans()), max_size=30)


@given(events, st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_everything_arrives_once_and_in_order_in_whole_revisions_where_they_fit(
    some: list[tuple[int, bool]], cuts: list[int]
) -> None:
    pieces = [piece(number, size, ends=ends) for number, (size, ends) in enumerate(some)]
    pieces.append(piece(len(pieces), 0, ends=True))
    bundle, messages = Bundle(), []
    for place in range(0, len(pieces), cuts[0]):
        messages += read(list(bundle.take(Page(pieces[place : place + cuts[0]]))))
    assert [each for message in revisions(messages) for each in message] == list(range(len(pieces)))
    for message, following in pairwise(messages):
        if not message.updates[-1].end_of_revision:  # then there was no end before, and no room for what came next
            assert not any(each.end_of_revision for each in message.updates)
            assert message.ByteSize() + following.updates[0].ByteSize() > SIZE - 1_000


def test_a_revision_waits_for_its_end_over_pages() -> None:
    bundle = Bundle()
    assert list(bundle.take(Page([piece(0, 0, ends=True), piece(1, 0, ends=False)]))) != []
    assert list(bundle.take(Page([piece(2, 0, ends=False)]))) == []
    assert revisions(read(list(bundle.take(Page([piece(3, 0, ends=True)]))))) == [[1, 2, 3]]


def test_within_an_initial_state_there_is_no_place_to_go_on_from() -> None:
    bundle = Bundle()
    large = [piece(number, 300_000, ends=False, placed=False) for number in range(4)]
    (first,) = read(list(bundle.take(Page(large))))
    assert (len(first.updates), first.resume_token) == (3, b"")


def test_what_is_the_same_for_all_is_joined_once() -> None:
    whole, begun = Page([piece(0, 0, ends=True)]), Page([piece(1, 0, ends=False)])
    first, second = Bundle(), Bundle()
    assert next(iter(first.take(whole)))[0] is next(iter(second.take(whole)))[0]
    assert list(first.take(begun)) == []  # and what is left over in one is not told by another
    ended = Page([piece(2, 0, ends=True)])
    assert revisions(read(list(first.take(ended)))) == [[1, 2]]
    assert revisions(read(list(second.take(ended)))) == [[2]]
