"""An instance as a `Fleet` knows it: frozen values, which may be kept and handed on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from manager.client.address import Address
from manager.pb.instance_manager_pb2 import STATUS_STALE, InstanceDescription, InstanceType, Service, ServiceType


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service, where it is offered, and by whom."""

    instance_id: str
    service_type: ServiceType.ValueType
    host: str
    port: int
    path: str = ""

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return str(Address(self.host, self.port))


@dataclass(frozen=True, slots=True)
class Member:
    """An instance of the fleet; `stale` ones are alive, but silent for longer than their timeout (in seconds)."""

    id: str
    instance_type: InstanceType.ValueType
    hostname: str
    labels: Mapping[str, str] = field(hash=False)
    parent_id: str | None
    services: tuple[Endpoint, ...]
    timeout: float
    created_at_ms: int
    created_revision: int
    updated_revision: int
    stale: bool = False


def member_of(description: InstanceDescription) -> Member:
    """The instance that a manager describes."""
    return Member(
        id=description.instance_id,
        instance_type=description.instance_type,
        hostname=description.hostname,
        labels=MappingProxyType(dict(description.labels)),
        parent_id=description.parent_id or None,
        services=tuple(endpoint_of(description.instance_id, each) for each in description.services),
        timeout=description.timeout_ms / 1000,
        created_at_ms=description.created_at_ms,
        created_revision=description.created_revision,
        updated_revision=description.updated_revision,
        stale=description.status == STATUS_STALE,
    )


def endpoint_of(instance_id: str, service: Service) -> Endpoint:
    """What this instance offers."""
    return Endpoint(instance_id, service.service_type, service.host, service.port, service.path)
