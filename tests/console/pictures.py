"""Makes the pictures of docs/console.md:  python -m tests.console.pictures"""

import asyncio
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import asyncpg
from PIL import Image
from playwright.async_api import async_playwright, expect

from manager.embedded import start
from manager.repository import migrations
from manager.settings import Settings
from tests.conftest import admitted, at
from tests.console.conftest import CHROMIUM, served
from tests.console.scene import NARROW, Console, arranged, looking, measured, stir
from tests.wire.fleet import Fleet

IMAGES = Path(__file__).parents[2] / "docs/images"
SIZE = (1280, 720)
COLOURS = 96  # which takes a third of the bytes


async def main() -> None:
    """A fleet of an afternoon, looked at from four sides."""
    with start(ephemeral=True, durable=False) as postgres:
        name = "im_pictures"
        connection = await asyncpg.connect(postgres.url())
        await connection.execute(f"create database {name}")
        await connection.close()
        await migrations.upgrade(at(postgres.url(), database=name))
        database = await admitted(at(postgres.url(), database=name))
        lasting = timedelta(hours=1)
        settings = Settings(
            database_url=database.url,
            bind=("127.0.0.1",),
            port=0,
            reaper_interval=timedelta(seconds=0.5),
            timeout=lasting,
            vllm_timeout=lasting,
            warmpool_timeout=lasting,
            grace=timedelta(days=1),
            vllm_grace=timedelta(days=1),
            outage_grace=timedelta(0),
            drain=timedelta(seconds=0.2),
        )
        async with served(settings, database) as fleet:
            await taken(fleet)


async def taken(fleet: Fleet) -> None:
    """The pictures."""
    scene = await arranged(fleet)
    await fleet.age(scene.models[1], scene.browsers[4])
    await measured(fleet, scene.models[0], minutes=360)
    stirring = asyncio.create_task(stir(fleet, scene, 0.3))
    await asyncio.sleep(4)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        async with looking(browser, fleet, SIZE, color_scheme="light") as console:
            await console.open("/")
            await console.press("j", "j")
            await shot(console, "tree")
            await console.open(f"/instances/{scene.models[0]}?range=6h")
            await console.page.locator(".chart canvas").first.wait_for()
            await console.page.set_viewport_size({"width": SIZE[0], "height": 1180})
            await shot(console, "instance")
            await console.page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
            await console.open("/events")
            await shot(console, "events")
        async with looking(browser, fleet, SIZE, color_scheme="dark") as console:
            await console.open("/?view=table&sort=host&q=-type:manager")
            await shot(console, "table")
            await console.open(f"/instances/{scene.backends[3]}")
            await console.press("x")
            await expect(console.page.get_by_role("dialog")).to_be_visible()
            await shot(console, "kill")
        async with looking(browser, fleet, NARROW, color_scheme="light", device_scale_factor=1.5) as console:
            await console.open("/")
            await shot(console, "phone")
        await browser.close()
    stirring.cancel()


async def shot(console: Console, name: str) -> None:
    """What is seen, once it has settled."""
    await asyncio.sleep(0.7)
    IMAGES.mkdir(exist_ok=True)
    shown = Image.open(BytesIO(await console.page.screenshot()))
    shown.convert("RGB").quantize(COLOURS).save(IMAGES / f"{name}.png", optimize=True)
    print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    asyncio.run(main())
