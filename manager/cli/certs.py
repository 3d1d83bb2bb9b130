"""`imctl certs`: a small authority of one's own, where there is no other."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from manager import certificates
from manager.cli import parse
from manager.cli.output import Shown
from manager.cli.serve import fail
from manager.cli.table import Column, Sheet

CA, SERVER = "ca", "server"
SPIFFE = "spiffe://"


@dataclass(frozen=True, slots=True)
class Written:
    """A file, and what it is for."""

    path: Path
    use: str


WRITTEN: Sheet[Written] = Sheet(
    columns=(Column("path", lambda told: str(told.path)), Column("use", lambda told: told.use)),
    name=lambda told: str(told.path),
    document=lambda told: {"path": str(told.path), "use": told.use},
)
USES = {
    "ca.key": "signs certificates: keep it away from managers",
    "ca.pem": "IM_TLS_CLIENT_CA of managers, IM_TLS_CA of clients",
    "server.key": "IM_TLS_KEY of managers",
    "server.pem": "IM_TLS_CERT of managers",
}


def certs(
    shown: Shown,
    action: Annotated[
        str,
        typer.Argument(help="`init`: an authority, and a manager's. `client`: one of a client's.", metavar="ACTION"),
    ],
    folder: Annotated[Path, typer.Argument(help="Where the authority is, or is to be.")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="A name or address that managers are asked by; may be given several times."),
    ] = None,
    spiffe: Annotated[str, typer.Option("--spiffe", help="The client's name.", metavar="URI")] = "",
    expires: Annotated[str, typer.Option("--expires", help="After how long: 90d. The authority lasts ten years.")] = (
        "365d"
    ),
) -> None:
    """Make a small authority of your own, and certificates of managers and clients.

    Nothing is ever written over. A client's certificate says who it is; what it may do says `imctl token create NAME
    --role ROLE --spiffe URI`.

    \b
    Examples:
      imctl certs init /etc/im/tls --host manager-1 --host 10.0.0.1
      imctl certs client /etc/im/tls --spiffe spiffe://example.org/router
    """
    printer = shown.of(WRITTEN)
    lasts = parse.duration(expires)
    if action not in ("init", "client"):
        raise typer.BadParameter("there are only init and client", param_hint="ACTION")
    if action == "client" and not (spiffe.startswith(SPIFFE) and spiffe.rpartition("/")[2]):
        raise typer.BadParameter(f"name the client: --spiffe {SPIFFE}example.org/router", param_hint="--spiffe")
    hosts = host or [socket.gethostname(), "localhost", "127.0.0.1", "::1"]
    try:
        if action == "init":
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            by = certificates.authority("Instance Manager")
            paths = by.write(folder, CA) + certificates.for_server(by, hosts, lasts).write(folder, SERVER)
        else:
            by = certificates.read(folder, CA)
            paths = certificates.for_client(by, spiffe, lasts).write(folder, spiffe.rpartition("/")[2])
    except FileExistsError as error:
        fail(f"{error.filename} is there already, and is not written over", "take another folder, or move it away")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "`imctl certs init` makes an authority first")
    except ValueError as error:
        fail(str(error), "see `imctl certs --help`")
    printer.many(_told(paths))


def _told(paths: Sequence[Path]) -> list[Written]:
    return [Written(each, USES.get(each.name, f"{_variable(each)} of the client")) for each in paths]


def _variable(path: Path) -> str:
    return "IM_TLS_KEY" if path.suffix == ".key" else "IM_TLS_CERT"
