"""`imctl`: its verbs, each a module of this folder that is imported only when it is called."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from manager.cli.codes import Exit
from manager.cli.encoding import escape_the_rest
from manager.cli.options import expanded
from manager.cli.say import say

# set by the scripts that `imctl completion` writes
COMPLETES = "_IMCTL_COMPLETE"


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb's line in the list, the extra that it needs, and whether the rest of the line belongs to a command."""

    help: str
    extra: str
    takes_command: bool = False


# the function of that name in manager/cli/<verb>.py; the list is in the order of --help
VERBS = {
    "dev": Verb("Start PostgreSQL, migrate, and serve: all that development needs.", "embedded"),
    "serve": Verb("Serve on the database that DATABASE_URL names.", "server"),
    "migrate": Verb("Bring the schema of DATABASE_URL up to this release's.", "server"),
    "get": Verb("List the living fleet, or a part of it.", "run"),
    "describe": Verb("Tell all that is known of one instance, dead or alive.", "run"),
    "tree": Verb("Show who belongs to whom.", "run"),
    "events": Verb("Tell what has changed.", "run"),
    "diff": Verb("Tell what is different between two moments.", "run"),
    "watch": Verb("Tell what changes, as it changes.", "run"),
    "why": Verb("Tell what killed an instance.", "run"),
    "wait": Verb("Wait until an instance is healthy, stale or dead.", "run"),
    "kill": Verb("Kill instances and all their descendants.", "run"),
    "add": Verb("Register an instance.", "run"),
    "link": Verb("Give a child its parent.", "run"),
    "service": Verb("List what is offered, and where; or add a service.", "run"),
    "health": Verb("Tell when instances were last heard of.", "run"),
    "metrics": Verb("Tell what an instance has measured.", "run"),
    "top": Verb("Show the fleet on a whole screen, live.", "cli"),
    "run": Verb("Run a command as an instance, for as long as the manager lets it live.", "run", takes_command=True),
    "demo": Verb("Fill a manager with a small living fleet.", "run"),
    "bench": Verb("Put a small load on a manager, and tell how fast it was.", "run"),
    "doctor": Verb("Look for what is wrong with managers and their database.", "run"),
    "sql": Verb("Ask the record in SQL, as its reader, or open psql on it.", "embedded", takes_command=True),
    "backup": Verb("Take a backup of the database, and verify it.", "embedded"),
    "restore": Verb("Bring the database back from a backup.", "embedded"),
    "audit": Verb("Prove that the trail of who did what is as it was written.", "server"),
    "admin": Verb("Tell the database what only an operator can know.", "server"),
    "token": Verb("Say who may call.", "server"),
    "certs": Verb("Make a small authority of your own, and certificates.", "server"),
    "completion": Verb("Write the script that makes a shell complete verbs and ids.", "run"),
    "version": Verb("Tell which release this is.", "run"),
}


def imctl(arguments: Sequence[str]) -> NoReturn:
    """Runs the verb that the arguments name, and exits as `manager.cli.exits` lists it."""
    escape_the_rest()
    if list(arguments) in (["--version"], ["-V"]):  # by the habit of other tools
        arguments = ["version"]
    written = completed_words() or arguments
    called = next((each for each in written if not each.startswith("-")), "")
    if not (called in VERBS and VERBS[called].takes_command) and not all(map(_is_text, arguments)):
        say("an argument is not text in UTF-8", "see `imctl --help`")
        sys.exit(Exit.USAGE)
    command = typer.main.get_command(app(called))
    try:
        code = command.main(list(arguments) or ["--help"], prog_name="imctl", standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)  # what verbs raise themselves has none
        command_path = context.command_path if context else f"imctl {called}" if called in VERBS else "imctl"
        say(error.format_message().removeprefix("Invalid value: "), f"see `{command_path} --help`")
        code = error.exit_code
    sys.exit(code or 0)


def _is_text(argument: str) -> bool:
    """Bytes that are no UTF-8 come as surrogates, which no message can carry; a command of one's own may have them."""
    return not any("\ud800" <= each <= "\udfff" for each in argument)


def completed_words() -> list[str]:
    """What stands on the line that a shell wants completed, after `imctl`; nothing where none does."""
    if COMPLETES not in os.environ:
        return []
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]


def app(called: str = "") -> typer.Typer:
    """The command line, with the verb `called` in full and the others by their line alone: their imports take long."""
    made = typer.Typer(
        help="The Instance Manager: who is in the fleet, who belongs to whom, who is alive.",
        add_completion=COMPLETES in os.environ,  # two options more, which only a shell that completes needs
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain text: it starts faster, and logs take it as it is
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, verb in VERBS.items():
        settings = {"allow_interspersed_args": not verb.takes_command}
        function = loaded(name, verb) if name == called else unloaded
        made.command(name, short_help=verb.help, context_settings=settings)(expanded(function))
    return made


def loaded(name: str, verb: Verb) -> Callable[..., None]:
    """The verb's function; exits with a line that names the missing extra where its imports fail."""
    try:
        function: Callable[..., None] = getattr(import_module(f"manager.cli.{name}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "manager":
            raise
        sys.exit(f"imctl: `imctl {name}` needs more than is installed: pip install 'instance-manager[{verb.extra}]'")
    return function


def unloaded() -> None:
    """The place of a verb that was not called."""
