"""What an instance tells its owner, and how it ends."""

from dataclasses import dataclass
from enum import StrEnum

from manager.client.errors import ManagerError
from manager.pb.instance_manager_pb2 import Reason


class Ending(StrEnum):
    """Why an instance must terminate."""

    DEAD = "dead"  # the manager says so: killed, expired, or its parent died
    UNKNOWN = "unknown"  # the manager does not know it
    LOST = "lost"  # no manager answered for longer than its patience
    ORPHANED = "orphaned"  # after a loss of data its parent did not come back


@dataclass(frozen=True, slots=True)
class End:
    """The end of an instance, and a line that says more."""

    ending: Ending
    detail: str


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """A check failed, and the instance goes on without the manager for `seconds_left`. Told once an outage."""

    error: ManagerError
    seconds_left: float


@dataclass(frozen=True, slots=True)
class BackInReach:
    """A check was answered again, `seconds` after the last good one."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RegisteredAgain:
    """The manager had lost its data, and has the instance again; its link to a parent may follow."""


@dataclass(frozen=True, slots=True)
class NotLinked:
    """After a loss of data the link to the parent was refused for good."""

    reason: Reason.ValueType


@dataclass(frozen=True, slots=True)
class MetricsFailed:
    """The owner's measurement raised this; it will be asked again."""

    error: Exception


Notice = OutOfReach | BackInReach | RegisteredAgain | NotLinked | MetricsFailed
