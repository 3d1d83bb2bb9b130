"""`imctl kill`: instances, and everything below them."""

import sys
import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from manager.cli import identity, words
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.living import PATIENCE, Living, living
from manager.cli.output import Printer, Shown
from manager.cli.progress import spinning
from manager.cli.say import agreed, say, say_more
from manager.cli.sheets import INSTANCES
from manager.client import Client
from manager.pb.fleet_pb2 import InstanceUpdates
from manager.pb.instance_manager_pb2 import (
    REASON_UNKNOWN_INSTANCE,
    REMOVED,
    STATUS_DEAD,
    Bool,
    InstanceDescription,
    InstanceUpdate,
    KillRequest,
    Reason,
    SubscribeRequest,
)


@dataclass(frozen=True, slots=True)
class _Plan:
    ids: Sequence[str]
    note: str
    dry_run: bool
    yes: bool
    quiet: bool


def kill(
    at: Connection,
    shown: Shown,
    ids: Annotated[list[str], typer.Argument(help="Whom.", metavar="ID...", **ID)],
    note: Annotated[str, typer.Option("--note", help="Kept with the event, for whoever asks later.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list who would die.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Kill instances and all their descendants; their processes end at their next health check.

    It shows who would die, by type and host, and asks; without a terminal, --yes says so beforehand. Those who died are
    the answer. What died already stays so.

    \b
    Examples:
      imctl kill 7f3a
      imctl kill 7f3a --dry-run -o wide
      imctl kill --yes --note "rolled back" "$(imctl get --type BROWSER_BACKEND -o name)"
    """
    printer = shown.of(INSTANCES)
    plan = _Plan([word for each in ids for word in each.split()], note, dry_run, yes, shown.quiet)
    if not plan.ids:
        raise typer.BadParameter("it names nobody", param_hint="ID")
    if not (yes or dry_run or sys.stdin.isatty()):
        say("there is no terminal to ask whether this is meant", "say so with --yes, or look with --dry-run")
        raise typer.Exit(Exit.USAGE)
    ask(at, lambda client: _kill(client, plan, printer))


async def _kill(client: Client, plan: _Plan, printer: Printer[InstanceDescription]) -> int:
    roots = await identity.whole(client, plan.ids)
    before = [await living(client, subtree_of=each) for each in roots]
    doomed = {one.instance_id: one for fleet in before for one in fleet.instances}
    if plan.dry_run:
        printer.many(doomed.values())
        return Exit.OK
    if doomed and not plan.yes and not _meant(doomed.values()):
        say("nobody was killed")
        return Exit.FAILED
    began = time.monotonic()
    async with spinning("killing", plan.quiet):
        answers = [await client.try_.TryKillInstance(KillRequest(instance_id=each, note=plan.note)) for each in roots]
        took = time.monotonic() - began
        died = await _died(client, before, answers)
    if any(answer.value for answer in answers):
        if not plan.quiet:
            say(f"{counted(died)} died, in {took:.2f} s; processes end at their next health check")
        printer.many(died)
    gone = {one.instance_id for one in died}
    return max(_judged(root, answer, gone) for root, answer in zip(roots, answers, strict=True))


def _meant(doomed: Iterable[InstanceDescription]) -> bool:
    doomed = list(doomed)
    say(f"this kills {counted(doomed)}")
    kinds = Counter((words.kind(one.instance_type), one.hostname) for one in doomed)
    for (kind, host), number in sorted(kinds.items()):
        say_more(f"{number:>5}  {kind}" + (f" on {host}" if host else ""))
    return agreed("Kill?")


def counted(of: Sequence[InstanceDescription]) -> str:
    """How many."""
    return f"{len(of)} instance{'' if len(of) == 1 else 's'}"


def _judged(root: str, answer: Bool, died: set[str]) -> Exit:
    if answer.value or root in died:  # with another one of them
        return Exit.OK
    reason = Reason.Name(answer.reason).removeprefix("REASON_")
    say(f"{root} was not killed: {reason}", f"`imctl why {root}` tells what is known of it")
    return Exit.NOT_FOUND if answer.reason == REASON_UNKNOWN_INSTANCE else Exit.CONFLICT


async def _died(client: Client, before: Sequence[Living], answers: Sequence[Bool]) -> list[InstanceDescription]:
    """Who died by these answers, as the events tell it: not who was there when it was looked."""
    known = {one.instance_id: one for fleet in before for one in fleet.instances}
    revisions = {answer.revision for answer in answers if answer.value}
    first = min(before, key=lambda each: each.revision)
    if max(revisions, default=0) <= first.revision:  # whoever it was, was dead before
        return []
    died = [each async for each in _removals(client, first.token, max(revisions)) if each.revision in revisions]
    return [_dead(known.get(each.instance_id), each) for each in died]


async def _removals(client: Client, token: bytes, until: int) -> AsyncIterator[InstanceUpdate]:
    request = SubscribeRequest(event_types=[REMOVED], resume_token=token, send_bookmarks=True)
    call: AsyncIterable[InstanceUpdates] = client.fleet.WatchInstances(request, timeout=PATIENCE)
    async for message in call:
        for update in message.updates:
            if update.event_type == REMOVED and update.revision <= until:
                yield update
            if update.revision > until or (update.revision == until and update.end_of_revision):
                return


def _dead(known: InstanceDescription | None, told: InstanceUpdate) -> InstanceDescription:
    one = InstanceDescription(instance_id=told.instance_id)
    if known is not None:
        one.CopyFrom(known)
    one.status, one.death_cause, one.root_cause_id = STATUS_DEAD, told.cause, told.root_cause_id
    one.died_at_ms = told.timestamp_ms
    return one
