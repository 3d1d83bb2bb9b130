"""`imctl run`: any command, as an instance of the fleet."""

import asyncio
from typing import Annotated

import typer

from manager.cli.connection import Connection
from manager.cli.description import Described
from manager.cli.supervisor import Plan, supervise
from manager.client import Policy


def run(
    at: Connection,
    described: Described,
    command: Annotated[
        list[str], typer.Argument(help="The command and its arguments, after `--`. It must stay in the foreground.")
    ],
    orphan_after: Annotated[
        float, typer.Option("--orphan-after", min=0, help="Seconds to go on while the manager cannot be reached.")
    ] = 900,
    strict: Annotated[
        bool, typer.Option("--strict", help="Go on without the manager only for the timeout, not --orphan-after.")
    ] = False,
    grace: Annotated[float, typer.Option("--grace", min=0, help="Seconds between TERM and KILL.")] = 5,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing as long as all is well.")] = False,
) -> None:
    """Run a command as an instance, for as long as the manager lets it live.

    It is registered before the command starts, checks its health, and posts the memory of its process tree. When
    the manager says that it must terminate, when the command ends, or at a Ctrl-C, all processes of the tree are
    stopped (TERM, then KILL) and the instance is killed. The command finds its id in IM_INSTANCE_ID, so that an
    `imctl run` inside it becomes its child. Should imctl itself be killed by force, the command dies at once (Linux),
    what the command has started lives on, and the manager expires the instance.

    The exit code is the command's own when it ends by itself, 128 + n when signal n ended it; otherwise

    \b
      2  wrong usage
      4  no manager in reach at the start
      5  denied
      6  the manager speaks another version of the protocol
      7  the registration was refused
     10  terminated: the manager says that the instance is dead
     11  terminated: the manager does not know the instance
     12  terminated: the manager was out of reach for too long
     13  terminated: its parent is gone after a loss of data
    126  the command cannot be started
    127  there is no such command
    129, 130, 143  stopped by HUP, Ctrl-C, TERM

    \b
    Examples:
      imctl run --type VLLM --service VLLM_OPENAI_COMPATIBLE=8000 -- vllm serve some/model
      imctl run --type BROWSER_BACKEND -- imctl run --type CHROME_BROWSER -- chromium --headless
    """
    policy = Policy(orphan_after, strict)
    plan = Plan(tuple(command), described.message(), at.target(), policy, grace, quiet)
    raise typer.Exit(asyncio.run(supervise(plan)))
