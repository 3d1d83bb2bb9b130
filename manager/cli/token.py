"""`imctl token`: who may call, granted and taken back in the database."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from re import compile as pattern
from typing import Annotated, Any
from uuid import UUID

import typer

from manager import __version__
from manager.cli import parse, words
from manager.cli.operator import operator
from manager.cli.output import Shown
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Document, Sheet, rfc3339
from manager.domain.instance import InstanceId
from manager.domain.principal import Role
from manager.domain.token import digest, new_token
from manager.repository import tokens
from manager.repository.database import Session, engine_of, refusal_of, transaction
from manager.repository.tokens import Grant, Token
from manager.repository.trail import note
from manager.repository.versions import require
from manager.wire.authority import SPIFFE

NEVER = "never"
# without a blank or a colon: the record calls others "manager ...", "instance ..." and by their addresses
NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,99}")


@dataclass(frozen=True, slots=True)
class Made:
    """What is shown once. Of a certificate's name there is no token."""

    id: UUID
    name: str
    role: str
    token: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """What is good no more."""

    id: UUID


MADE: Sheet[Made] = Sheet(
    columns=(
        Column("token", lambda told: told.token or None),
        Column("name", lambda told: told.name),
        Column("role", lambda told: told.role),
        Column("id", lambda told: str(told.id)),
    ),
    name=lambda told: told.token or told.name,
    document=lambda told: {"token": told.token, "name": told.name, "role": told.role, "id": str(told.id)},
)
REVOKED: Sheet[Revoked] = Sheet(
    columns=(Column("id", lambda told: str(told.id)),),
    name=lambda told: str(told.id),
    document=lambda told: {"id": str(told.id)},
)


def state(told: Token) -> str:
    """Good, or why not."""
    return "valid" if told.valid else "revoked" if told.revoked_at else "expired"


def _moment(told: datetime | None) -> str | None:
    return None if told is None else rfc3339(told)


def document(told: Token) -> Document:
    """As json and yaml have it."""
    return {
        "id": str(told.id),
        "name": told.name,
        "role": str(told.role),
        "state": state(told),
        "uri": told.uri or "",
        "instance_id": str(told.instance_id or ""),
        "created_at": _moment(told.created_at),
        "expires_at": _moment(told.expires_at),
        "revoked_at": _moment(told.revoked_at),
        "last_used_at": _moment(told.last_used_at),
    }


