"""`imctl audit`: whether the trail of who did what is as it was written, and which calls were turned away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from manager.cli.output import Shown
from manager.cli.serve import fail, settings_of
from manager.cli.table import Column, Sheet, rfc3339
from manager.domain.trail import Broken, Head, Verified
from manager.repository.database import Database, refusal_of
from manager.repository.denied import Counted, lately
from manager.repository.trail import verify

A = TypeVar("A")
T = TypeVar("T")

VERIFIED: Sheet[Verified] = Sheet(
    columns=(
        Column("rows", lambda found: found.rows),
        Column("head", lambda found: str(found.head)),
        Column("seal", lambda found: str(found.seal), wide=True),
    ),
    name=lambda found: str(found.head),
    document=lambda found: {"rows": found.rows, "head": str(found.head), "seal": str(found.seal)},
)

DENIED: Sheet[Counted] = Sheet(
    columns=(
        Column("last", lambda told: told.last_at),
        Column("who", lambda told: told.who or None),
        Column("address", lambda told: told.address),
        Column("method", lambda told: told.method),
        Column("code", lambda told: told.code),
        Column("calls", lambda told: told.calls),
        Column("hour", lambda told: told.since, wide=True),
    ),
    name=lambda told: told.who or told.address,
    document=lambda told: {
        "hour": rfc3339(told.since),
        "last_at": rfc3339(told.last_at),
        "who": told.who,
        "address": told.address,
        "method": told.method,
        "code": told.code,
        "calls": told.calls,
    },
)
NEWEST = 1_000


def audit(
    shown: Shown,
    action: Annotated[
        str,
        typer.Argument(
            help="`verify`: read the whole trail; `denied`: calls that were refused.", metavar="verify|denied"
        ),
    ],
    head: Annotated[
        str,
        typer.Option(
            "--head",
            help="Of `verify`: a head that was kept elsewhere, such as in a log: it must lie on the way.",
            metavar="N:HASH",
        ),
    ] = "",
) -> None:
    """Prove that the trail in DATABASE_URL is as it was written: no row changed, swapped or missing.

    Each row holds the hash of the one before. Whoever owns the database could write all of them anew; so managers log
    the head every few minutes, and --head proves that the trail still leads there. The exit code is 1 when it is
    broken. `denied` lists the newest thousand counts of calls that were turned away, by the hour: of which caller, from
    where, of which method.

    \b
    Examples:
      imctl audit verify
      imctl audit verify --head 4711:9f3c... -o json
      imctl audit denied --sort-by=-calls
    """
    if action not in ("verify", "denied"):
        raise typer.BadParameter("there are only verify and denied", param_hint="ACTION")
    try:
        if action == "verify":
            proof = shown.of(VERIFIED)
            proof.one(_asked(verify, _head(head)))
        else:
            counts = shown.of(DENIED)
            counts.many(_asked(lately, NEWEST))
    except Broken as broken:
        fail(f"the trail is broken: {broken}", "look for who could write to the database, and compare with a backup")


def _head(text: str) -> Head | None:
    try:
        return Head.parsed(text) if text else None
    except ValueError:
        raise typer.BadParameter("a head is NUMBER:HASH, as the log has it") from None


def _asked(question: Callable[[Any, A], Awaitable[T]], about: A) -> T:
    """The answer of the database in DATABASE_URL, as of one moment."""
    url = settings_of().database_url
    if not url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager")
    try:
        return asyncio.run(_answered(url, question, about))
    except Broken:
        raise
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")


async def _answered(url: str, question: Callable[[Any, A], Awaitable[T]], about: A) -> T:
    database = Database(url, 1)
    try:
        async with database.readers.snapshot() as connection:
            return await question(connection, about)
    finally:
        await database.close()
