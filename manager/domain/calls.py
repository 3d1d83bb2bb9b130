"""The calls that change the fleet, one value each, and what is answered."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum

from manager.domain.actor import NOBODY, Actor
from manager.domain.grace import Why
from manager.domain.instance import MANAGER_LABEL, InstanceId, InstanceType, Service
from manager.domain.preservation import Group, Watch


class Reason(IntEnum):
    """Why a call answers false."""

    DEAD = 1
    ID_TAKEN = 2
    UNKNOWN_PARENT = 3
    PARENT_DEAD = 4
    UNKNOWN_INSTANCE = 5
    CONFLICT = 6
    HAS_PARENT = 7
    CYCLE = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """Refused with a reason, or done by the change of that revision (0: by no change of the topology)."""

    reason: Reason | None = None
    revision: int = 0

    @staticmethod
    def done(revision: int = 0) -> "Outcome":
        """It holds, since `revision`."""
        return Outcome(revision=revision)

    @staticmethod
    def refused(reason: Reason) -> "Outcome":
        """It does not, and nothing changed."""
        return Outcome(reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Outcome):
    """Keep running, and check again after about `pause`."""

    pause: timedelta


@dataclass(frozen=True, slots=True)
class Registration:
    """TryAddInstance. `timeout` None: the default of the type."""

    id: InstanceId
    type: InstanceType
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    parent: InstanceId | None = None
    services: tuple[Service, ...] = ()
    timeout: timedelta | None = None
    actor: Actor = NOBODY

    @property
    def about(self) -> tuple[InstanceId, ...]:
        """Of whom one has to know to decide it."""
        return (self.id,) if self.parent is None else (self.id, self.parent)

    @property
    def is_manager(self) -> bool:
        """A process of this service registers itself."""
        return MANAGER_LABEL in self.labels

    @property
    def digest(self) -> bytes:
        """SHA-256 of the content as it was sent: two registrations of one id are the same if this is."""
        # as `json.dumps` writes the list of them, which takes twice as long
        labels = json.dumps(sorted(self.labels.items())) if self.labels else "[]"
        services = [(each.type, each.host, each.port, each.path) for each in sorted(self.services)]
        timeout = "null" if self.timeout is None else self.timeout.total_seconds()
        content = (
            f'[{int(self.type)}, {json.dumps(self.hostname)}, {labels}, "{self.parent}",'
            f" {json.dumps(services) if services else '[]'}, {timeout}]"
        )
        return hashlib.sha256(content.encode()).digest()


@dataclass(frozen=True, slots=True)
class Update:
    """TryUpdateInstance. `expected` is the updated_revision that the caller knows; None: any."""

    id: InstanceId
    type: InstanceType
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    timeout: timedelta | None = None
    expected: int | None = None
    actor: Actor = NOBODY

    @property
    def about(self) -> tuple[InstanceId, ...]:
        """Of whom one has to know to decide it."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class Offer:
    """TryAddService."""

    id: InstanceId
    service: Service
    actor: Actor = NOBODY

    @property
    def about(self) -> tuple[InstanceId, ...]:
        """Of whom one has to know to decide it."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class Link:
    """TryAddChild."""

    parent: InstanceId
    child: InstanceId
    actor: Actor = NOBODY

    @property
    def about(self) -> tuple[InstanceId, ...]:
        """Of whom one has to know to decide it."""
        return (self.parent, self.child)


@dataclass(frozen=True, slots=True)
class Kill:
    """TryKillInstance."""

    id: InstanceId
    note: str = ""
    actor: Actor = NOBODY

    @property
    def about(self) -> tuple[InstanceId, ...]:
        """Of whom one has to know to decide it."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class Beat:
    """One moment by two clocks: the database's, and this process's monotonic one (seconds)."""

    at: datetime
    clock: float


@dataclass(frozen=True, slots=True)
class Tick:
    """The reaper's pass: stale to told, expired to dead. `starting`: the first of its process; else its last beat."""

    actor: Actor
    starting: bool = False
    last: Beat | None = None

    @property
    def about(self) -> tuple[InstanceId, ...]:
        """Of whom one has to know to decide it: it finds them by itself."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked(Outcome):
    """What a tick found and left: why it gave grace, how much of that is left, who is held back, and the stretch."""

    beat: Beat
    why: Why | None
    grace: timedelta
    watches: Mapping[Group, Watch]
    stretch: float


Call = Registration | Update | Offer | Link | Kill | Tick
