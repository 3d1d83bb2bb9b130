"""The state of a fleet under streams of every kind: whole or broken off anywhere, resumed or begun anew."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from manager.client import (
    Added,
    BecameStale,
    Change,
    Linked,
    Member,
    Recovered,
    Removed,
    Resynced,
    ServiceAdded,
    Updated,
)
from manager.client.fleet_state import EVENT_TYPES, FleetState
from manager.client.member import member_of
from manager.pb import instance_manager_pb2 as pb

A, B, C = "a", "b", "c"
PORT = pb.Service(service_type=pb.CHROME_DEBUG_PORT, host="h", port=1)
OTHER = pb.Service(service_type=pb.VLLM_OPENAI_COMPATIBLE, host="h", port=2)


def instance(
    id_: str, of: pb.InstanceType.ValueType = pb.CHROME_BROWSER, hostname: str = "h", parent_id: str = ""
) -> pb.InstanceDescription:
    return pb.InstanceDescription(
        instance_id=id_,
        instance_type=of,
        hostname=hostname,
        parent_id=parent_id,
        status=pb.STATUS_HEALTHY,
        timeout_ms=30_000,
    )


def stale(one: pb.InstanceDescription) -> pb.InstanceDescription:
    copy = pb.InstanceDescription()
    copy.CopyFrom(one)
    copy.status = pb.STATUS_STALE
    return copy


def told(
    kind: pb.EventType.ValueType,
    id_: str,
    revision: int,
    *,
    end: bool = True,
    full: pb.InstanceDescription | None = None,
    related: str = "",
    service: pb.Service | None = None,
) -> pb.InstanceUpdate:
    """A message of the stream."""
    return pb.InstanceUpdate(
        event_type=kind,
        instance_id=id_,
        instance=full,
        related_id=related,
        service=service,
        cause=pb.CAUSE_KILLED if kind == pb.REMOVED else pb.CAUSE_UNSPECIFIED,
        revision=revision,
        end_of_revision=end,
        resume_token=f"{revision}{'' if end else '-'}".encode(),
    )


def begun(*initial: pb.InstanceDescription, revision: int = 1) -> FleetState:
    """A state with this snapshot."""
    state = FleetState()
    snapshot(state, *initial, revision=revision)
    return state


def snapshot(state: FleetState, *initial: pb.InstanceDescription, revision: int) -> list[Change]:
    """A new initial state, and what it changed."""
    state.restart()
    for each in initial:
        found = pb.InstanceUpdate(event_type=pb.ADDED, instance_id=each.instance_id, instance=each, revision=revision)
        assert state.apply(found) == []
    synced = pb.InstanceUpdate(event_type=pb.SYNCED, revision=revision, resume_token=b"s", end_of_revision=True)
    return state.apply(synced)


def test_nothing_is_shown_before_the_initial_state_is_complete() -> None:
    state = FleetState()
    state.apply(pb.InstanceUpdate(event_type=pb.ADDED, instance_id=A, instance=instance(A), revision=3))
    assert (state.members, state.synced, state.token) == ({}, False, b"")
    synced = pb.InstanceUpdate(event_type=pb.SYNCED, revision=3, resume_token=b"t", end_of_revision=True)
    assert state.apply(synced) == [Added(member_of(instance(A)), 3)]
    assert (state.synced, state.revision, state.token) == (True, 3, b"t")


def test_half_a_revision_is_held_back_over_a_break_too() -> None:
    state = begun(instance(A), instance(B))
    assert state.apply(told(pb.REMOVED, A, 2, end=False)) == []
    assert set(state.members) == {A, B}
    assert state.token == b"2-"  # the stream goes on in the middle
    assert [type(each) for each in state.apply(told(pb.REMOVED, B, 2))] == [Removed, Removed]
    assert (state.members, state.revision) == ({}, 2)


def test_a_restart_forgets_half_a_revision_and_shows_what_was_shown_until_the_snapshot_is_complete() -> None:
    state = begun(instance(A), instance(B))
    state.apply(told(pb.REMOVED, A, 2, end=False))
    state.restart()
    assert (set(state.members), state.token) == ({A, B}, b"")
    assert snapshot(state, instance(A), instance(B), revision=9) == []
    assert set(state.members) == {A, B}


def test_a_registration_with_parent_and_service_is_told_once() -> None:
    full = instance(B, parent_id=A)
    full.services.append(PORT)
    state = begun(instance(A))
    for update in (
        told(pb.ADDED, B, 2, end=False, full=full),
        told(pb.PARENT_ADDED, B, 2, end=False, related=A),
    ):
        assert state.apply(update) == []
    assert state.apply(told(pb.SERVICE_ADDED, B, 2, service=PORT)) == [Added(member_of(full), 2)]


def test_each_kind_of_event_is_told_as_what_it_is() -> None:
    state = begun(instance(A), instance(B))
    (linked,) = state.apply(told(pb.PARENT_ADDED, B, 2, related=A))
    (offered,) = state.apply(told(pb.SERVICE_ADDED, B, 3, service=PORT))
    (silent,) = state.apply(told(pb.STALE, B, 4))
    full = instance(B, pb.WARMPOOL_CHROME_BROWSER, parent_id=A)
    full.services.append(PORT)
    (updated,) = state.apply(told(pb.UPDATED, B, 5, full=full))
    (recovered,) = state.apply(told(pb.RECOVERED, B, 6, full=full))
    (removed,) = state.apply(told(pb.REMOVED, B, 7))
    assert isinstance(linked, Linked)
    assert linked.parent_id == A
    assert isinstance(offered, ServiceAdded)
    assert offered.member.services == (offered.endpoint,)
    assert isinstance(silent, BecameStale)
    assert silent.member.stale
    assert isinstance(updated, Updated)
    assert updated.member.stale  # an update is no sign of life
    assert updated.before == silent.member
    assert isinstance(recovered, Recovered)
    assert recovered.member == replace(updated.member, stale=False)
    assert removed == Removed(recovered.member, 7, pb.CAUSE_KILLED, "")


def test_a_new_snapshot_tells_what_differs_and_nothing_else() -> None:
    state = begun(instance(A), instance(B), instance(C), stale(instance("d")), instance("e"))
    before = dict(state.members)
    changes = snapshot(
        state,
        instance(A),
        instance(B, hostname="other"),
        stale(instance("d", hostname="moved")),
        stale(instance("e")),
        instance("f"),
        revision=7,
    )
    assert changes == [
        Removed(before[C], 7, pb.CAUSE_UNSPECIFIED, ""),
        Updated(state.members[B], 7, before[B]),
        Updated(state.members["d"], 7, before["d"]),
        BecameStale(state.members["e"], 7),
        Added(state.members["f"], 7),
    ]
    assert list(state.members) == [A, B, "d", "e", "f"]  # those who stay keep their place


def test_a_bookmark_moves_the_revision_and_the_token() -> None:
    state = begun(instance(A))
    assert state.apply(pb.InstanceUpdate(event_type=pb.BOOKMARK, revision=8, resume_token=b"b")) == []
    assert (state.revision, state.token) == (8, b"b")


def test_what_the_fleet_shows_cannot_be_changed_from_outside() -> None:
    labelled = instance(A)
    labelled.labels["k"] = "v"
    member = member_of(labelled)
    labelled.labels["k"] = "w"
    assert member.labels == {"k": "v"}
    assert not hasattr(member.labels, "__setitem__")
    assert {member}  # it can be a key


# ---- every stream: a history of a made-up fleet, seen through a filter by type, broken off and resumed at random

KINDS = (pb.CHROME_BROWSER, pb.WARMPOOL_CHROME_BROWSER, pb.VLLM)
Fleet = dict[str, pb.InstanceDescription]


@dataclass
class Story:
    """A fleet's history: for each revision the messages that a subscriber with the filter gets, and the fleet then."""

    random: Random
    wanted: frozenset[int]
    fleet: Fleet = field(default_factory=dict)
    messages: list[list[pb.InstanceUpdate]] = field(default_factory=list)
    shown: list[dict[str, Member]] = field(default_factory=lambda: [{}])
    born: int = 0

    @property
    def next(self) -> int:
        return len(self.messages) + 1

    def sees(self, one: pb.InstanceDescription | None) -> bool:
        return one is not None and (not self.wanted or one.instance_type in self.wanted)

    def see(
        self, kind: pb.EventType.ValueType, before: pb.InstanceDescription | None, after: pb.InstanceDescription | None
    ) -> list[pb.InstanceUpdate]:
        """One event as the contract says that a filter shows it."""
        was, present = self.sees(before), self.sees(after)
        some = after or before
        assert some is not None
        if present and not was:
            return [told(pb.ADDED, some.instance_id, self.next, full=after)]
        if was and not present:
            return [told(pb.REMOVED, some.instance_id, self.next)]
        return [told(kind, some.instance_id, self.next, full=after)] if present else []

    def close(self, seen: list[pb.InstanceUpdate]) -> None:
        """Ends a revision: `end_of_revision` on the last message alone, and a token for each."""
        seen = [each for each in seen if each.event_type in EVENT_TYPES]
        for number, each in enumerate(seen, 1):
            each.end_of_revision = number == len(seen)
            each.resume_token = f"{self.next}:{number}".encode()
        self.messages.append(seen)
        self.shown.append({id_: member_of(one) for id_, one in self.fleet.items() if self.sees(one)})

    def go_on(self) -> None:
        """One more revision."""
        ids = list(self.fleet)
        verbs = [self.register, *((self.kill, self.update, self.turn, self.offer, self.link) if ids else ())]
        self.close(self.random.choice(verbs)())

    def changed(self, id_: str) -> tuple[pb.InstanceDescription, pb.InstanceDescription]:
        before, after = self.fleet[id_], pb.InstanceDescription()
        after.CopyFrom(before)
        self.fleet[id_] = after
        return before, after

    def register(self) -> list[pb.InstanceUpdate]:
        self.born += 1
        parent = self.random.choice(["", *self.fleet])
        full = self.fleet[f"i{self.born}"] = instance(f"i{self.born}", self.random.choice(KINDS), parent_id=parent)
        full.services.extend(self.random.choice(([], [PORT], [PORT, OTHER])))
        seen = self.see(pb.ADDED, None, full)
        if self.sees(full) and parent:
            seen.append(told(pb.PARENT_ADDED, full.instance_id, self.next, related=parent))
        if self.sees(full):
            seen += [told(pb.SERVICE_ADDED, full.instance_id, self.next, service=each) for each in full.services]
        return seen

    def kill(self) -> list[pb.InstanceUpdate]:
        doomed = [self.random.choice(list(self.fleet))]
        for each in doomed:
            doomed += [id_ for id_, one in self.fleet.items() if one.parent_id == each]
        return [update for each in doomed for update in self.see(pb.REMOVED, self.fleet.pop(each), None)]

    def update(self) -> list[pb.InstanceUpdate]:
        before, after = self.changed(self.random.choice(list(self.fleet)))
        after.instance_type, after.hostname = self.random.choice(KINDS), self.random.choice(("h", "g"))
        seen = self.see(pb.UPDATED, before, after)
        for each in seen:
            if each.event_type == pb.UPDATED:
                each.instance.status = pb.STATUS_HEALTHY  # the message does not know better
        return seen

    def turn(self) -> list[pb.InstanceUpdate]:
        before, after = self.changed(self.random.choice(list(self.fleet)))
        silent = before.status == pb.STATUS_HEALTHY
        after.status = pb.STATUS_STALE if silent else pb.STATUS_HEALTHY
        return self.see(pb.STALE if silent else pb.RECOVERED, before, after)

    def offer(self) -> list[pb.InstanceUpdate]:
        _, after = self.changed(self.random.choice(list(self.fleet)))
        if OTHER in after.services:
            return []
        after.services.append(OTHER)
        return [told(pb.SERVICE_ADDED, after.instance_id, self.next, service=OTHER)] if self.sees(after) else []

    def link(self) -> list[pb.InstanceUpdate]:
        id_, parent = self.random.choice(list(self.fleet)), self.random.choice(list(self.fleet))
        if self.fleet[id_].parent_id or int(id_[1:]) <= int(parent[1:]):  # the old above the young: no ring
            return []
        _, after = self.changed(id_)
        after.parent_id = parent
        return [told(pb.PARENT_ADDED, id_, self.next, related=parent)] if self.sees(after) else []

    def after(self, token: str) -> Iterator[pb.InstanceUpdate]:
        """What follows a token, with bookmarks strewn in; one first, which within a revision is of the one before."""
        revision, _, number = token.partition(":")
        whole = not number or int(number) == len(self.messages[int(revision) - 1])
        yield self.bookmark(int(revision) - (not whole), token)
        for index in range(max(int(revision) - 1, 0), len(self.messages)):
            done = 0 if index >= int(revision) else int(number) if number else len(self.messages[index])
            yield from self.messages[index][done:]
            if self.random.random() < 0.2:
                yield self.bookmark(index + 1, str(index + 1))

    def bookmark(self, revision: int, token: str) -> pb.InstanceUpdate:
        return pb.InstanceUpdate(event_type=pb.BOOKMARK, revision=revision, resume_token=token.encode())

    def initial(self, revision: int) -> Iterator[pb.InstanceUpdate]:
        """The stream that begins with the fleet as of a revision."""
        for id_ in sorted(self.shown[revision]):
            yield pb.InstanceUpdate(
                event_type=pb.ADDED, instance_id=id_, instance=description(self.shown[revision][id_]), revision=revision
            )
        yield pb.InstanceUpdate(
            event_type=pb.SYNCED, revision=revision, resume_token=str(revision).encode(), end_of_revision=True
        )
        yield from self.after(str(revision))


