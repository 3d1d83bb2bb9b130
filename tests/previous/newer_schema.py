"""A plugin for another release's pytest: wherever its tests migrate, the `imctl` of the tree in IM_NEWER does.

IM_EXCEPTED holds, as JSON, the tests that have to fail and why: one that passes, or is not there, is a failure too. The
plugin is loaded into an environment that knows nothing of that tree, and so imports nothing of it.
"""

import asyncio
import json
import os

import pytest


async def upgrade(url: str, to: str = "head", **_more: object) -> str:
    """As `migrations.upgrade`, whatever release the caller is of."""
    environment = {**os.environ, "DATABASE_URL": url}
    newer = os.environ["IM_NEWER_PYTHON"], "-m", "manager", "migrate", to
    process = await asyncio.create_subprocess_exec(
        *newer, cwd=os.environ["IM_NEWER"], env=environment, stderr=asyncio.subprocess.PIPE
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before any is left out by -k or -m."""
    excepted: dict[str, str] = json.loads(os.environ["IM_EXCEPTED"])
    files = {item.nodeid.partition("::")[0] for item in items}
    missing = {name for name in excepted if name.partition("::")[0] in files}
    for item in items:
        for name in (item.nodeid, item.nodeid.partition("[")[0]):
            if name in excepted:
                missing.discard(name)
                item.add_marker(pytest.mark.xfail(reason=excepted[name], strict=True))
                break
    if missing and not any("::" in each for each in config.args):
        raise pytest.UsageError(f"excepted, and not there: {', '.join(sorted(missing))}")
