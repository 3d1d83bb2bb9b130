"""The schema's version: what the database has, what this release has, and whether the one may serve the other.

Whoever serves asks for it, and has no need of Alembic for that, which takes 9 MiB and a tenth of the time of a start.
"""

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import manager
from manager.domain.refusals import Refusal
from manager.repository.migrating import SERVES, numbers

PACKAGE = Path(manager.__file__).parent


class SchemaMismatch(Refusal):
    """The schema is not one that this release may serve."""


def scripts() -> Path:
    """Where the migrations are: in the wheel beside the package's modules, in a checkout beside the package."""
    inside = PACKAGE / "migrations"
    return inside if inside.is_dir() else PACKAGE.parent / "migrations"


def known() -> list[str]:
    """All that this release knows, the oldest first: each migration's file begins with its own."""
    return [each.stem.partition("_")[0] for each in sorted((scripts() / "versions").glob("*.py"))]


def newest() -> str:
    """The version that this release is made for."""
    return known()[-1]


# a downgrade leaves the table, and takes the server's right to look into it
PRESENT = text("select coalesce(has_table_privilege(cast(to_regclass('alembic_version') as oid), 'select'), false)")
VERSION = text("select version_num from alembic_version")


async def require(connection: AsyncConnection, release: str) -> None:
    """Raises SchemaMismatch unless this release may serve the database's schema. A newer schema may be served."""
    version = None
    if (await connection.execute(PRESENT)).scalar_one():
        version = (await connection.execute(VERSION)).scalar()
    if version is None or (version in known() and version != newest()):
        raise SchemaMismatch(
            f"the database's schema is {version or 'missing'}, and this release needs {newest()}: run `imctl migrate`"
        )
    serves = (await connection.execute(SERVES)).scalar_one()
    if numbers(release) < numbers(serves):
        raise SchemaMismatch(f"the database's schema serves releases from {serves} on, and this is {release}: upgrade")
