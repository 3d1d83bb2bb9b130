"""The console in Debian's Chromium, before a real server with a fleet of its own that changes."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from playwright.async_api import Browser, async_playwright

from manager.settings import Settings
from tests.conftest import Database, serving
from tests.console.scene import Console, looking
from tests.wire.caller import calling
from tests.wire.fleet import Fleet

CHROMIUM = shutil.which("chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser these tests say so."""
    if CHROMIUM is None:
        missing = pytest.mark.skip(reason="there is no chromium on this machine: apt-get install chromium")
        for each in items:
            if "browser" in getattr(each, "fixturenames", ()):
                each.add_marker(missing)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield launched
        await launched.close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """As ever, with a reaper that comes by itself, and patience for those whom nobody keeps alive."""
    lasting = timedelta(hours=1)
    return settings.model_copy(
        update={
            "reaper_interval": timedelta(seconds=0.2),
            "timeout": lasting,
            "vllm_timeout": lasting,
            "warmpool_timeout": lasting,
            "grace": timedelta(days=1),
            "vllm_grace": timedelta(days=1),
            "warmpool_grace": timedelta(days=1),
            "outage_grace": timedelta(0),
            "check_load": 1e9,
        }
    )


@asynccontextmanager
async def served(settings: Settings, database: Database) -> AsyncIterator[Fleet]:
    """A manager, its database, and somebody who calls it."""
    async with serving(settings) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        await fleet.alone()
        yield fleet


@pytest.fixture
async def fleet(settings: Settings, database: Database) -> AsyncIterator[Fleet]:
    """A manager for one test alone."""
    async with served(settings, database) as one:
        yield one


@pytest.fixture
async def console(browser: Browser, fleet: Fleet) -> AsyncIterator[Console]:
    """A tab on it. In the end nothing has gone wrong in it, and nothing was asked of anybody else."""
    async with looking(browser, fleet) as one:
        yield one
        await asyncio.sleep(0)
