"""What a `Fleet` tells. `member` is the instance after the change, `revision` the number of that change.

`at_ms` is when it was made, by the database's clock; 0 where nobody told: of who was there at the beginning, and of
what was found out after a gap. Two changes that differ in nothing else are equal.
"""

from dataclasses import dataclass, field

from manager.client.member import Endpoint, Member
from manager.pb.instance_manager_pb2 import Cause


@dataclass(frozen=True, slots=True)
class Added:
    """It was registered, came to match what the fleet is about, or was there at the beginning (perhaps stale)."""

    member: Member
    revision: int
    at_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Removed:
    """It died, or no longer matches (CAUSE_LEFT_FILTER). `member` is how it was last known.

    CAUSE_UNSPECIFIED and no root cause: it vanished while the history was lost to this fleet.
    """

    member: Member
    revision: int
    cause: Cause.ValueType
    root_cause_id: str
    at_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Updated:
    """Its type, hostname, labels or timeout are others; after a loss of the history, anything."""

    member: Member
    revision: int
    before: Member
    at_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class BecameStale:
    """It is silent for longer than its timeout: alive, but not to be relied on."""

    member: Member
    revision: int
    at_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Recovered:
    """It was stale, and was heard of again."""

    member: Member
    revision: int
    at_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ServiceAdded:
    """It offers one service more."""

    member: Member
    revision: int
    endpoint: Endpoint
    at_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Linked:
    """It has a parent, for life."""

    member: Member
    revision: int
    parent_id: str
    at_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Resynced:
    """This iterator fell behind, and `missed` changes are not told one by one: `members` is the fleet after them."""

    members: tuple[Member, ...]
    revision: int
    missed: int


Change = Added | Removed | Updated | BecameStale | Recovered | ServiceAdded | Linked | Resynced
