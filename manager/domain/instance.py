"""Instances, and what is said of them. Numbers are those of the proto, in the database too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NewType
from uuid import UUID

InstanceId = NewType("InstanceId", UUID)

# Labels that begin with it are the managers' own; a client's registration may not carry one.
RESERVED_LABEL = "instance-manager/"
# Every manager's own registration carries it, with its release as the value.
MANAGER_LABEL = f"{RESERVED_LABEL}version"
# That of a worker carries its number beside it.
WORKER_LABEL = f"{RESERVED_LABEL}worker"


class InstanceType(IntEnum):
    """What kind of process an instance is."""

    CHROME_BROWSER = 1
    WARMPOOL_CHROME_BROWSER = 2
    WARMPOOL_PROXY = 3
    INSTANCE_MANAGER = 4
    VLLM = 5
    BROWSER_BACKEND = 6


class ServiceType(IntEnum):
    """What an instance offers to others."""

    CHROME_DEBUG_PORT = 1
    VLLM_OPENAI_COMPATIBLE = 2


class Status(IntEnum):
    """Healthy, silent for longer than its timeout, or dead for good."""

    HEALTHY = 1
    STALE = 2
    DEAD = 3


class Cause(IntEnum):
    """Why an instance died."""

    KILLED = 1
    EXPIRED = 2
    PARENT_DIED = 3


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """Where an instance offers what: `port` 1 to 65535, `path` may be empty."""

    type: ServiceType
    host: str
    port: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Death:
    """When, why, and by whose death; `root` is the instance itself where it died its own."""

    at: datetime
    revision: int
    cause: Cause
    root: InstanceId


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as the database holds it; `digest` is of its first registration, `status` by the database's clock."""

    id: InstanceId
    type: InstanceType
    hostname: str
    timeout: timedelta
    created_at: datetime
    created_revision: int
    updated_revision: int
    labels: Mapping[str, str] = field(default_factory=dict)
    parent: InstanceId | None = None
    services: tuple[Service, ...] = ()
    death: Death | None = None
    last_seen: datetime | None = None
    status: Status = Status.HEALTHY
    digest: bytes = b""

    @property
    def is_manager(self) -> bool:
        """A process of this service, not of the fleet."""
        return MANAGER_LABEL in self.labels


@dataclass(frozen=True, slots=True)
class Check:
    """An instance's last health check, and when it becomes stale without another."""

    last_seen: datetime
    deadline: datetime
    healthy: bool
