"""An instance as an event keeps it: the JSON object that the view `instance_state` builds too.

`stale` is there, and true, for those whom the history has told to be stale; the view, which is for the dead, leaves it
out.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from manager.domain.instance import Instance, InstanceId, InstanceType, Service, ServiceType, Status

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def services_of(items: Sequence[Any]) -> tuple[Service, ...]:
    """Services as the database's JSON holds them."""
    return tuple(Service(ServiceType(each["type"]), each["host"], each["port"], each["path"]) for each in items)


def encode_service(service: Service) -> dict[str, object]:
    """A service as the database's JSON holds it."""
    return {"type": int(service.type), "host": service.host, "port": service.port, "path": service.path}


def encode(instance: Instance) -> str:
    """The state of an instance as JSON."""
    # as `json.dumps` writes it, which takes twice as long
    labels = json.dumps(dict(instance.labels)) if instance.labels else "{}"
    parent = "null" if instance.parent is None else f'"{instance.parent}"'
    services = json.dumps([encode_service(each) for each in instance.services]) if instance.services else "[]"
    stale = ', "stale": true' if instance.status is Status.STALE else ""
    return (
        f'{{"type": {int(instance.type)}, "hostname": {json.dumps(instance.hostname)}, "labels": {labels},'
        f' "timeout_ms": {instance.timeout // MILLISECOND},'
        f' "created_at_ms": {(instance.created_at - EPOCH) // MILLISECOND},'
        f' "created_revision": {instance.created_revision}, "updated_revision": {instance.updated_revision},'
        f' "parent": {parent}, "services": {services}{stale}}}'
    )


def decode(instance_id: InstanceId, fields: Mapping[str, Any]) -> Instance:
    """The instance that `encode`, or the view, wrote."""
    return Instance(
        id=instance_id,
        type=InstanceType(fields["type"]),
        hostname=fields["hostname"],
        labels=fields["labels"],
        timeout=fields["timeout_ms"] * MILLISECOND,
        created_at=EPOCH + fields["created_at_ms"] * MILLISECOND,
        created_revision=fields["created_revision"],
        updated_revision=fields["updated_revision"],
        parent=None if fields["parent"] is None else InstanceId(UUID(fields["parent"])),
        services=services_of(fields["services"]),
        status=Status.STALE if fields.get("stale") else Status.HEALTHY,
    )
