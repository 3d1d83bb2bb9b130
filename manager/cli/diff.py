"""`imctl diff`: what is different between two moments."""

from typing import Annotated, Any

import typer

from manager.cli import parse, words
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection
from manager.cli.document import document
from manager.cli.output import Shown
from manager.cli.past import differences
from manager.cli.progress import spinning
from manager.cli.table import Column, Sheet
from manager.client import Client
from manager.pb.fleet_pb2 import Difference, DiffRequest
from manager.pb.instance_manager_pb2 import STATUS_DEAD, InstanceDescription


def change(told: Difference) -> str:
    """In a word: added, removed or changed."""
    if not told.HasField("before"):
        return "added"
    return "removed" if told.after.status == STATUS_DEAD else "changed"


def present(told: Difference) -> InstanceDescription:
    """The instance at the later moment; the gone as they died."""
    return told.after


def detail(told: Difference) -> str | None:
    """What is different of who was there before and after; of the gone, why they are."""
    before, after = told.before, told.after
    if change(told) == "removed":
        own = after.root_cause_id == after.instance_id
        return words.cause(after.death_cause) + ("" if own else f", with {after.root_cause_id}")
    if change(told) == "added":
        return None
    parts = [
        f"{name}: {was or '-'} → {now or '-'}"
        for name, was, now in (
            ("status", words.status_name(before.status), words.status_name(after.status)),
            ("type", words.kind(before.instance_type), words.kind(after.instance_type)),
            ("hostname", before.hostname, after.hostname),
            ("parent", before.parent_id, after.parent_id),
            ("timeout", f"{before.timeout_ms / 1000:g}s", f"{after.timeout_ms / 1000:g}s"),
            ("labels", _labels(before), _labels(after)),
        )
        if was != now
    ]
    parts += [f"+{words.service(each)}" for each in after.services if each not in before.services]
    return "; ".join(parts) or None


def _labels(one: InstanceDescription) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(one.labels.items()))


DIFFERENCES: Sheet[Difference] = Sheet(
    columns=(
        Column("change", change),
        Column("id", lambda told: told.instance_id),
        Column("type", lambda told: words.kind(present(told).instance_type)),
        Column("hostname", lambda told: present(told).hostname),
        Column("parent", lambda told: present(told).parent_id or None),
        Column("detail", detail),
    ),
    name=lambda told: told.instance_id,
    document=document,
)


def diff(
    at: Connection,
    shown: Shown,
    since: Annotated[str, typer.Argument(help="15m (ago), a time, or @REVISION.", metavar="FROM")],
    until: Annotated[str, typer.Argument(help="Likewise; now otherwise.", metavar="[TO]")] = "",
) -> None:
    """Tell what is different between two moments, as far back as the dead are remembered.

    Whoever came and went in between is not told: `imctl events` tells that.

    \b
    Examples:
      imctl diff 15m
      imctl diff 2026-01-31T16:20:00Z 2026-01-31T16:30:00Z --sort-by change
      imctl diff @120 @140 -o csv
    """
    printer = shown.of(DIFFERENCES)
    request = moments(parse.point(since), parse.point(until) if until else {})

    async def told(client: Client) -> int:
        async with spinning("comparing", shown.quiet):
            found = await differences(client, request)
        printer.many(found)
        return Exit.OK

    ask(at, told)


def moments(first: dict[str, Any], last: dict[str, Any]) -> DiffRequest:
    """The question about two moments, each as `parse.point` has it."""
    ends = {f"from_{name.removeprefix('time_')}": value for name, value in first.items()}
    ends |= {f"to_{name.removeprefix('time_')}": value for name, value in last.items()}
    return DiffRequest(**ends)
