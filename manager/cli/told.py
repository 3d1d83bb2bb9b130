"""A `Fleet`'s members and changes, as the contract's messages: what one verb says of them, every verb says."""

from collections.abc import Callable, Iterator
from typing import Any

from manager.client import (
    Added,
    BecameStale,
    Change,
    Endpoint,
    Linked,
    Member,
    Recovered,
    Removed,
    Resynced,
    ServiceAdded,
    Updated,
)
from manager.pb.instance_manager_pb2 import (
    ADDED,
    PARENT_ADDED,
    RECOVERED,
    REMOVED,
    SERVICE_ADDED,
    STALE,
    STATUS_HEALTHY,
    STATUS_STALE,
    SYNCED,
    UPDATED,
    EventType,
    InstanceDescription,
    InstanceUpdate,
    Service,
)

KIND_OF: dict[type[Any], EventType.ValueType] = {
    Added: ADDED,
    Removed: REMOVED,
    Updated: UPDATED,
    BecameStale: STALE,
    Recovered: RECOVERED,
    ServiceAdded: SERVICE_ADDED,
    Linked: PARENT_ADDED,
    Resynced: SYNCED,
}
MORE_OF: dict[type[Any], Callable[[Any], dict[str, Any]]] = {
    Removed: lambda change: {"cause": change.cause, "root_cause_id": change.root_cause_id},
    ServiceAdded: lambda change: {"service": offered(change.endpoint)},
    Linked: lambda change: {"related_id": change.parent_id},
}


def told(change: Change) -> Iterator[InstanceUpdate]:
    """The events that say the same, each with its instance; after a gap everybody as ADDED, and then SYNCED."""
    if isinstance(change, Resynced):
        for member in change.members:
            yield from told(Added(member, change.revision))
        yield InstanceUpdate(event_type=SYNCED, revision=change.revision)
        return
    kind = type(change)
    yield InstanceUpdate(
        event_type=KIND_OF[kind],
        instance_id=change.member.id,
        instance=described(change.member),
        revision=change.revision,
        timestamp_ms=change.at_ms,
        **MORE_OF.get(kind, lambda _: {})(change),
    )


def described(member: Member) -> InstanceDescription:
    """What is known of a member; when it was last heard of is not."""
    return InstanceDescription(
        instance_id=member.id,
        instance_type=member.instance_type,
        hostname=member.hostname,
        labels=member.labels,
        parent_id=member.parent_id or "",
        services=map(offered, member.services),
        timeout_ms=round(member.timeout * 1000),
        status=STATUS_STALE if member.stale else STATUS_HEALTHY,
        created_at_ms=member.created_at_ms,
        created_revision=member.created_revision,
        updated_revision=member.updated_revision,
    )


def offered(endpoint: Endpoint) -> Service:
    """A service, without whose it is."""
    return Service(service_type=endpoint.service_type, host=endpoint.host, port=endpoint.port, path=endpoint.path)
