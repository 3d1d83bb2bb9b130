"""What tests of the console have in common: a tab, and fleets to look at."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.wire.fleet import Fleet, debug_port

WIDE, NARROW = (1440, 900), (360, 740)


@dataclass
class Console:
    """A tab of the console."""

    page: Page
    fleet: Fleet
    wrong: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """Where it is served."""
        return f"http://{self.fleet.serving.http[0]}"

    async def open(self, path: str = "/") -> None:
        """Goes there, and waits until the fleet is loaded."""
        await self.page.goto(self.origin + path)
        await expect(self.page.locator(".totals a").first).to_be_visible()
        await expect(self.page.locator(".loading")).to_have_count(0)

    def line(self, text: str) -> Locator:
        """The line of an instance, or the lines that show a text."""
        if len(text) == 36:
            return self.page.locator(f"[id='line-{text}']")
        return self.page.locator(".line", has_text=text)

    async def lines(self) -> list[str]:
        """What is drawn, from the top."""
        found: list[str] = await self.page.evaluate(
            """() => [...document.querySelectorAll('.line')]
                .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((line) => line.innerText)"""
        )
        return found

    async def press(self, *keys: str) -> None:
        """Presses keys, one after another."""
        for each in keys:
            await self.page.keyboard.press(each)

    @property
    def path(self) -> str:
        """Where one is, with the query."""
        parts = urlsplit(self.page.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")


@asynccontextmanager
async def looking(browser: Browser, fleet: Fleet, size: tuple[int, int] = WIDE, **how: Any) -> AsyncIterator[Console]:
    """A tab of its own. Nothing may go wrong in it, and nobody else may be asked for anything."""
    width, height = size
    context = await browser.new_context(viewport={"width": width, "height": height}, **how)
    page = await context.new_page()
    page.set_default_timeout(10_000)
    console = Console(page, fleet)

    def asked(request: Request) -> None:
        console.asked.append(request.url)

    def logged(message: ConsoleMessage) -> None:
        # who falls silent between two questions is not found by the second, and the browser complains of the answer
        if message.type == "error" and not message.location["url"].endswith("/GetHealthCheck"):
            console.wrong.append(message.text)

    page.on("request", asked)
    page.on("pageerror", lambda error: console.wrong.append(str(error.stack)))
    page.on("console", logged)
    try:
        yield console
        assert not console.wrong, console.wrong
        outside = [each for each in console.asked if not each.startswith((console.origin, "data:"))]
        assert not outside, outside
    finally:
        await context.close()


async def register(fleet: Fleet, instances: list[pb.InstanceDescription]) -> list[str]:
    """Registers many at once; their ids."""
    for start in range(0, len(instances), 1_000):
        await fleet.register(instances[start : start + 1_000])
    return [each.instance_id for each in instances]


def crowd(count: int, parent: str = "", **fields: Any) -> list[pb.InstanceDescription]:
    """So many of a kind."""
    fields.setdefault("instance_type", pb.CHROME_BROWSER)
    return [pb.InstanceDescription(instance_id=str(new_id()), parent_id=parent, **fields) for _ in range(count)]


@dataclass
class Scene:
    """A small fleet such as people have: backends with browsers, warm pools, and models."""

    backends: list[str]
    browsers: list[str]
    pool: list[str]
    models: list[str]


async def arranged(fleet: Fleet) -> Scene:
    """Registers it."""
    backends = await register(
        fleet,
        [
            pb.InstanceDescription(
                instance_id=str(new_id()),
                instance_type=pb.BROWSER_BACKEND,
                hostname=f"backend-{place}",
                labels={"team": ("search", "shop")[place % 2], "zone": f"eu-{place % 3}"},
            )
            for place in range(4)
        ],
    )
    browsers = [
        pb.InstanceDescription(
            instance_id=str(new_id()),
            instance_type=pb.CHROME_BROWSER,
            hostname=f"backend-{place}",
            parent_id=backend,
            services=[debug_port(9222 + number, f"10.0.{place}.1", f"/devtools/browser/{new_id()}")],
        )
        for place, backend in enumerate(backends)
        for number in range(3 + place)
    ]
    pool = [
        *crowd(34, hostname="pool-1", instance_type=pb.WARMPOOL_CHROME_BROWSER),
        *crowd(6, hostname="edge-2", instance_type=pb.WARMPOOL_PROXY),
    ]
    models = [
        pb.InstanceDescription(
            instance_id=str(new_id()),
            instance_type=pb.VLLM,
            hostname=f"gpu-{place}",
            labels={"model": ("large", "small")[place % 2], "zone": "eu-1"},
            services=[
                pb.Service(service_type=pb.VLLM_OPENAI_COMPATIBLE, host=f"10.1.0.{place}", port=8000, path="/v1")
            ],
        )
        for place in range(3)
    ]
    return Scene(backends, await register(fleet, browsers), await register(fleet, pool), await register(fleet, models))


async def stir(fleet: Fleet, scene: Scene, pause: float = 0.1) -> None:
    """Lets browsers come and go, for ever."""
    mine: list[str] = []
    while True:
        host = random.choice(["backend-0", "backend-1"])
        mine.append(await fleet.add(hostname=host, parent_id=random.choice(scene.backends)))
        if len(mine) > 10:
            await fleet.kill(mine.pop(0), note="its work is done")
        await asyncio.sleep(pause)


async def now(fleet: Fleet) -> str:
    """This moment, by the database's clock, as an address has it; what happens next is after it."""
    moment: datetime = await fleet.database.value("select date_trunc('milliseconds', clock_timestamp())")
    await fleet.database.run("select pg_sleep(0.005)")
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


async def measured(fleet: Fleet, *instances: str, minutes: int = 60) -> None:
    """Lets instances have measured everything at the same moments, once a minute up to now; nothing in the middle
    third."""
    await fleet.database.run("select prepare_metrics(1)")
    at = "clock_timestamp() - ($2::int - n) * interval '1 minute'"
    some = "from generate_series(1, $2::int) n, unnest($1::uuid[]) one where (n < $2::int / 3 or n > $2::int * 2 / 3)"
    twice = some.replace(" where", ", generate_series(0, 1) gpu where")
    for statement in (
        f"insert into system_metrics select {at}, one, now(), (6 + 2 * sin(n / 7.0)) * 1e9, 16e9::bigint {some}",
        f"insert into proxy_metrics select {at}, one, now(), 40 + 20 * sin(n / 5.0), n * 30, n * 4e7::bigint,"
        f" n * 9e7::bigint {some}",
        f"insert into gpu_metrics select {at}, one, now(), gpu, (30 + 8 * gpu + 3 * sin(n / 9.0)) * 1e9,"
        f" 80e9::bigint, 55 + 15 * gpu + 20 * sin(n / 4.0) {twice}",
        f"insert into llm_metrics select {at}, one, now(), n * 12, n * 9000, n * 4000 {some}",
    ):
        await fleet.database.run(statement, list(instances), minutes)
