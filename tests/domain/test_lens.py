"""What a lens shows, replayed, is the filtered fleet: for any history, any filter, after every revision."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.domain.event import SEED, EventType, Told
from manager.domain.filter import Filter
from manager.domain.instance import Cause, Instance, InstanceId, InstanceType, Service, ServiceType
from manager.domain.lens import Lens, Sight

EXAMPLES = int(os.environ.get("IM_TEST_EXAMPLES", "120"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = UUID(int=1)
IDS = [InstanceId(UUID(int=number << 120 | number)) for number in range(1, 13)]
HOSTS = ("", "a", "b")
LABELS: tuple[Mapping[str, str], ...] = ({}, {"k": "v"}, {"k": "w"}, {"k": "v", "l": "x"})
SERVICES = (Service(ServiceType.CHROME_DEBUG_PORT, "h", 1), Service(ServiceType.VLLM_OPENAI_COMPATIBLE, "h", 2))
TYPES = (InstanceType.CHROME_BROWSER, InstanceType.WARMPOOL_CHROME_BROWSER, InstanceType.VLLM)


# ── a fleet that tells its history as the database does ──────────────────────────────────────────────────────────────


@dataclass
class World:
    """Who lives; each change appends the events of one revision."""

    fleet: dict[InstanceId, Instance] = field(default_factory=dict)
    dead: set[InstanceId] = field(default_factory=set)
    revision: int = 0

    def tell(self, *events: tuple[EventType, InstanceId, Instance | None, Instance | None, object]) -> list[Told]:
        """The events of a new revision: type, instance, before, after, and what it is related to."""
        self.revision += 1
        for _, one, _, after, _ in events:
            if after is not None:
                self.fleet[one] = after
            else:
                self.fleet.pop(one)
                self.dead.add(one)
        return [
            Told(
                epoch=EPOCH,
                revision=self.revision,
                ordinal=ordinal,
                nonce=0,
                at=NOW,
                type=kind,
                instance=one,
                before=before,
                after=after,
                related=InstanceId(other) if isinstance(other, UUID) else None,
                service=other if isinstance(other, Service) else None,
                cause=Cause.KILLED if kind is EventType.REMOVED else None,
                root=events[0][1] if kind is EventType.REMOVED else None,
                size=0,
                last=ordinal == len(events) - 1,
            )
            for ordinal, (kind, one, before, after, other) in enumerate(events)
        ]

    def add(self, one: Instance) -> list[Told]:
        if one.id in self.fleet or one.id in self.dead or (one.parent and one.parent not in self.fleet):
            return []
        links = []
        if one.parent is not None:
            parent = self.fleet[one.parent]
            links = [
                (EventType.CHILD_ADDED, parent.id, parent, parent, one.id),
                (EventType.PARENT_ADDED, one.id, one, one, parent.id),
            ]
        offers = [(EventType.SERVICE_ADDED, one.id, one, one, each) for each in one.services]
        return self.tell((EventType.ADDED, one.id, None, one, None), *links, *offers)

    def update(self, of: InstanceId, kind: InstanceType, host: str, labels: Mapping[str, str]) -> list[Told]:
        before = self.fleet.get(of)
        if before is None or (before.type, before.hostname, before.labels) == (kind, host, labels):
            return []
        after = replace(before, type=kind, hostname=host, labels=labels)
        return self.tell((EventType.UPDATED, of, before, after, None))

    def offer(self, of: InstanceId, service: Service) -> list[Told]:
        before = self.fleet.get(of)
        if before is None or service in before.services:
            return []
        after = replace(before, services=(*before.services, service))
        return self.tell((EventType.SERVICE_ADDED, of, before, after, service))

    def link(self, parent: InstanceId, child: InstanceId) -> list[Told]:
        above, before = self.fleet.get(parent), self.fleet.get(child)
        if above is None or before is None or before.parent is not None or child in ancestry(self.fleet, parent):
            return []
        return self.tell(
            (EventType.CHILD_ADDED, parent, above, above, child),
            (EventType.PARENT_ADDED, child, before, replace(before, parent=parent), parent),
        )

    def kill(self, aim: InstanceId) -> list[Told]:
        if aim not in self.fleet:
            return []
        victims = [each.id for each in descent(self.fleet, aim)]
        return self.tell(*((EventType.REMOVED, each, self.fleet[each], None, None) for each in victims))

    def stale(self, of: InstanceId, kind: EventType) -> list[Told]:
        one = self.fleet.get(of)
        return [] if one is None else self.tell((kind, of, one, one, None))


def ancestry(fleet: Mapping[InstanceId, Instance], of: InstanceId) -> Iterator[InstanceId]:
    """An instance, and all that are above it."""
    at: InstanceId | None = of
    while at is not None and at in fleet:
        yield at
        at = fleet[at].parent


def descent(fleet: Mapping[InstanceId, Instance], root: InstanceId) -> list[Instance]:
    """An instance and all below it, level by level."""
    level, found = [fleet[root]] if root in fleet else [], []
    while level:
        found.extend(level)
        level = sorted((one for one in fleet.values() if one.parent in {each.id for each in level}), key=lambda o: o.id)
    return found


def matching(fleet: Mapping[InstanceId, Instance], wanted: Filter) -> dict[InstanceId, Instance]:
    """The fleet as a list with that filter gives it; said in other words than the filter's own."""
    found = dict(fleet)
    for one in fleet.values():
        offered = {each.type for each in one.services}
        misses = [
            wanted.ids and one.id not in set(wanted.ids),
            wanted.id_range and not str(wanted.id_range[0]) <= str(one.id) <= str(wanted.id_range[1]),
            wanted.types and one.type not in set(wanted.types),
            wanted.service_types and offered.isdisjoint(wanted.service_types),
            wanted.hostnames and one.hostname not in set(wanted.hostnames),
            not set(wanted.labels.items()) <= set(one.labels.items()),
            wanted.parent and one.parent != wanted.parent,
            wanted.subtree_of and wanted.subtree_of not in set(ancestry(fleet, one.id)),
        ]
        if any(misses):
            del found[one.id]
    return found


