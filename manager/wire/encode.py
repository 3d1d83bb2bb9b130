"""Values to messages."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import random

from manager.domain.calls import Outcome
from manager.domain.event import Entry, EventType
from manager.domain.excerpt import Bookmark, Excerpt
from manager.domain.filter import Cursor, Filter, ResumeToken
from manager.domain.instance import Check, Instance, Service
from manager.domain.lens import Sight
from manager.domain.metrics import GpuSample, HostStats, LlmSample, ProxySample, SystemSample
from manager.domain.past import Difference, Step
from manager.pages import Update
from manager.pb import fleet_pb2 as fleet_pb
from manager.pb import instance_manager_pb2 as pb
from manager.pb import stats_service_pb2 as stats_pb
from manager.wire.decode import PAGE_TOKEN, RESUME_TOKEN
from manager.wire.moments import DIFF_TOKEN, EXCERPT_TOKEN

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since the epoch, UTC."""
    return (moment - EPOCH) // MILLISECOND


def outcome(value: Outcome) -> pb.Bool:
    """What a `Try*` call answers."""
    if value.reason is None:
        return pb.Bool(value=True, revision=value.revision)
    return pb.Bool(value=False, reason=pb.Reason.ValueType(value.reason))


def pause(value: timedelta) -> int:
    """When to check health again, in milliseconds; scattered, so that those who began together do not stay together."""
    return round(value.total_seconds() * 1000 * (0.8 + 0.4 * random()))  # noqa: S311 - no secret


def service(value: Service) -> pb.Service:
    """A service as a client gave it."""
    return pb.Service(
        service_type=pb.ServiceType.ValueType(value.type), host=value.host, port=value.port, path=value.path
    )


def instance(value: Instance) -> pb.InstanceDescription:
    """An instance, with all that the server fills."""
    message = pb.InstanceDescription()
    describe(value, message)
    return message


def describe(value: Instance, message: pb.InstanceDescription) -> None:
    """The same, into an empty message, where it is one of many: a message that is put into another is copied.

    Field by field, and label by label: it takes half the time that a constructor of all does.
    """
    message.instance_id = str(value.id)
    message.instance_type = pb.InstanceType.ValueType(value.type)
    message.hostname = value.hostname
    if value.labels:
        labels = message.labels
        for key, content in value.labels.items():
            labels[key] = content
    if value.parent is not None:
        message.parent_id = str(value.parent)
    if value.services:
        message.services.extend(map(service, value.services))
    message.timeout_ms = value.timeout // MILLISECOND
    message.status = pb.Status.ValueType(value.status)
    message.created_at_ms = milliseconds(value.created_at)
    if value.last_seen is not None:
        message.last_health_check_ms = milliseconds(value.last_seen)
    message.created_revision = value.created_revision
    message.updated_revision = value.updated_revision
    if value.death is not None:
        message.died_at_ms = milliseconds(value.death.at)
        message.death_cause = pb.Cause.ValueType(value.death.cause)
        message.root_cause_id = str(value.death.root)


def check(value: Check) -> pb.HealthCheck:
    """The last health check of a living instance."""
    return pb.HealthCheck(
        last_health_check_ms=milliseconds(value.last_seen),
        deadline_ms=milliseconds(value.deadline),
        healthy=value.healthy,
    )


def page_token(value: Cursor, wanted: Filter) -> bytes:
    """Where the next page begins."""
    return PAGE_TOKEN.pack(1, value.after.bytes, wanted.digest, resume_token(value.begun))


def diff_token(value: Step) -> bytes:
    """Where the next page of a difference begins."""
    return DIFF_TOKEN.pack(1, value.epoch.bytes, value.after.bytes, value.first, value.last)


def difference(value: Difference, message: fleet_pb.Difference) -> None:
    """One instance at two moments, into an empty message."""
    message.instance_id = str(value.id)
    if value.before is not None:
        describe(value.before, message.before)
    if value.after is not None:
        describe(value.after, message.after)


def resume_token(value: ResumeToken) -> bytes:
    """Where a subscription goes on."""
    return RESUME_TOKEN.pack(1, value.epoch.bytes, value.revision, value.ordinal, value.nonce, value.part)


# field 11, a varint, 1: appended to the bytes of an event that ends its revision for a subscription
END_OF_REVISION = b"\x58\x01"
FULL = (EventType.ADDED, EventType.UPDATED, EventType.RECOVERED)


def update(value: Update) -> bytes:
    """An InstanceUpdate, serialized. What all subscribers are sent alike is made once."""
    if value.sight is None:
        return bookmark(value.place, value.place.revision if value.last else value.place.revision - 1)
    content = _sight(value.sight, value.place)
    return content + END_OF_REVISION if value.last else content


