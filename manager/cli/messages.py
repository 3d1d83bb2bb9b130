"""What `imctl run` tells a person, on stderr: stdout belongs to the command."""

import re

from manager.cli.codes import Exit
from manager.cli.exits import exit_of
from manager.cli.say import say
from manager.client import (
    BackInReach,
    ManagerError,
    MetricsFailed,
    Notice,
    NotLinked,
    OutOfReach,
    RefusedError,
    RegisteredAgain,
)
from manager.pb.fleet_pb2 import InstanceReport
from manager.pb.instance_manager_pb2 import (
    CAUSE_EXPIRED,
    REASON_CYCLE,
    REASON_DEAD,
    REASON_HAS_PARENT,
    REASON_ID_TAKEN,
    REASON_PARENT_DEAD,
    REASON_UNKNOWN_INSTANCE,
    REASON_UNKNOWN_PARENT,
    Bool,
    Reason,
)

ADVICE_OF_EXIT = {
    Exit.UNREACHABLE: "start one with `imctl dev`, or name it: --address HOST:PORT or IM_ADDRESS",
    Exit.PROTO_VERSION: "install the release of imctl that fits the manager: pip install -U 'instance-manager[run]'",
    Exit.DENIED: "ask whoever runs the manager for access",
    Exit.USAGE: "see the command's --help",
    Exit.NOT_FOUND: "`imctl get` lists the living",
}
ADVICE_OF_REASON: dict[Reason.ValueType, str] = {
    REASON_DEAD: "an id never lives twice: leave --id out, or choose another",
    REASON_ID_TAKEN: "another instance has this id: leave --id out, or choose another",
    REASON_UNKNOWN_PARENT: "start the parent first, or name another by --parent, or none by --no-parent",
    REASON_PARENT_DEAD: "start the parent anew, or name another by --parent, or none by --no-parent",
}


UNHEARD = re.compile(r"Failed to connect to remote host: (.+)$")
UNKNOWN = (REASON_UNKNOWN_INSTANCE, REASON_UNKNOWN_PARENT)
ADVICE_OF_REFUSAL: dict[Reason.ValueType, str] = {
    REASON_DEAD: "dying is final: `imctl why` tells what killed it",
    REASON_ID_TAKEN: "another instance has this id: choose another",
    REASON_UNKNOWN_PARENT: "register the parent first",
    REASON_PARENT_DEAD: "`imctl why` tells what killed the parent",
    REASON_UNKNOWN_INSTANCE: "`imctl get` lists the living",
    REASON_HAS_PARENT: "a child has one parent, for life: `imctl tree --up` shows it",
    REASON_CYCLE: "the parent is below the child: `imctl tree --up` shows how",
}


def spoken(error: Exception | None) -> str:
    """An error as a person may read it: gRPC names a connection that was refused in the words of its own parts."""
    told = str(error)
    unheard = UNHEARD.search(told)
    return f"nobody answers ({unheard[1].lower()})" if unheard else told


def report(notice: Notice) -> None:
    """A line on what became of the manager."""
    match notice:
        case OutOfReach(error, left):
            say(f"the manager cannot be reached, the command goes on for {left:.0f} s: {spoken(error)}")
        case BackInReach(seconds):
            say(f"the manager answers again, after {seconds:.0f} s")
        case RegisteredAgain():
            say("the manager had lost its data: the instance is registered again")
        case NotLinked(reason):
            say(f"the manager had lost its data, and refuses the link to the parent: {Reason.Name(reason)}")
        case MetricsFailed(error):
            say(f"the memory in use could not be measured: {error}")


def not_registered(error: ManagerError | RefusedError, where: str) -> int:
    """Says why the registration failed at the manager `where`, and what to do; the exit code."""
    if isinstance(error, RefusedError):
        say(str(error), ADVICE_OF_REASON.get(error.reason, "see `imctl run --help`"))
        return Exit.CONFLICT
    code = exit_of(error)
    what = "cannot be reached" if code is Exit.UNREACHABLE else "refuses the registration"
    advice = ADVICE_OF_EXIT.get(code, "try again, or ask whoever runs it")
    say(f"the manager at {where} {what}: {spoken(error)}", advice)
    return code


def refused(action: str, answer: Bool) -> int:
    """Says why a `Try*` call answered false, and what to do; the exit code."""
    reason = Reason.Name(answer.reason).removeprefix("REASON_")
    say(f"{action} was refused: {reason}", ADVICE_OF_REFUSAL.get(answer.reason, "`imctl describe` tells how it stands"))
    return Exit.NOT_FOUND if answer.reason in UNKNOWN else Exit.CONFLICT


def not_started(command: str, error: OSError) -> int:
    """Says why the command cannot be started; the exit code that shells give for it."""
    say(f"{command!r} cannot be started: {error.strerror}", "check its name, its path and its permissions")
    return Exit.NO_COMMAND if isinstance(error, FileNotFoundError) else Exit.CANNOT_START


def death(told: InstanceReport) -> str:
    """How an instance died, in a line."""
    root = told.causes[-1] if told.causes else told.instance
    who = "it" if root.instance_id == told.instance.instance_id else f"its ancestor {root.instance_id}"
    if root.death_cause == CAUSE_EXPIRED:
        return f"{who} had expired: no health check came in time"
    by = f" by {told.actor}" if told.actor else ""
    return f"{who} was killed{by}{f': {told.note}' if told.note else ''}"
