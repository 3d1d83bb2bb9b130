"""The schema's version: what the database has, what this release has, and the way from one to the other."""

import asyncio
import logging
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from random import random
from time import monotonic
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import manager
from manager.domain.refusals import Refusal
from manager.repository.migrating import SERVES, Obstructed, numbers

log = logging.getLogger(__name__)

# Seconds: for how long a migration is tried again, and how long everybody is left alone in between.
PATIENCE = 120.0
PAUSE = 2.0

PACKAGE = Path(manager.__file__).parent


class SchemaMismatch(Refusal):
    """The schema is not one that this release may serve."""


def scripts() -> Path:
    """Where the migrations are: in the wheel beside the package's modules, in a checkout beside the package."""
    inside = PACKAGE / "migrations"
    return inside if inside.is_dir() else PACKAGE.parent / "migrations"


def config(url: str, **more: Any) -> Config:
    """Alembic's configuration for a database; what migrations/env.py is to know goes with it, and comes back."""
    made = Config()
    made.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    made.attributes.update(url=url, **more)
    return made


def newest() -> str:
    """The version that this release is made for."""
    head = ScriptDirectory(str(scripts())).get_current_head()
    assert head is not None  # noqa: S101 - a release without migrations was never built
    return head


Told = Callable[[str], None]


async def upgrade(
    url: str,
    to: str = "head",
    *,
    patience: float = PATIENCE,
    release: str = manager.__version__,
    told: Told = log.warning,
) -> str:
    """Brings the database up to a version, and returns the one that it has then: a later release's stays as it is.

    What was in the way is told, and tried again for `patience` seconds; then Obstructed is raised, and SchemaInUse
    where living managers could not serve what the schema would be. Each migration is done wholly or not at all, those
    before it are kept.
    """
    return await _patiently(command.upgrade, config(url, release=release), to, patience, told)


async def downgrade(
    url: str,
    to: str = "base",
    *,
    patience: float = PATIENCE,
    release: str = manager.__version__,
    told: Told = log.warning,
) -> str:
    """Takes the database down to a version, likewise; SchemaMismatch where a later release made what it has."""
    made = config(url, release=release, down=True)
    reached = await _patiently(command.downgrade, made, to, patience, told)
    if made.attributes["ahead"]:
        raise SchemaMismatch(f"the database's schema is {reached}, of a later release: go down by that one's imctl")
    return reached


async def _patiently(what: Callable[[Config, str], None], made: Config, to: str, patience: float, told: Told) -> str:
    """In a thread, since Alembic brings a loop of its own."""
    until = None
    while True:
        try:
            await asyncio.to_thread(what, made, to)
            return str(made.attributes["reached"] or "base")
        except Obstructed as error:
            until = until or monotonic() + patience
            if monotonic() >= until:
                raise
            told(f"{error}; trying again")
        await asyncio.sleep(PAUSE * (0.5 + random()))  # noqa: S311 - no secret


def statements(versions: str = "head") -> str:
    """The SQL that leads up to a version, or from one to another: `0004:0007`."""
    made = config("")
    made.output_buffer = written = StringIO()
    command.upgrade(made, versions, sql=True)
    return written.getvalue()


def versions() -> list[str]:
    """All that this release knows, the oldest first."""
    return [each.revision for each in ScriptDirectory(str(scripts())).walk_revisions()][::-1]


async def check(url: str) -> None:
    """Raises when the tables in the code and those that the migrations make are not the same."""
    await asyncio.to_thread(command.check, config(url))


# a downgrade leaves the table, and takes the server's right to look into it
PRESENT = text("select coalesce(has_table_privilege(cast(to_regclass('alembic_version') as oid), 'select'), false)")
VERSION = text("select version_num from alembic_version")


async def require(connection: AsyncConnection, release: str) -> None:
    """Raises SchemaMismatch unless this release may serve the database's schema. A newer schema may be served."""
    version = None
    if (await connection.execute(PRESENT)).scalar_one():
        version = (await connection.execute(VERSION)).scalar()
    if version is None or (version in versions() and version != newest()):
        raise SchemaMismatch(
            f"the database's schema is {version or 'missing'}, and this release needs {newest()}: run `imctl migrate`"
        )
    serves = (await connection.execute(SERVES)).scalar_one()
    if numbers(release) < numbers(serves):
        raise SchemaMismatch(f"the database's schema serves releases from {serves} on, and this is {release}: upgrade")