def description(member: Member) -> pb.InstanceDescription:
    """A member as the manager would describe it."""
    return pb.InstanceDescription(
        instance_id=member.id,
        instance_type=member.instance_type,
        hostname=member.hostname,
        parent_id=member.parent_id or "",
        services=[pb.Service(service_type=e.service_type, host=e.host, port=e.port) for e in member.services],
        timeout_ms=round(member.timeout * 1000),
        status=pb.STATUS_STALE if member.stale else pb.STATUS_HEALTHY,
    )


@dataclass
class Mirror:
    """A reader who knows the fleet by its changes alone."""

    members: dict[str, Member] = field(default_factory=dict)

    def hear(self, change: Change) -> None:
        assert not isinstance(change, Resynced)  # which only iterators tell
        before = self.members.get(change.member.id)
        match change:
            case Added(member=member):
                assert before is None
            case Removed(member=member):
                assert self.members.pop(member.id) == member
                return
            case Updated(member=member, before=told_before):
                assert told_before == before != member
            case BecameStale(member=member) | Recovered(member=member):
                assert before == replace(member, stale=not member.stale)
            case ServiceAdded(member=member) | Linked(member=member):
                assert before is not None
                assert before != member
        self.members[change.member.id] = change.member


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_stream_with_any_breaks_gives_the_filtered_fleet_at_every_moment(random: Random) -> None:
    story = Story(random, frozenset(random.sample(KINDS, random.randint(0, 2))))
    for _ in range(random.randint(1, 25)):
        story.go_on()
    state, mirror = FleetState(), Mirror()
    for attempt in range(12):
        if not state.token or random.random() < 0.3:
            state.restart()
            stream = story.initial(random.randint(state.revision, len(story.messages)))
        else:
            stream = story.after(state.token.decode())
        for update in stream:
            if attempt < 11 and random.random() < 0.1:
                break
            for change in state.apply(update):
                mirror.hear(change)
            assert state.members == (story.shown[state.revision] if state.synced else {})
            assert mirror.members == state.members
    assert state.members == story.shown[-1]
