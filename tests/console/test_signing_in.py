"""A manager that asks who calls: the console asks its reader, once, and goes on."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from manager.domain.principal import Role
from manager.domain.token import new_token
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.console.scene import Console, looking
from tests.credentials import bearing, granted, revoked
from tests.wire.caller import VERSION, calling
from tests.wire.fleet import Fleet


@pytest.fixture
async def guarded(settings: Settings, database: Database) -> AsyncIterator[Fleet]:
    """A manager that asks who calls, and an admin who fills it."""
    token = await granted(database, Role.ADMIN)
    async with (
        serving(settings.model_copy(update={"auth": True})) as started,
        calling(started.addresses[0], (*VERSION, *bearing(token))) as caller,
    ):
        yield Fleet(database, started, caller)


async def enter(console: Console, token: str) -> None:
    """Answers the question."""
    dialog = console.page.get_by_role("dialog", name="Who are you?")
    await dialog.get_by_label("Token").fill(token)
    await dialog.get_by_role("button", name="Go on").click()


async def test_a_token_is_asked_for_once_and_no_script_sees_it_again(
    browser: Browser, guarded: Fleet, database: Database
) -> None:
    instance = await guarded.add(hostname="gpu-7")
    token = await granted(database, Role.READER)
    async with looking(browser, guarded) as console:
        await console.page.goto(console.origin)
        await enter(console, new_token())
        alert = console.page.get_by_role("dialog").get_by_role("alert")
        await expect(alert).to_contain_text("not valid")
        await enter(console, token)
        await expect(console.page.get_by_role("dialog")).to_have_count(0)
        await expect(console.line(instance)).to_be_visible()
        assert token not in await console.page.evaluate("document.cookie + JSON.stringify(localStorage)")
        await console.page.reload()
        await expect(console.line(instance)).to_be_visible()
        await console.page.goto(f"{console.origin}/instances/{instance}")
        await console.page.get_by_role("button", name="Kill…").click()
        await console.page.get_by_role("button", name="Kill it").click()
        await expect(console.page.get_by_role("alert")).to_contain_text("role reader")
        await revoked(database, token)
        await expect(console.page.get_by_role("dialog", name="Who are you?")).to_be_visible(timeout=15_000)
        console.wrong[:] = [each for each in console.wrong if not re.search("40[13]", each)]  # as it was asked for
