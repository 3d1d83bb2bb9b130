"""Samples that instances post. `measured_at` is the client's clock; arrival is the database's."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, NamedTuple

from manager.domain.instance import InstanceId


class ProxySample(NamedTuple):
    """Connections and bytes of a proxy."""

    instance_id: InstanceId
    measured_at: datetime
    active_connections: int
    total_connections: int
    bytes_sent: int
    bytes_received: int


class SystemSample(NamedTuple):
    """Memory of an instance, in bytes."""

    instance_id: InstanceId
    measured_at: datetime
    used_memory_bytes: int
    total_memory_bytes: int


class GpuSample(NamedTuple):
    """Memory in bytes and use in percent (0 to 100) of one GPU."""

    instance_id: InstanceId
    measured_at: datetime
    gpu_index: int
    used_memory_bytes: int
    total_memory_bytes: int
    utilization_percent: float


class LlmSample(NamedTuple):
    """Requests and tokens of a model server, counted since it started."""

    instance_id: InstanceId
    measured_at: datetime
    request_count: int
    tokens_received: int
    tokens_sent: int


Sample = ProxySample | SystemSample | GpuSample | LlmSample

# A sample on its way in, the fields of its kind in their order: `instance_id` as 16 bytes, `measured_at` in
# milliseconds since 1970. A bare tuple of what is quickly made and compared, since they come in their hundreds of
# thousands a second.
Posted = tuple[bytes, int, *tuple[float, ...]]


class Post(NamedTuple):
    """Samples of one kind that came together, in their order."""

    kind: type[Any]
    samples: list[Posted]


@dataclass(frozen=True, slots=True)
class HostStats:
    """Memory of a host, in bytes."""

    hostname: str
    measured_at: datetime
    used_memory_bytes: int
    total_memory_bytes: int


class MetricsKind(IntEnum):
    """Which samples."""

    SYSTEM = 1
    PROXY = 2
    GPU = 3
    LLM = 4


@dataclass(frozen=True, slots=True)
class Window:
    """Which samples to look back at: those that arrived from `since` on and before `until`, in so many buckets.

    Without `until` it ends now, and without `since` it begins an hour before its end. `subtree`: those of all that were
    ever below the instance too, added up.
    """

    since: datetime | None
    until: datetime | None
    points: int
    subtree: bool = False
