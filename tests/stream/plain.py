"""The stream said once more, plainly: which messages the event table owes to a subscriber.

Shares nothing with the server: it knows the fleet by what the events did to it, never by the states they carry with
them, and asks of each instance whether it is to be seen just before and just after.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manager.pb import instance_manager_pb2 as pb
from tests.conftest import Database
from tests.stream.reader import WHOLE, Place

ServiceKey = tuple[int, str, int, str]
SEED = (pb.ADDED, pb.REMOVED, pb.CHILD_ADDED, pb.PARENT_ADDED, pb.SERVICE_ADDED)
CAUSE = {1: pb.CAUSE_KILLED, 2: pb.CAUSE_EXPIRED, 3: pb.CAUSE_PARENT_DIED}


@dataclass(frozen=True, slots=True)
class Fact:
    """A row of the event table, ids as text."""

    revision: int
    ordinal: int
    type: int
    instance: str
    related: str = ""
    service: ServiceKey | None = None
    after: Mapping[str, Any] | None = None
    cause: int = 0
    root: str = ""


async def facts(database: Database, table: str = "event") -> list[Fact]:
    """The whole history."""
    rows = await database.run(
        "select revision, ordinal, type, instance_id::text, coalesce(related_id::text, '') as related,"
        " service::text, after::text, coalesce(cause, 0) as cause, coalesce(root_cause::text, '') as root"
        f" from {table} order by revision, ordinal"
    )
    return [
        Fact(
            row["revision"],
            row["ordinal"],
            row["type"],
            row["instance_id"],
            row["related"],
            _service(json.loads(row["service"])) if row["service"] else None,
            json.loads(row["after"]) if row["after"] else None,
            row["cause"],
            row["root"],
        )
        for row in rows
    ]


def _service(given: Mapping[str, Any]) -> ServiceKey:
    return (given["type"], given["host"], given["port"], given["path"])


@dataclass(frozen=True)
class One:
    """An instance, as far as filters and readers care."""

    type: int
    hostname: str
    labels: Mapping[str, str]
    parent: str
    services: tuple[ServiceKey, ...]


@dataclass
class World:
    """Who lives, and who was linked under whom: a link outlasts those whom it joins, as a tree dies root first."""

    fleet: dict[str, One] = field(default_factory=dict)
    above: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, one: One) -> None:
        """An instance as it is now."""
        self.fleet[name] = one
        if one.parent:
            self.above[name] = one.parent


def happen(world: World, fact: Fact) -> None:
    """What the fact did."""
    one = world.fleet.get(fact.instance)
    match fact.type:
        case pb.ADDED:
            given = fact.after or {}
            services = tuple(map(_service, given["services"]))
            world.put(
                fact.instance, One(given["type"], given["hostname"], given["labels"], given["parent"] or "", services)
            )
        case pb.REMOVED:
            del world.fleet[fact.instance]
        case pb.PARENT_ADDED if one:
            world.put(fact.instance, One(one.type, one.hostname, one.labels, fact.related, one.services))
        case pb.SERVICE_ADDED if one and fact.service and fact.service not in one.services:
            world.put(fact.instance, One(one.type, one.hostname, one.labels, one.parent, (*one.services, fact.service)))
        case pb.UPDATED if one:
            given = fact.after or {}
            world.put(fact.instance, One(given["type"], given["hostname"], given["labels"], one.parent, one.services))


def seen(world: World, request: pb.SubscribeRequest, name: str) -> bool:
    """Whether the request's filter lets the instance through."""
    one = world.fleet.get(name)
    if one is None:
        return False
    if request.ids and name not in request.ids:
        return False
    if not name.startswith(request.id_prefix):
        return False
    if request.types and one.type not in request.types:
        return False
    if request.service_types and not {each[0] for each in one.services} & set(request.service_types):
        return False
    if request.hostnames and one.hostname not in request.hostnames:
        return False
    if any(one.labels.get(key) != value for key, value in request.labels.items()):
        return False
    if request.parent_id and one.parent != request.parent_id:
        return False
    return not request.subtree_of or request.subtree_of in upwards(world, name)


