"""Whether the tables in the code are those that the migrations make: `alembic check` on a database of its own."""

import asyncio

from manager.embedded import start
from manager.repository import migrations


async def check(url: str) -> None:
    """Migrates and compares; raises where they differ."""
    await migrations.upgrade(url)
    await migrations.check(url)


if __name__ == "__main__":
    with start(ephemeral=True, durable=False) as postgres:
        asyncio.run(check(postgres.url()))
