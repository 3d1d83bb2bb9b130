"""`imctl run`: any command, as an instance of the fleet."""

import asyncio
import socket
from typing import Annotated

import typer

from manager.cli import parse
from manager.cli.connection import Connection
from manager.cli.supervisor import Plan, supervise
from manager.client import Policy
from manager.pb.instance_manager_pb2 import InstanceDescription


def run(
    at: Connection,
    command: Annotated[
        list[str], typer.Argument(help="The command and its arguments, after `--`. It must stay in the foreground.")
    ],
    kind: Annotated[str, typer.Option("--type", help="What it is, for example CHROME_BROWSER.", metavar="TYPE")],
    services: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            help="What it offers: NAME=PORT, or NAME=HOST:PORT/PATH; may be given several times. "
            "Without a host: 127.0.0.1 for CHROME_DEBUG_PORT, where Chromium listens; else --hostname.",
            metavar="SERVICE",
        ),
    ] = None,
    parent: Annotated[
        str,
        typer.Option(
            "--parent", envvar="IM_INSTANCE_ID", help="Whose child it is: it dies with its parent.", metavar="ID"
        ),
    ] = "",
    no_parent: Annotated[bool, typer.Option("--no-parent", help="No parent, whatever IM_INSTANCE_ID says.")] = False,
    chosen_id: Annotated[str, typer.Option("--id", help="Its id; a fresh one otherwise.", metavar="UUID")] = "",
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="May be given several times.", metavar="KEY=VALUE")
    ] = None,
    hostname: Annotated[str, typer.Option("--hostname", help="Where it runs; this host otherwise.")] = "",
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=1,
            max=86_400,
            help="Seconds without a health check before it is stale; 30 otherwise, 60 for VLLM.",
        ),
    ] = None,
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
    host = hostname or socket.gethostname()
    description = InstanceDescription(
        instance_id=chosen_id,
        instance_type=parse.instance_type(kind),
        hostname=host,
        labels=dict(parse.label(each) for each in labels or ()),
        parent_id="" if no_parent else parent,
        services=[parse.service(each, host) for each in services or ()],
        timeout_ms=round((timeout or 0) * 1000),
    )
    policy = Policy(orphan_after, strict)
    plan = Plan(tuple(command), description, at.target(), policy, grace, quiet)
    raise typer.Exit(asyncio.run(supervise(plan)))
