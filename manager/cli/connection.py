"""Which manager a verb talks to: flags over the environment over the config file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from manager.cli import config, parse
from manager.cli.config import Place
from manager.client.access import Access

NEAR = "127.0.0.1:50052"


@dataclass(frozen=True, slots=True)
class Connection:
    """The options that name a manager."""

    address: Annotated[
        str,
        typer.Option(
            "--address", "-a", help=f"The manager; several with commas. IM_ADDRESS, or {NEAR}.", metavar="HOST:PORT"
        ),
    ] = ""
    context: Annotated[
        str, typer.Option("--context", help="A manager by its name in the config file. IM_CONTEXT.", metavar="NAME")
    ] = ""

    def target(self, environment: Mapping[str, str] = os.environ) -> "Target":
        """What these options, the environment and the config file come to. Raises BadParameter.

        Each setting by itself, from the first that has it: the flag, the context that a flag names, the environment,
        the file. So --context is never overruled by an IM_ADDRESS that was forgotten; and where an address is given,
        the file's default context is not asked: its token is not for others.
        """
        file = config.read(environment)
        flagged = file.place(self.context)
        default = "" if self.address or environment.get("IM_ADDRESS") else file.context
        name = self.context or environment.get("IM_CONTEXT") or default
        given = Place(
            address=environment.get("IM_ADDRESS", ""),
            token=environment.get("IM_TOKEN", ""),
            token_file=environment.get("IM_TOKEN_FILE", ""),
            tls_ca=environment.get("IM_TLS_CA", ""),
            tls_cert=environment.get("IM_TLS_CERT", ""),
            tls_key=environment.get("IM_TLS_KEY", ""),
        )
        return target(name, [Place(address=self.address), flagged, given, file.place(name)])


@dataclass(frozen=True, slots=True)
class Target:
    """The managers, and what they are shown; `context` is empty where no context was used."""

    addresses: tuple[str, ...]
    access: Access
    context: str

    def __str__(self) -> str:
        return ",".join(self.addresses)


def target(context: str, places: list[Place]) -> Target:
    """The first word on each setting; a token and the file of a token are one setting."""

    def first(name: str) -> str:
        return next((value for each in places if (value := getattr(each, name))), "")

    token = next((_token(each) for each in places if each.token or each.token_file), "")
    certificate, key = first("tls_cert"), first("tls_key")
    if bool(certificate) != bool(key):
        raise typer.BadParameter(
            "a certificate needs its key, and a key its certificate: set both, or neither",
            param_hint="IM_TLS_CERT, IM_TLS_KEY",
        )
    access = Access(token=token, ca=_content(first("tls_ca")), certificate=_content(certificate), key=_content(key))
    return Target(parse.addresses(first("address") or NEAR), access, context)


def _token(place: Place) -> str:
    token = place.token or (_content(place.token_file) or b"").decode(errors="replace").strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise typer.BadParameter(
            "a token is one line of printable ASCII", param_hint="IM_TOKEN, IM_TOKEN_FILE, token_file"
        )
    return token


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        _unreadable(path, error)


def _unreadable(path: str, error: OSError) -> NoReturn:
    raise typer.BadParameter(
        f"{path} cannot be read: {error.strerror}", param_hint="IM_TLS_*, IM_TOKEN_FILE, token_file"
    )
