"""Whether the tables in the code are those that the migrations make, and docs/audit.md is what the catalogue says.

`alembic check`, on a database of its own.
"""

import asyncio
import sys

import dictionary

from manager.embedded import start
from manager.repository import migrations


async def check(url: str) -> None:
    """Migrates and compares; raises where they differ."""
    await migrations.upgrade(url)
    await migrations.check(url)
    if dictionary.PAGE.read_text() != await dictionary.page(url):
        sys.exit(f"{dictionary.PAGE.name} is not what the catalogue says: make dictionary")


if __name__ == "__main__":
    with start(ephemeral=True, durable=False) as postgres:
        asyncio.run(check(postgres.url()))