# ── a viewer that knows nothing but what it is shown ─────────────────────────────────────────────────────────────────


@dataclass
class Viewer:
    """Applies each message to what it has."""

    seen: dict[InstanceId, Instance] = field(default_factory=dict)

    def apply(self, sight: Sight) -> None:
        told = sight.told
        match sight.type:
            case EventType.ADDED:
                assert sight.instance is not None
                assert sight.instance.id not in self.seen, "was shown already"
                self.seen[sight.instance.id] = sight.instance
            case EventType.REMOVED:
                del self.seen[told.instance]
            case EventType.UPDATED:
                assert sight.instance is not None
                assert told.instance in self.seen
                self.seen[told.instance] = sight.instance
            case EventType.SERVICE_ADDED:
                assert told.service is not None
                one = self.seen[told.instance]
                if told.service not in one.services:
                    self.seen[one.id] = replace(one, services=(*one.services, told.service))
            case EventType.PARENT_ADDED:
                self.seen[told.instance] = replace(self.seen[told.instance], parent=told.related)
            case EventType.CHILD_ADDED | EventType.STALE | EventType.RECOVERED:
                assert told.instance in self.seen, "was never shown"


def look(lens: Lens, told: Told, fleet: Mapping[InstanceId, Instance]) -> list[Sight]:
    """What the lens shows of an event, given what the database would answer about the tree."""
    return lens.enter(told, descent(fleet, told.instance)) if lens.opens(told) else lens.see(told)


# ── any history, any filter ──────────────────────────────────────────────────────────────────────────────────────────

ids = st.sampled_from(IDS)
ADDS, CHANGES = 4, 16


@dataclass(frozen=True)
class Change:
    """One operation; its numbers choose among those who live, so that nearly every one changes something."""

    kind: int
    one: int
    other: int
    type: InstanceType
    host: str
    labels: Mapping[str, str]
    services: tuple[Service, ...]


changes = st.builds(
    Change,
    kind=st.integers(0, CHANGES - 1),
    one=st.integers(0, 30),
    other=st.integers(0, 30),
    type=st.sampled_from(TYPES),
    host=st.sampled_from(HOSTS),
    labels=st.sampled_from(LABELS),
    services=st.sampled_from(((), SERVICES[:1], SERVICES[1:], SERVICES)),
)
histories = st.lists(changes, min_size=15, max_size=40)
few = st.lists(ids, max_size=3).map(tuple)


def _range(bounds: tuple[InstanceId, InstanceId]) -> tuple[UUID, UUID]:
    return min(bounds), max(bounds)


