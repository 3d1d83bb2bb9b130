"""The seven promises of the stream, each judged by itself over what one subscriber recorded.

A validator takes a `Case` and gives its violations in words; none means that the promise was kept.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import grpc

from manager.pb import instance_manager_pb2 as pb
from tests.stream.plain import Debt, Fact, One, Owed, ServiceKey, owed
from tests.stream.reader import Connected, Ended, Place, Story, Taken, place_of

BOOKMARK_WITHIN = 5.0
MARKS = (pb.BOOKMARK, pb.SYNCED)
EVERY = 53  # the fleet as seen is compared at every so-manieth revision, and at the last


@dataclass(frozen=True, slots=True)
class Got:
    """A message about an event; `number` is its place in the story's entries."""

    number: int
    update: pb.InstanceUpdate
    place: Place

    @property
    def identity(self) -> tuple[Any, ...]:
        """As of Owed."""
        update = self.update
        service = _service(update.service) if update.HasField("service") else None
        return (update.revision, update.event_type, update.instance_id, update.related_id, service)

    def __str__(self) -> str:
        return f"{pb.EventType.Name(self.update.event_type)} of {self.update.instance_id} at {self.place}"


def _service(given: pb.Service) -> ServiceKey:
    return (given.service_type, given.host, given.port, given.path)


@dataclass
class Case:
    """A story, the history it is about, and the revision up to which it was read to the end (0: nobody waited)."""

    story: Story
    history: Sequence[Fact]
    read_up_to: int = 0
    bookmark_within: float = BOOKMARK_WITHIN

    @cached_property
    def got(self) -> list[Got]:
        """Messages about events, without marks and without the initial state, which carries no token."""
        return [
            Got(number, each.update, place_of(each.update.resume_token))
            for number, each in enumerate(self.story.entries)
            if isinstance(each, Taken) and each.update.event_type not in MARKS and each.update.resume_token
        ]

    @cached_property
    def begun(self) -> Place:
        """Where the story begins."""
        first = next(each for each in self.story.entries if isinstance(each, Connected))
        return place_of(first.place)

    @cached_property
    def debt(self) -> Debt:
        """What is owed from where the story begins to where it ends."""
        ends = [each.update.revision for each in self.got if each.update.end_of_revision]
        views = {*ends[::EVERY], *ends[-1:], *(each.update.revision for each in self.synced)}
        since = self.begun[0]
        upto = max([since, self.read_up_to, *(each.revision for each in self.story.updates)])
        return owed(self.history, self.story.request, frozenset({*views, since - 1}), since, upto)

    @cached_property
    def synced(self) -> list[Taken]:
        """The ends of initial states."""
        return [each for each in self.story.entries if isinstance(each, Taken) and each.update.event_type == pb.SYNCED]

    @cached_property
    def places(self) -> list[Place]:
        """Of all that is owed."""
        return [each.place for each in self.debt.messages]

    def between(self, after: Place, upto: Place) -> list[Owed]:
        """What is owed after one place, up to another."""
        return self.debt.messages[bisect_right(self.places, after) : bisect_right(self.places, upto)]

    @cached_property
    def reached(self) -> Place:
        """How far the story came."""
        last = self.got[-1].place if self.got else self.begun
        return max(last, (self.read_up_to, 2**31, 0)) if self.read_up_to else last


Validator = Callable[[Case], Iterator[str]]


def ordered(case: Case) -> Iterator[str]:
    """By revision, and within one by ordinal; a removed root before its subtree."""
    for one, other in pairwise(case.got):
        if (other.update.revision, other.place) < (one.update.revision, one.place):
            yield f"{other} came after {one}"
    parents = {each.instance: each.related for each in case.history if each.type == pb.PARENT_ADDED}
    removed: dict[int, set[str]] = {}
    for each in case.got:
        if each.update.event_type == pb.REMOVED and each.update.cause != pb.CAUSE_LEFT_FILTER:
            gone = removed.setdefault(each.update.revision, set())
            gone.add(each.update.instance_id)
            below = [name for name in gone if parents.get(name) == each.update.instance_id]
            if below:
                yield f"{each} came after its children {below}"


def unique(case: Case) -> Iterator[str]:
    """No event twice."""
    known: set[tuple[Any, ...]] = set()
    for each in case.got:
        if each.identity in known:
            yield f"{each} came twice"
        known.add(each.identity)


def reliable(case: Case) -> Iterator[str]:
    """No event missing between the beginning and the last that was received."""
    got = {each.identity for each in case.got}
    for each in case.between(case.begun, case.reached):
        if each.identity not in got:
            yield f"{each} is missing"


def filtered(case: Case) -> Iterator[str]:
    """Nothing that the filter and the kinds do not ask for, and what comes is what happened."""
    debt = {each.identity: each for each in case.debt.messages}
    for each in case.got:
        due = debt.get(each.identity)
        if due is None:
            yield f"{each} was not owed"
        elif difference := _difference(each.update, due):
            yield f"{each} says {difference}"


def _difference(update: pb.InstanceUpdate, due: Owed) -> str:
    given = (update.cause, update.root_cause_id, _one(update) if update.HasField("instance") else None)
    expected = (due.cause, due.root, due.full)
    return "" if given == expected else f"{given} instead of {expected}"


def _one(update: pb.InstanceUpdate) -> One:
    given = update.instance
    services = tuple(map(_service, given.services))
    return One(given.instance_type, given.hostname, dict(given.labels), given.parent_id, services)