def upwards(world: World, name: str) -> Iterator[str]:
    """An instance and all above it."""
    while name:
        yield name
        name = world.above.get(name, "")


def downwards(world: World, root: str) -> list[str]:
    """An instance and all below it, level by level, each level by id."""
    children: dict[str, list[str]] = {}
    for name, one in world.fleet.items():
        children.setdefault(one.parent, []).append(name)
    found, level = [], [root]
    while level:
        found.extend(level)
        level = sorted(child for name in level for child in children.get(name, ()))
    return found


def matching(world: World, request: pb.SubscribeRequest) -> dict[str, One]:
    """Everybody whom the filter lets through."""
    return {name: one for name, one in world.fleet.items() if seen(world, request, name)}


@dataclass(slots=True)
class Owed:
    """A message that the subscriber must get."""

    place: Place
    type: int
    instance: str
    related: str = ""
    service: ServiceKey | None = None
    cause: int = 0
    root: str = ""
    full: One | None = None
    last: bool = False

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes it this message and no other."""
        return (self.place[0], self.type, self.instance, self.related, self.service)


@dataclass
class Debt:
    """All that is owed over a history, and the fleet as the subscriber should see it at chosen revisions."""

    messages: list[Owed] = field(default_factory=list)
    views: dict[int, dict[str, One]] = field(default_factory=dict)


def owed(
    history: Sequence[Fact],
    request: pb.SubscribeRequest,
    views: frozenset[int] = frozenset(),
    since: int = 0,
    upto: int = 2**62,
) -> Debt:
    """What the history owes to a subscriber in revisions `since` to `upto`; and the view after each of `views`."""
    world = World()
    debt = Debt(views={revision: {} for revision in views})
    kinds = frozenset(request.event_types or SEED)
    for number, fact in enumerate(history):
        if fact.revision > upto:
            break
        if fact.revision < since:
            happen(world, fact)
        else:
            debt.messages.extend(each for each in _told(world, fact, request) if each.type in kinds)
        following = history[number + 1].revision if number + 1 < len(history) else None
        if following != fact.revision:
            if debt.messages and debt.messages[-1].place[0] == fact.revision:
                debt.messages[-1].last = True
            if fact.revision in views:
                debt.views[fact.revision] = matching(world, request)
    return debt


def _told(world: World, fact: Fact, request: pb.SubscribeRequest) -> list[Owed]:
    """Carries the fact out, and says what is told of it."""
    place = (fact.revision, fact.ordinal, WHOLE)
    linked = bool(request.subtree_of) and fact.type == pb.PARENT_ADDED
    concerned = downwards(world, fact.instance) if linked else [fact.instance]
    before = {name for name in concerned if seen(world, request, name)}
    happen(world, fact)
    after = [name for name in concerned if seen(world, request, name)]
    if fact.instance in before and fact.instance in after:
        return [_plainly(world, fact, place)]
    came = [name for name in after if name not in before]
    if came:
        parts = [*range(1, len(came)), WHOLE]
        return [
            Owed((fact.revision, fact.ordinal, part), pb.ADDED, name, full=world.fleet[name])
            for part, name in zip(parts, came, strict=True)
        ]
    if fact.instance not in before:
        return []
    if fact.type == pb.REMOVED:
        return [Owed(place, pb.REMOVED, fact.instance, cause=CAUSE[fact.cause], root=fact.root)]
    return [Owed(place, pb.REMOVED, fact.instance, cause=pb.CAUSE_LEFT_FILTER)]


def _plainly(world: World, fact: Fact, place: Place) -> Owed:
    full = world.fleet[fact.instance] if fact.type in (pb.UPDATED, pb.RECOVERED) else None
    return Owed(place, fact.type, fact.instance, fact.related, fact.service, full=full)
