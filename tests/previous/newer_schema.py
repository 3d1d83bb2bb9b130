"""A plugin for another release's pytest: wherever its tests migrate, the `imctl` in IM_NEWER_IMCTL does.

It is loaded into an environment that knows nothing of this one, and so imports nothing of it.
"""

import asyncio
import os

import pytest


async def upgrade(url: str, to: str = "head", **_more: object) -> str:
    """As `migrations.upgrade`, whatever release the caller is of."""
    environment = {**os.environ, "DATABASE_URL": url}
    process = await asyncio.create_subprocess_exec(
        os.environ["IM_NEWER_IMCTL"], "migrate", to, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode())
    return to


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Before any fixture runs."""
    from manager.repository import migrations

    migrations.upgrade = upgrade
