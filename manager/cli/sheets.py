"""How the contract's own things are shown: instances, changes, services."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from manager.cli import words
from manager.cli.document import document, moment
from manager.cli.table import Column, Sheet
from manager.pb.fleet_pb2 import Event, InstanceReport
from manager.pb.instance_manager_pb2 import EventType, InstanceDescription, InstanceUpdate

S = TypeVar("S")
T = TypeVar("T")

INSTANCES: Sheet[InstanceDescription] = Sheet(
    columns=(
        Column("id", lambda one: one.instance_id),
        Column("status", lambda one: words.status_name(one.status), lambda one: words.status(one.status)),
        Column("type", lambda one: words.kind(one.instance_type)),
        Column("hostname", lambda one: one.hostname),
        Column("parent", lambda one: one.parent_id or None),
        Column("services", lambda one: " ".join(map(words.service, one.services)) or None),
        Column("created", lambda one: moment(one.created_at_ms), lambda one: words.ago(moment(one.created_at_ms))),
        Column(
            "last_health_check",
            lambda one: moment(one.last_health_check_ms),
            lambda one: words.ago(moment(one.last_health_check_ms)),
            wide=True,
        ),
        Column("timeout", lambda one: one.timeout_ms / 1000, lambda one: f"{one.timeout_ms / 1000:g}s", wide=True),
        Column(
            "labels", lambda one: " ".join(f"{key}={value}" for key, value in sorted(one.labels.items())), wide=True
        ),
        Column("revision", lambda one: max(one.created_revision, one.updated_revision), wide=True),
    ),
    name=lambda one: one.instance_id,
    document=document,
)


def part(column: Column[T], of: Callable[[S], T]) -> Column[S]:
    """The same column of things that have such a thing as a part."""
    return Column(column.name, lambda row: column.value(of(row)), _text(column, of), column.wide, column.width)


def _text(column: Column[T], of: Callable[[S], T]) -> Callable[[S], str] | None:
    text = column.text
    return None if text is None else lambda row: text(of(row))


REPORTS: Sheet[InstanceReport] = Sheet(
    columns=(
        *(replace(part(each, lambda told: told.instance), wide=False) for each in INSTANCES.columns),
        Column(
            "died",
            lambda told: moment(told.instance.died_at_ms),
            lambda told: words.ago(moment(told.instance.died_at_ms)),
        ),
        Column("cause", lambda told: words.cause(told.instance.death_cause) or None),
        Column("root_cause", lambda told: told.instance.root_cause_id or None),
        Column("actor", lambda told: told.actor or None),
        Column("note", lambda told: told.note or None),
    ),
    name=lambda told: told.instance.instance_id,
    document=document,
)

# of the messages of a stream, which come here through a `Fleet`
UNTOLD = ("resume_token", "end_of_revision")
# the widths are those of the longest: an event may be the first of an endless list
UPDATES: Sheet[InstanceUpdate] = Sheet(
    columns=(
        Column("time", lambda told: moment(told.timestamp_ms), width=24),
        Column("revision", lambda told: told.revision, width=8),
        Column("event", lambda told: EventType.Name(told.event_type), width=13),
        Column("id", lambda told: told.instance_id, width=36),
        Column("type", lambda told: words.kind(told.instance.instance_type), width=23),
        Column("hostname", lambda told: told.instance.hostname, width=16),
        Column("detail", lambda told: words.detail(told)),
    ),
    name=lambda told: told.instance_id,
    document=lambda told: {name: value for name, value in document(told).items() if name not in UNTOLD},
)
EVENTS: Sheet[Event] = Sheet(
    columns=(
        *(part(each, lambda told: told.update) for each in UPDATES.columns),
        Column("note", lambda told: told.note or None),
        Column("actor", lambda told: told.actor, wide=True),
    ),
    name=lambda told: told.update.instance_id,
    document=document,
)
