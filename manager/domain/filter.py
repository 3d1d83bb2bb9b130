"""Which instances a reader asks for, and where a page goes on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from manager.domain.instance import InstanceId, InstanceType, ServiceType

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

    @property
    def digest(self) -> bytes:
        """What a page token remembers of its filter, so that it is not used with another."""
        content = replace(self, labels=dict(sorted(self.labels.items())))
        return hashlib.sha256(repr(content).encode()).digest()[:8]


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """A place in one history of the database: after event `ordinal` of `revision`, whose nonce it remembers."""

    epoch: UUID
    revision: int
    ordinal: int
    nonce: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing goes on: after this id, as part of the list that was begun at `begun`."""

    after: InstanceId
    begun: ResumeToken
