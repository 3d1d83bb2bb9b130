"""What one subscriber sees of the history: a filter judged before and after each change."""

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

from manager.domain.event import EventType, Told
from manager.domain.filter import Filter
from manager.domain.instance import Instance, InstanceId


@dataclass(frozen=True, slots=True)
class Sight:
    """One message about an event: the event itself, an instance that came to match, or one that ceased to (`left`)."""

    type: EventType
    told: Told
    instance: Instance | None = None
    left: bool = False


class Lens:
    """Holds the filter, the wanted kinds of event, and for `subtree_of` who belongs to the subtree at this moment."""

    def __init__(self, wanted: Filter, kinds: Collection[EventType]) -> None:
        self._wanted = wanted
        self._kinds = frozenset(kinds)
        self._members: set[InstanceId] = set()
        # two for which it is equal see the same; None where that depends on what was seen before
        self.alike: Hashable = None if wanted.subtree_of else (wanted.values, self._kinds)

    def begin(self, members: Iterable[Instance]) -> None:
        """Who belongs to the subtree at the beginning."""
        self._members = {each.id for each in members}

    def shows(self, instance: Instance) -> bool:
        """Whether the instance, as it is now, is part of what the subscriber sees."""
        return self._belongs(instance.id) and self._wanted.admits(instance)

    def opens(self, told: Told) -> bool:
        """Whether the event links a tree into the subtree: all of it comes to match, so it has to be read."""
        return (
            self._wanted.subtree_of is not None
            and told.type is EventType.PARENT_ADDED
            and told.related in self._members
            and told.instance not in self._members
        )

    def enter(self, told: Told, tree: Iterable[Instance]) -> list[Sight]:
        """What is seen when `tree` is linked into the subtree."""
        came = list(tree)
        self._members.update(each.id for each in came)
        if EventType.ADDED not in self._kinds:
            return []
        return [Sight(EventType.ADDED, told, each) for each in came if self._wanted.admits(each)]

    def see(self, told: Told) -> list[Sight]:
        """What is seen of any other event: one message or none."""
        was = told.before is not None and self.shows(told.before)
        self._follow(told)
        present = told.after is not None and self.shows(told.after)
        if was and present:
            sight = Sight(told.type, told, told.after)
        elif present:
            sight = Sight(EventType.ADDED, told, told.after)
        elif was:
            sight = Sight(EventType.REMOVED, told, left=told.type is not EventType.REMOVED)
        else:
            return []
        return [sight] if sight.type in self._kinds else []

    def _belongs(self, instance: InstanceId) -> bool:
        return self._wanted.subtree_of is None or instance in self._members

    def _follow(self, told: Told) -> None:
        """Keeps the members of the subtree."""
        if self._wanted.subtree_of is None:
            return
        if told.type is EventType.REMOVED:
            self._members.discard(told.instance)
        elif told.type is EventType.ADDED and self._joins(told):
            self._members.add(told.instance)

    def _joins(self, told: Told) -> bool:
        parent = told.after.parent if told.after else None
        return told.instance == self._wanted.subtree_of or parent in self._members
