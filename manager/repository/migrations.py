"""The way from one version of the schema to another."""

import asyncio
import logging
from collections.abc import Callable
from io import StringIO
from random import random
from time import monotonic
from typing import Any

from alembic import command
from alembic.config import Config

import manager
from manager.repository import versions
from manager.repository.migrating import Obstructed
from manager.repository.versions import SchemaMismatch

log = logging.getLogger(__name__)

# Seconds: for how long a migration is tried again, and how long everybody is left alone in between.
PATIENCE = 120.0
PAUSE = 2.0


def config(url: str, **more: Any) -> Config:
    """Alembic's configuration for a database; what migrations/env.py is to know goes with it, and comes back."""
    made = Config()
    made.set_main_option("script_location", str(versions.scripts()).replace("%", "%%"))
    made.attributes.update(url=url, **more)
    return made


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


def statements(to: str = "head") -> str:
    """The SQL that leads up to a version, or from one to another: `0004:0007`."""
    made = config("")
    made.output_buffer = written = StringIO()
    command.upgrade(made, to, sql=True)
    return written.getvalue()


async def check(url: str) -> None:
    """Raises when the tables in the code and those that the migrations make are not the same."""
    await asyncio.to_thread(command.check, config(url))
