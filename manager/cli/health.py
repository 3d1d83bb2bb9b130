"""`imctl health`: who is heard of, and until when that is good."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from manager.cli import identity, words
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.document import document, moment
from manager.cli.output import Printer, Shown
from manager.cli.sheets import INSTANCES, part
from manager.cli.table import Column, Document, Sheet
from manager.client import Client, NotFoundError
from manager.pb.instance_manager_pb2 import STATUS_HEALTHY, HealthCheck, InstanceDescription, InstanceRequest, Status


@dataclass(frozen=True, slots=True)
class _Health:
    """What GetHealthCheck answers; for the stale and dead, whom it is silent about, what is known of them."""

    instance: InstanceDescription
    check: HealthCheck

    def document(self) -> Document:
        told = {"instance_id": self.instance.instance_id, "status": Status.Name(self.instance.status)}
        return told | document(self.check)

    def deadline(self) -> str:
        """How long it may be silent yet."""
        until = moment(self.check.deadline_ms)
        return "" if until is None else f"in {words.span(until - datetime.now(UTC))}"


HEALTHS: Sheet[_Health] = Sheet(
    columns=(
        *(part(each, lambda told: told.instance) for each in INSTANCES.columns if each.name in ("id", "status")),
        Column(
            "last_health_check",
            lambda told: moment(told.check.last_health_check_ms),
            lambda told: words.ago(moment(told.check.last_health_check_ms)),
        ),
        Column("deadline", lambda told: moment(told.check.deadline_ms), _Health.deadline),
        Column(
            "timeout",
            lambda told: told.instance.timeout_ms / 1000,
            lambda told: f"{told.instance.timeout_ms / 1000:g}s",
        ),
        Column("type", lambda told: words.kind(told.instance.instance_type), wide=True),
        Column("hostname", lambda told: told.instance.hostname, wide=True),
    ),
    name=lambda told: told.instance.instance_id,
    document=_Health.document,
)


def health(
    at: Connection,
    shown: Shown,
    ids: Annotated[list[str], typer.Argument(help="Whose.", metavar="ID...", **ID)],
) -> None:
    """Tell when instances were last heard of, and until when that is good. It checks nobody's health itself.

    The exit code is 8 unless all are healthy.

    \b
    Examples:
      imctl health 7f3a
      imctl health 7f3a -o json
    """
    printer = shown.of(HEALTHS)
    ask(at, lambda client: _health(client, ids, printer))


async def _health(client: Client, written: Sequence[str], printer: Printer[_Health]) -> int:
    found = [await health_of(client, each) for each in await identity.whole(client, written, dead=True)]
    printer.many(found)
    return Exit.OK if all(each.instance.status == STATUS_HEALTHY for each in found) else Exit.CONDITION


async def health_of(client: Client, instance_id: str) -> _Health:
    """Of one instance, dead or alive. Raises NotFoundError for an id that never was."""
    request = InstanceRequest(instance_id=instance_id)
    one = (await client.fleet.DescribeInstance(request)).instance
    try:
        return _Health(one, await client.get.GetHealthCheck(request))
    except NotFoundError:
        return _Health(one, HealthCheck(last_health_check_ms=one.last_health_check_ms))
