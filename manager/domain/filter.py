"""Which instances a reader asks for, and where a page goes on."""

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from uuid import UUID

from manager.domain.instance import Instance, InstanceId, InstanceType, ServiceType

PAGE_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Every criterion is optional, and all that are given must hold; within one, any value does (labels: all)."""

    ids: tuple[InstanceId, ...] = ()
    id_range: tuple[UUID, UUID] | None = None
    types: tuple[InstanceType, ...] = ()
    service_types: tuple[ServiceType, ...] = ()
    hostnames: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    parent: InstanceId | None = None
    subtree_of: InstanceId | None = None

    def admits(self, instance: Instance) -> bool:
        """Whether all criteria hold, but for `subtree_of`, which is no property of the instance alone."""
        return (
            (not self.ids or instance.id in self.ids)
            and (self.id_range is None or self.id_range[0] <= instance.id <= self.id_range[1])
            and (not self.types or instance.type in self.types)
            and (not self.service_types or any(each.type in self.service_types for each in instance.services))
            and (not self.hostnames or instance.hostname in self.hostnames)
            and all(instance.labels.get(key) == value for key, value in self.labels.items())
            and (self.parent is None or instance.parent == self.parent)
        )

    @property
    def values(self) -> Hashable:
        """All that it asks for; equal filters have equal ones."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return tuple({**own, "labels": frozenset(self.labels.items())}.values())

    @property
    def digest(self) -> bytes:
        """What a page token remembers of its filter, so that it is not used with another."""
        content = replace(self, labels=dict(sorted(self.labels.items())))
        return hashlib.sha256(repr(content).encode()).digest()[:8]


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """A place in one history of the database: after event `ordinal` of `revision`, whose nonce it remembers.

    `part` counts what one subscription was sent for that event: a link can bring a whole subtree into a filter.
    """

    epoch: UUID
    revision: int
    ordinal: int
    nonce: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing goes on: after this id, as part of the list that was begun at `begun`."""

    after: InstanceId
    begun: ResumeToken