def atomic(case: Case) -> Iterator[str]:
    """`end_of_revision` is on the last message of each revision alone; and the fleet as applied up to it is whole."""
    debt = {each.identity: each.last for each in case.debt.messages}
    for each in case.got:
        if each.update.end_of_revision != debt.get(each.identity, each.update.end_of_revision):
            yield f"{each} {'ends' if each.update.end_of_revision else 'does not end'} its revision"
    if frozenset(case.story.request.event_types or ()) >= {pb.ADDED, pb.REMOVED, pb.UPDATED, *range(3, 6)}:
        yield from _replayed(case)


def _replayed(case: Case) -> Iterator[str]:
    """What a client has that applies each message as it comes."""
    fleet: dict[str, One] = {}
    if not case.story.request.send_initial_state:
        fleet = _at(case, case.begun)
    for entry in case.story.entries:
        if isinstance(entry, Taken) and entry.update.event_type != pb.BOOKMARK:
            update = entry.update
            _apply(fleet, update)
            view = case.debt.views.get(update.revision)
            if update.end_of_revision and view is not None and view != fleet:
                strange = {name for name in {*view, *fleet} if view.get(name) != fleet.get(name)}
                yield f"after revision {update.revision} these are not as in the list: {sorted(strange)}"
                return


def _at(case: Case, place: Place) -> dict[str, One]:
    """What the subscriber should have at a place, which may lie within a revision."""
    fleet = dict(case.debt.views[place[0] - 1])
    for each in case.debt.messages:
        if each.place[0] == place[0] and each.place <= place:
            _do(fleet, each.type, each.instance, each.full, each.related, each.service)
    return fleet


def _apply(fleet: dict[str, One], update: pb.InstanceUpdate) -> None:
    full = _one(update) if update.HasField("instance") else None
    service = _service(update.service) if update.HasField("service") else None
    _do(fleet, update.event_type, update.instance_id, full, update.related_id, service)


def _do(
    fleet: dict[str, One], kind: int, name: str, full: One | None, related: str, service: ServiceKey | None
) -> None:
    one = fleet.get(name)
    if full is not None:
        fleet[name] = full
    elif kind == pb.REMOVED:
        fleet.pop(name, None)
    elif kind == pb.PARENT_ADDED and one:
        fleet[name] = One(one.type, one.hostname, one.labels, related, one.services)
    elif kind == pb.SERVICE_ADDED and one and service and service not in one.services:
        fleet[name] = One(one.type, one.hostname, one.labels, one.parent, (*one.services, service))


# what a subscriber meets that has done nothing wrong, while the server or its database is away
PASSING = (None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def resumable(case: Case) -> Iterator[str]:
    """From any token, exactly the rest."""
    for number, entry in enumerate(case.story.entries):
        if isinstance(entry, Ended) and entry.code not in PASSING:
            yield f"ended with {entry.code}"
        if not isinstance(entry, Connected) or not entry.sent:
            continue
        place = place_of(entry.sent)
        if entry.place != entry.sent:
            yield f"resumed from {place}, and the headers said {place_of(entry.place)}"
        first = next((each for each in case.got if each.number > number), None)
        rest = case.between(place, (2**62, 0, 0))
        if first is not None and (not rest or first.identity != rest[0].identity):
            yield f"resumed from {place}, and the first was {first} instead of {rest[0] if rest else 'nothing'}"


def bookmarkable(case: Case) -> Iterator[str]:
    """One first, then one at least every 5 s; everything up to its revision was sent, and nothing of it follows."""
    if not case.story.request.send_bookmarks:
        return
    done, place, first, at, connected = 0, case.begun, False, 0.0, False
    got = {each.number: each for each in case.got}
    initial = case.story.request.send_initial_state
    for number, entry in enumerate(case.story.entries):
        if isinstance(entry, Connected):
            # what the headers say is for `resumable` to judge
            first, at, place = True, entry.at, place_of(entry.sent or entry.place)
            initial = case.story.request.send_initial_state and not entry.sent
        elif connected and entry.at - at > case.bookmark_within and not initial:
            yield f"no bookmark for {entry.at - at:.1f} s"
            at = entry.at
        connected = not isinstance(entry, Ended)
        if not isinstance(entry, Taken):
            continue
        update = entry.update
        if number in got:
            if update.revision <= done:
                yield f"{got[number]} came after the bookmark of {done}"
            place = got[number].place
        if update.event_type == pb.SYNCED:
            initial, at = False, entry.at
        if update.event_type == pb.BOOKMARK:
            at, done = entry.at, max(done, update.revision)
            token = place_of(update.resume_token)
            skipped = [*case.between(place, (update.revision, 2**31, 0)), *case.between(place, token)]
            if skipped:
                yield f"the bookmark of {update.revision} at {token} came before {skipped[0]}"
            place = max(place, token)
        elif first and not initial and number in got:
            yield f"{got[number]} came before the first bookmark"
        if not initial and update.event_type != pb.SYNCED:
            first = False


PROMISES: dict[str, Validator] = {
    "ordered": ordered,
    "unique": unique,
    "reliable": reliable,
    "atomic": atomic,
    "resumable": resumable,
    "bookmarkable": bookmarkable,
    "filtered": filtered,
}


def broken(case: Case) -> dict[str, list[str]]:
    """Which promises were not kept, and how."""
    found = {name: list(validator(case)) for name, validator in PROMISES.items()}
    return {name: violations for name, violations in found.items() if violations}