filters = st.builds(
    Filter,
    ids=st.just(()) | few,
    id_range=st.none() | st.tuples(ids, ids).map(_range),
    types=st.just(()) | st.lists(st.sampled_from(TYPES), max_size=2).map(tuple),
    service_types=st.just(()) | st.lists(st.sampled_from(ServiceType), max_size=2).map(tuple),
    hostnames=st.just(()) | st.lists(st.sampled_from(HOSTS), max_size=2).map(tuple),
    labels=st.sampled_from(({}, {}, {"k": "v"}, {"k": "v", "l": "x"})),
    parent=st.none() | ids,
    subtree_of=st.none() | ids,
)
# filters of one criterion or none let more through, and so say more
simple = st.one_of(
    st.just(Filter()),
    st.builds(Filter, subtree_of=ids),
    st.builds(Filter, parent=ids),
    st.builds(Filter, types=st.sampled_from(TYPES).map(lambda each: (each,)), subtree_of=st.none() | ids),
    st.builds(Filter, service_types=st.sampled_from(ServiceType).map(lambda each: (each,))),
    st.builds(Filter, labels=st.sampled_from(LABELS), subtree_of=st.none() | ids),
    st.builds(Filter, hostnames=st.just(("a",))),
)
thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def carry_out(world: World, change: Change) -> list[Told]:
    living, unborn = list(world.fleet), [each for each in IDS if each not in world.fleet and each not in world.dead]
    if change.kind < ADDS or not living:
        parents = [None, *living]
        return world.add(_new(change, unborn[0], parents[change.one % len(parents)])) if unborn else []
    one, other = living[change.one % len(living)], living[change.other % len(living)]
    match change.kind:
        case 4 | 5 | 6 | 7:
            return world.link(one, other)
        case 8 | 9 | 10:
            return world.update(one, change.type, change.host, change.labels)
        case 11 | 12:
            return world.offer(one, SERVICES[change.other % 2])
        case 13:
            return world.stale(one, (EventType.STALE, EventType.RECOVERED)[change.other % 2])
        case _:
            return world.kill(one) if change.other % 2 else []


def _new(change: Change, born: InstanceId, parent: InstanceId | None) -> Instance:
    return Instance(
        id=born,
        type=change.type,
        hostname=change.host,
        timeout=timedelta(seconds=30),
        created_at=NOW,
        created_revision=1,
        updated_revision=1,
        labels=change.labels,
        parent=parent if change.other % 2 else None,
        services=change.services,
    )


@thorough
@given(histories, simple | filters, st.integers(0, 20))
def test_what_is_shown_replays_to_the_filtered_fleet_after_every_revision(
    history: Sequence[Change], wanted: Filter, begun: int
) -> None:
    world, lens = World(), Lens(wanted, frozenset(EventType))
    for change in history[:begun]:
        carry_out(world, change)
    if wanted.subtree_of is not None:
        lens.begin(descent(world.fleet, wanted.subtree_of))
    viewer = Viewer({each: one for each, one in world.fleet.items() if lens.shows(one)})
    assert viewer.seen == matching(world.fleet, wanted)
    for change in history[begun:]:
        for told in carry_out(world, change):
            for sight in look(lens, told, world.fleet):
                viewer.apply(sight)
        assert viewer.seen == matching(world.fleet, wanted)


@thorough
@given(histories, simple | filters, st.sets(st.sampled_from(EventType)))
def test_fewer_kinds_of_event_show_the_same_without_the_others(
    history: Sequence[Change], wanted: Filter, kinds: set[EventType]
) -> None:
    world, whole, part = World(), Lens(wanted, frozenset(EventType)), Lens(wanted, kinds)
    for change in history:
        for told in carry_out(world, change):
            everything, some = look(whole, told, world.fleet), look(part, told, world.fleet)
            assert some == [each for each in everything if each.type in kinds]


@thorough
@given(histories, simple | filters)
def test_what_leaves_the_filter_is_told_apart_from_what_dies(history: Sequence[Change], wanted: Filter) -> None:
    world, lens = World(), Lens(wanted, SEED)
    for change in history:
        for told in carry_out(world, change):
            for sight in look(lens, told, world.fleet):
                assert sight.left == (sight.type is EventType.REMOVED and told.instance in world.fleet)
