"""The fleet as it was: which moment is meant, and what is different between two of them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from manager.domain.instance import Instance, InstanceId


@dataclass(frozen=True, slots=True)
class Moment:
    """After a revision, or at a time; now where neither is given. `field` is where the request has it."""

    revision: int | None
    at: datetime | None
    field: str = "revision"


@dataclass(frozen=True, slots=True)
class Point:
    """A moment as it was understood: a revision of the history that is called so."""

    epoch: UUID
    revision: int


@dataclass(frozen=True, slots=True)
class Difference:
    """An instance at two moments; `before` None where it was not there yet, `after` its death where it is no more."""

    id: InstanceId
    before: Instance | None
    after: Instance | None


@dataclass(frozen=True, slots=True)
class Step:
    """Where a difference of many pages goes on: after this id, between two revisions."""

    epoch: UUID
    after: InstanceId
    first: int
    last: int