TOKENS: Sheet[Token] = Sheet(
    columns=(
        Column("name", lambda told: told.name),
        Column("role", lambda told: str(told.role)),
        Column("state", state),
        Column("created", lambda told: told.created_at, lambda told: words.ago(told.created_at)),
        Column("expires", lambda told: told.expires_at),
        Column("last_used", lambda told: told.last_used_at, lambda told: words.ago(told.last_used_at)),
        Column("id", lambda told: str(told.id)),
        Column("uri", lambda told: told.uri, wide=True),
        Column("instance", lambda told: str(told.instance_id) if told.instance_id else None, wide=True),
        Column("revoked", lambda told: told.revoked_at, wide=True),
    ),
    name=lambda told: str(told.id),
    document=document,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for: of whom, and of what is granted as what, and for how long."""

    name: str
    role: str = ""
    instance: str = ""
    spiffe: str = ""
    lasts: timedelta | None = None
    everybody: bool = False

    def grant(self, credential: str) -> Grant:
        """As the database takes it. Raises BadParameter."""
        if not self.name or not self.role:
            raise typer.BadParameter("say for whom and for what: imctl token create NAME --role ROLE")
        if not NAME.fullmatch(self.name):
            raise typer.BadParameter(f"{self.name!r}: a name is up to 100 of A-Z a-z 0-9 . _ @ / -", param_hint="NAME")
        if self.role not in list(Role):
            raise typer.BadParameter(f"{self.role!r} is none of {', '.join(Role)}", param_hint="--role")
        if (self.role == Role.INSTANCE) != bool(self.instance):
            raise typer.BadParameter("the role instance, and no other, is bound to one: --role instance --instance ID")
        if self.spiffe and not self.spiffe.startswith(SPIFFE):
            raise typer.BadParameter(f"{self.spiffe!r} does not begin with {SPIFFE}", param_hint="--spiffe")
        instance = _instance(self.instance) if self.instance else None
        return Grant(self.name, Role(self.role), digest(credential), self.spiffe or None, instance, self.lasts)


def _instance(text: str) -> InstanceId:
    try:
        return InstanceId(UUID(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no id", param_hint="--instance") from None


async def _create(url: str, wish: Wish) -> Sequence[Made]:
    made = "" if wish.spiffe else new_token()
    grant = wish.grant(made or wish.spiffe)
    async with _session(url) as connection, transaction(connection):
        created = await tokens.create(connection, grant)
        if created is not None:
            await note(connection, "TOKEN_CREATE", operator(), f"{created} {wish.name} as {wish.role}")
    if created is None:
        fail(f"something valid has the name {wish.name!r} already", f"`imctl token rotate {wish.name}` makes another")
    return [Made(created, wish.name, wish.role, made)]


async def _rotate(url: str, wish: Wish) -> Sequence[Made]:
    made = new_token()
    async with _session(url) as connection, transaction(connection):
        rotated = await tokens.rotate(connection, wish.name, digest(made), wish.lasts)
        if rotated is not None:
            await note(connection, "TOKEN_ROTATE", operator(), f"{rotated[0]} {rotated[1]} as {rotated[2]}")
    if rotated is None:
        fail(f"no valid token has the name {wish.name!r}", "`imctl token list` has all")
    return [Made(*rotated, made)]


async def _revoke(url: str, wish: Wish) -> Sequence[Revoked]:
    async with _session(url) as connection, transaction(connection):
        revoked = await tokens.revoke(connection, wish.name)
        if revoked:
            await note(connection, "TOKEN_REVOKE", operator(), f"{' '.join(map(str, revoked))} of {wish.name}")
    if not revoked:
        fail(f"nothing that is valid has the name or the id {wish.name!r}", "`imctl token list` has all")
    return [Revoked(each) for each in revoked]


async def _list(url: str, wish: Wish) -> Sequence[Token]:
    async with _session(url) as connection:
        return await tokens.list_all(connection, everybody=wish.everybody)


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[Any]:
    session = Session(engine_of(url, name="token"))
    try:
        async with session.use() as connection:
            await require(connection, __version__)
            yield connection
    finally:
        await session.close()


ACTIONS: dict[str, tuple[Sheet[Any], Callable[[str, Wish], Coroutine[Any, Any, Sequence[Any]]]]] = {
    "create": (MADE, _create),
    "rotate": (MADE, _rotate),
    "revoke": (REVOKED, _revoke),
    "list": (TOKENS, _list),
}


def token(
    shown: Shown,
    action: Annotated[
        str, typer.Argument(help="What to do: `create`, `rotate`, `revoke` or `list`.", metavar="ACTION")
    ],
    name: Annotated[
        str, typer.Argument(help="Who has it, as the record will say; an id will do for `revoke`.", metavar="NAME")
    ] = "",
    role: Annotated[
        str, typer.Option("--role", help="reader, instance, registrar, operator or admin; see docs/security.md.")
    ] = "",
    instance: Annotated[str, typer.Option("--instance", help="Of the role instance: the one.", metavar="ID")] = "",
    spiffe: Annotated[
        str, typer.Option("--spiffe", help="No token, but this name in a client's certificate.", metavar="URI")
    ] = "",
    expires: Annotated[str, typer.Option("--expires", help="After how long: 90d, 12h, or never.")] = "365d",
    everybody: Annotated[bool, typer.Option("--all", help="List those of single instances too.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.", metavar="FOLDER")
    ] = None,
) -> None:
    """Say who may call the managers of a database: that of DATABASE_URL, or of a running `imctl dev`.

    A token is shown once, when it is made: the database has its hash alone. Hand it over in IM_TOKEN, or in a file that
    IM_TOKEN_FILE names. `rotate` makes another one of the same name and role; the one before stays valid until it is
    revoked, or until the next rotation. What is revoked ends within five seconds, open streams included. Managers ask
    for tokens where they serve with IM_AUTH=true.

    \b
    Examples:
      imctl token create grafana --role reader
      imctl token create pool --role registrar --expires 90d -o name > /run/secrets/im
      imctl token create router --role reader --spiffe spiffe://example.org/router
      imctl token rotate pool
      imctl token revoke grafana
      imctl token list
    """
    if action not in ACTIONS:
        raise typer.BadParameter(f"there are only {', '.join(ACTIONS)}", param_hint="ACTION")
    sheet, act = ACTIONS[action]
    printer = shown.of(sheet)
    lasts = None if expires == NEVER else parse.duration(expires)
    wish = Wish(name, role, instance, spiffe, lasts, everybody)
    try:
        told = asyncio.run(act(_database(data_dir), wish))
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")
    printer.many(told)


def _database(data_dir: Path | None) -> str:
    """DATABASE_URL, or what a running `imctl dev` has published."""
    if url := settings_of().database_url:
        return url
    then = "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager"
    try:
        from manager.embedded import EmbeddedPostgresError, published
    except ModuleNotFoundError:
        fail("DATABASE_URL is not set", then)
    try:
        return published(data_dir)
    except EmbeddedPostgresError as error:
        fail(str(error), then)
