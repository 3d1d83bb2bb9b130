"""What an instance says of itself when it is registered, as options."""

import socket
from dataclasses import dataclass
from typing import Annotated

import typer

from manager.cli import parse
from manager.pb.instance_manager_pb2 import InstanceDescription


@dataclass(frozen=True, slots=True)
class Described:
    """The content of a registration."""

    kind: Annotated[str, typer.Option("--type", help="What it is, for example CHROME_BROWSER.", metavar="TYPE")]
    services: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            help="What it offers: NAME=PORT, or NAME=HOST:PORT/PATH; may be given several times. "
            "Without a host: 127.0.0.1 for CHROME_DEBUG_PORT, where Chromium listens; else --hostname.",
            metavar="SERVICE",
        ),
    ] = None
    parent: Annotated[
        str,
        typer.Option(
            "--parent", envvar="IM_INSTANCE_ID", help="Whose child it is: it dies with its parent.", metavar="ID"
        ),
    ] = ""
    no_parent: Annotated[bool, typer.Option("--no-parent", help="No parent, whatever IM_INSTANCE_ID says.")] = False
    chosen_id: Annotated[str, typer.Option("--id", help="Its id; a fresh one otherwise.", metavar="UUID")] = ""
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="May be given several times.", metavar="KEY=VALUE")
    ] = None
    hostname: Annotated[str, typer.Option("--hostname", help="Where it runs; this host otherwise.")] = ""
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=1,
            max=86_400,
            help="Seconds without a health check before it is stale; 30 otherwise, 60 for VLLM.",
        ),
    ] = None

    def message(self) -> InstanceDescription:
        """As a manager takes it. Raises BadParameter."""
        host = self.hostname or socket.gethostname()
        return InstanceDescription(
            instance_id=self.chosen_id,
            instance_type=parse.instance_type(self.kind),
            hostname=host,
            labels=dict(parse.label(each) for each in self.labels or ()),
            parent_id="" if self.no_parent else self.parent,
            services=[parse.service(each, host) for each in self.services or ()],
            timeout_ms=round((self.timeout or 0) * 1000),
        )
