"""For everybody: axe finds nothing, in light and dark, on a phone and on a screen, and nobody else is asked."""

import asyncio
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Browser, Page, expect

from tests.console.scene import NARROW, WIDE, arranged, looking, measured, now, stir
from tests.wire.fleet import Fleet

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

every_look = pytest.mark.parametrize(
    ("size", "scheme"),
    [(WIDE, "light"), (WIDE, "dark"), (NARROW, "light"), (NARROW, "dark")],
    ids=["wide light", "wide dark", "narrow light", "narrow dark"],
)


async def faults(page: Page) -> list[str]:
    """What axe finds."""
    await page.evaluate(AXE_SCRIPT)
    found: dict[str, Any] = await page.evaluate(
        "(rules) => axe.run({ runOnly: rules, resultTypes: ['violations'] })", RULES
    )
    return [
        f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


async def fits(page: Page) -> bool:
    """Whether nothing stands out to the side."""
    wide: bool = await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return wide


@every_look
async def test_every_page_is_for_everybody(browser: Browser, fleet: Fleet, size: tuple[int, int], scheme: Any) -> None:
    scene = await arranged(fleet)
    model, dead = scene.models[0], scene.browsers[0]
    await measured(fleet, model)
    moment = await now(fleet)
    await fleet.kill(scene.backends[0], note="enough")
    await fleet.age(scene.models[1])
    stirring = asyncio.create_task(stir(fleet, scene, 0.2))
    try:
        async with looking(browser, fleet, size, color_scheme=scheme, reduced_motion="reduce") as console:
            page = console.page
            for path, ready in (
                ("/", ".line"),
                ("/?view=table&q=host:backend", ".line"),
                (f"/?at={moment}", ".line.dead, .line.healthy"),
                (f"/instances/{model}", ".chart"),
                (f"/instances/{dead}", ".death"),
                ("/events", ".event"),
            ):
                await console.open(path)
                await page.locator(ready).first.wait_for()
                theme = await page.evaluate("document.documentElement.dataset.theme")
                assert theme == scheme
                assert not await faults(page), path
                assert await fits(page), path
            await console.open("/")
            await console.press("?")
            await expect(page.get_by_role("dialog")).to_be_visible()
            assert not await faults(page)
            await console.open(f"/instances/{scene.backends[3]}")
            await console.press("x")
            await expect(page.get_by_role("dialog")).to_be_visible()
            assert not await faults(page)
            assert await fits(page)
    finally:
        stirring.cancel()


@every_look
async def test_an_empty_fleet_is_for_everybody_too(
    browser: Browser, fleet: Fleet, size: tuple[int, int], scheme: Any
) -> None:
    async with looking(browser, fleet, size, color_scheme=scheme) as console:
        await console.open("/")
        await console.page.get_by_role("region", name="Nobody is registered yet").wait_for()
        assert not await faults(console.page)
        assert await fits(console.page)


async def test_a_phone_shows_who_and_how_and_where(browser: Browser, fleet: Fleet) -> None:
    scene = await arranged(fleet)
    async with looking(browser, fleet, NARROW) as console:
        for view in ("/?q=type:vllm", "/?view=table&q=type:vllm"):
            await console.open(view)
            line = console.line(scene.models[0])
            for part in (".cell.instance", ".cell.state", ".cell.host"):
                await expect(line.locator(part)).to_be_in_viewport()
            await expect(line).to_contain_text("VLLM")


async def test_a_theme_that_was_chosen_stays(browser: Browser, fleet: Fleet) -> None:
    async with looking(browser, fleet, color_scheme="light") as console:
        await console.open()
        for name, theme in (("Theme: auto", "light"), ("Theme: light", "dark")):
            await console.page.get_by_role("button", name=name).click()
            await expect(console.page.locator("html")).to_have_attribute("data-theme", theme)
        await console.page.reload()
        await expect(console.page.locator("html")).to_have_attribute("data-theme", "dark")


async def test_a_degraded_state_is_said_on_every_page(browser: Browser, fleet: Fleet) -> None:
    await fleet.database.run(
        "update control set grace_from = now() - interval '1 minute', grace_at = now(),"
        " grace_until = now() + interval '1 hour'"
    )
    async with looking(browser, fleet) as console:
        for path in ("/", "/events"):
            await console.open(path)
            await expect(console.page.get_by_role("status").first).to_contain_text("nobody expires", timeout=15_000)
