"""The fleet as its stream tells it: a machine without clock or network, which takes messages and gives changes."""

from collections.abc import Iterator
from dataclasses import replace

from manager.client.change import Added, BecameStale, Change, Linked, Recovered, Removed, ServiceAdded, Updated
from manager.client.member import Member, endpoint_of, member_of
from manager.pb.instance_manager_pb2 import (
    ADDED,
    BOOKMARK,
    PARENT_ADDED,
    RECOVERED,
    REMOVED,
    SERVICE_ADDED,
    STALE,
    SYNCED,
    UPDATED,
    Cause,
    EventType,
    InstanceUpdate,
)

# CHILD_ADDED would only say once more what PARENT_ADDED says of the child.
EVENT_TYPES: tuple[EventType.ValueType, ...] = (
    ADDED,
    REMOVED,
    PARENT_ADDED,
    SERVICE_ADDED,
    STALE,
    RECOVERED,
    UPDATED,
)

Members = dict[str, Member]


class FleetState:
    """The members as of `revision`, always as of a whole one.

    `token` is where the stream goes on: after the last message taken, be it in the middle of a revision; the part of it
    that came is held back until the rest is here. Without a token the stream begins with `restart`.
    """

    def __init__(self) -> None:
        self.members: Members = {}
        self.revision = 0
        self.token = b""
        self.synced = False
        self._pending: list[InstanceUpdate] = []
        self._initial: Members | None = {}

    def restart(self) -> None:
        """The next message begins an initial state; what is held stays until that one is complete."""
        self.token = b""
        self._pending.clear()
        self._initial = {}

    def apply(self, update: InstanceUpdate) -> list[Change]:
        """Takes the next message; the changes that it completes, of members that differ from before."""
        if update.event_type == SYNCED:
            return self._sync(update)
        if self._initial is not None:
            list(changes_of(self._initial, update))
            return []
        self.token = update.resume_token
        if update.event_type == BOOKMARK:
            self.revision = max(self.revision, update.revision)
            return []
        self._pending.append(update)
        return self._complete(update.revision) if update.end_of_revision else []

    def _complete(self, revision: int) -> list[Change]:
        whole, self._pending = self._pending, []
        self.revision = revision
        return [change for each in whole for change in changes_of(self.members, each)]

    def _sync(self, update: InstanceUpdate) -> list[Change]:
        """The initial state is complete: told is what differs from what was held."""
        initial, self._initial = self._initial or {}, None
        self.token, self.revision, self.synced = update.resume_token, update.revision, True
        gone = [each for each in self.members if each not in initial]
        changes: list[Change] = [
            Removed(self.members.pop(each), update.revision, Cause.CAUSE_UNSPECIFIED, "") for each in gone
        ]
        for member in initial.values():
            changes += put(self.members, member, update.revision)
        return changes


def changes_of(members: Members, update: InstanceUpdate) -> Iterator[Change]:
    """Carries one event out on `members`; it may say what they show already, and then nothing changes."""
    present = members.get(update.instance_id)
    if update.event_type in (ADDED, RECOVERED):
        yield from put(members, member_of(update.instance), update.revision, update.timestamp_ms)
    elif update.event_type == UPDATED:  # which says nothing of its health
        stale = present is not None and present.stale
        yield from put(members, replace(member_of(update.instance), stale=stale), update.revision, update.timestamp_ms)
    elif present is None:
        return
    elif update.event_type == REMOVED:
        gone = members.pop(present.id)
        yield Removed(gone, update.revision, update.cause, update.root_cause_id, update.timestamp_ms)
    elif update.event_type == STALE:
        yield from put(members, replace(present, stale=True), update.revision, update.timestamp_ms)
    elif update.event_type == SERVICE_ADDED:
        yield from offer(members, present, update)
    elif update.event_type == PARENT_ADDED:
        yield from link(members, present, update)


def put(members: Members, member: Member, revision: int, at_ms: int = 0) -> Iterator[Change]:
    """The member is as given from now on: new, with other content, other health, both, or nothing of it."""
    present = members.get(member.id)
    members[member.id] = member
    if present is None:
        yield Added(member, revision, at_ms)
        return
    known = replace(member, stale=present.stale)
    if known != present:
        yield Updated(known, revision, present, at_ms)
    if member.stale != present.stale:
        yield BecameStale(member, revision, at_ms) if member.stale else Recovered(member, revision, at_ms)


def offer(members: Members, present: Member, update: InstanceUpdate) -> Iterator[Change]:
    """One service more, unless it came with the registration."""
    endpoint = endpoint_of(present.id, update.service)
    if endpoint not in present.services:
        members[present.id] = after = replace(present, services=(*present.services, endpoint))
        yield ServiceAdded(after, update.revision, endpoint, update.timestamp_ms)


def link(members: Members, present: Member, update: InstanceUpdate) -> Iterator[Change]:
    """The parent, unless it came with the registration."""
    if present.parent_id != update.related_id:
        members[present.id] = after = replace(present, parent_id=update.related_id)
        yield Linked(after, update.revision, update.related_id, update.timestamp_ms)
