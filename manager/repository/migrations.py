"""The schema's version: what the database has, what this release has, and the way from one to the other."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import manager
from manager.domain.refusals import Refusal

PACKAGE = Path(manager.__file__).parent


class SchemaMismatch(Refusal):
    """The schema is not one that this release may serve."""


def scripts() -> Path:
    """Where the migrations are: in the wheel beside the package's modules, in a checkout beside the package."""
    inside = PACKAGE / "migrations"
    return inside if inside.is_dir() else PACKAGE.parent / "migrations"


def config(url: str) -> Config:
    """Alembic's configuration for a database."""
    made = Config()
    made.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    made.attributes["url"] = url
    return made


def newest() -> str:
    """The version that this release is made for."""
    head = ScriptDirectory(str(scripts())).get_current_head()
    assert head is not None  # noqa: S101 - a release without migrations was never built
    return head


async def upgrade(url: str, to: str = "head") -> None:
    """Brings the database up to a version. In a thread, since Alembic brings a loop of its own."""
    await asyncio.to_thread(command.upgrade, config(url), to)


async def downgrade(url: str, to: str = "base") -> None:
    """Takes the database down to a version."""
    await asyncio.to_thread(command.downgrade, config(url), to)


async def check(url: str) -> None:
    """Raises when the tables in the code and those that the migrations make are not the same."""
    await asyncio.to_thread(command.check, config(url))


# a downgrade leaves the table, and takes the server's right to look into it
PRESENT = text("select coalesce(has_table_privilege(cast(to_regclass('alembic_version') as oid), 'select'), false)")
VERSION = text("select version_num from alembic_version")
SERVES = text("select serves_from from control")


async def require(connection: AsyncConnection, release: str) -> None:
    """Raises SchemaMismatch unless this release may serve the database's schema. A newer schema may be served."""
    version = None
    if (await connection.execute(PRESENT)).scalar_one():
        version = (await connection.execute(VERSION)).scalar()
    known = [each.revision for each in ScriptDirectory(str(scripts())).walk_revisions()]
    if version is None or (version in known and version != newest()):
        raise SchemaMismatch(
            f"the database's schema is {version or 'missing'}, and this release needs {newest()}: run `imctl migrate`"
        )
    serves = (await connection.execute(SERVES)).scalar_one()
    if _numbers(release) < _numbers(serves):
        raise SchemaMismatch(f"the database's schema serves releases from {serves} on, and this is {release}: upgrade")


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(each) for each in release.split(".")[:3])