def _sight(sight: Sight, place: ResumeToken) -> bytes:
    told = sight.told
    if place.part or sight.instance is not told.after:
        return _message(sight, place).SerializeToString()
    key = (sight.type, sight.left)
    if key not in told.encoded:
        told.encoded[key] = _message(sight, place).SerializeToString()
    return told.encoded[key]


def _message(sight: Sight, place: ResumeToken) -> pb.InstanceUpdate:
    told = sight.told
    one = told.instance if sight.instance is None else sight.instance.id
    message = pb.InstanceUpdate(
        event_type=pb.EventType.ValueType(sight.type),
        instance_id=str(one),
        revision=told.revision,
        timestamp_ms=milliseconds(told.at),
        resume_token=resume_token(place),
    )
    if sight.type in FULL and sight.instance is not None:
        message.instance.CopyFrom(instance(replace(sight.instance, last_seen=told.at)))
    elif sight.type is EventType.REMOVED:
        _why(sight, message)
    elif told.service is not None:
        message.service.CopyFrom(service(told.service))
    elif told.related is not None:
        message.related_id = str(told.related)
    return message


def _why(sight: Sight, message: pb.InstanceUpdate) -> None:
    if sight.left:
        message.cause = pb.CAUSE_LEFT_FILTER
    elif sight.told.cause is not None:
        message.cause = pb.Cause.ValueType(sight.told.cause)
        message.root_cause_id = str(sight.told.root)


def event(value: Entry) -> fleet_pb.Event:
    """An event of the past, with its instance whatever its kind."""
    told = value.told
    message = fleet_pb.Event(
        update=_message(Sight(told.type, told, told.after), told.place()), actor=value.actor, note=value.note
    )
    known = told.after or told.before
    if not message.update.HasField("instance") and known is not None:
        message.update.instance.CopyFrom(instance(known))
    return message


def excerpt_token(value: Bookmark, wanted: Excerpt) -> bytes:
    """Where the next page of ListEvents begins."""
    return EXCERPT_TOKEN.pack(1, value.epoch.bytes, value.revision, value.ordinal, wanted.digest)


def bookmark(place: ResumeToken, revision: int) -> bytes:
    """Everything up to this revision was sent."""
    message = pb.InstanceUpdate(event_type=pb.BOOKMARK, revision=revision, resume_token=resume_token(place))
    return message.SerializeToString()


def synced(place: ResumeToken) -> bytes:
    """The initial state ends here, and the changes after this revision follow."""
    message = pb.InstanceUpdate(
        event_type=pb.SYNCED, revision=place.revision, resume_token=resume_token(place), end_of_revision=True
    )
    return message.SerializeToString()


def initial(value: Instance, place: ResumeToken) -> bytes:
    """One instance of the initial state. It carries no token: there is no going on from the middle of it."""
    message = pb.InstanceUpdate(
        event_type=pb.ADDED, instance_id=str(value.id), instance=instance(value), revision=place.revision
    )
    return message.SerializeToString()


def proxy_metrics(value: ProxySample) -> pb.ProxyMetrics:
    """The latest of a proxy."""
    return pb.ProxyMetrics(
        instance_id=str(value.instance_id),
        timestamp_ms=milliseconds(value.measured_at),
        active_connections=value.active_connections,
        total_connections=value.total_connections,
        bytes_sent=value.bytes_sent,
        bytes_received=value.bytes_received,
    )


def system_metrics(value: SystemSample) -> pb.SystemMetrics:
    """The latest of any instance."""
    return pb.SystemMetrics(
        instance_id=str(value.instance_id),
        timestamp_ms=milliseconds(value.measured_at),
        used_memory_bytes=value.used_memory_bytes,
        total_memory_bytes=value.total_memory_bytes,
    )


def gpu_metrics(value: GpuSample) -> pb.GpuMetrics:
    """The latest of one GPU."""
    return pb.GpuMetrics(
        instance_id=str(value.instance_id),
        timestamp_ms=milliseconds(value.measured_at),
        gpu_index=value.gpu_index,
        used_memory_bytes=value.used_memory_bytes,
        total_memory_bytes=value.total_memory_bytes,
        utilization_percent=value.utilization_percent,
    )


def llm_metrics(value: LlmSample) -> pb.LlmMetrics:
    """The latest of a model server."""
    return pb.LlmMetrics(
        instance_id=str(value.instance_id),
        timestamp_ms=milliseconds(value.measured_at),
        request_count=value.request_count,
        tokens_received=value.tokens_received,
        tokens_sent=value.tokens_sent,
    )


def stats(value: HostStats) -> stats_pb.Stats:
    """The latest of a host."""
    return stats_pb.Stats(
        used_memory_bytes=value.used_memory_bytes,
        total_memory_bytes=value.total_memory_bytes,
        timestamp_ms=milliseconds(value.measured_at),
    )
