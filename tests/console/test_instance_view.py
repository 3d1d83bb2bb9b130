"""The page of an instance: who it is, how it is, what it measured, what happened to it, and why it died."""

import asyncio
import re
from datetime import timedelta

from playwright.async_api import Browser, expect

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.settings import Settings
from tests.conftest import Database
from tests.console.conftest import served
from tests.console.scene import Console, crowd, looking, measured, register
from tests.wire.fleet import Fleet, debug_port, request


async def test_identity_parents_children_and_services_are_shown(console: Console, fleet: Fleet) -> None:
    top = await fleet.add(instance_type=pb.BROWSER_BACKEND, hostname="backend-1")
    middle = await fleet.add(
        parent_id=top, hostname="host-7", labels={"team": "search"}, services=[debug_port(path="/devtools/browser/x")]
    )
    bottom = await fleet.add(parent_id=middle)
    await console.open(f"/instances/{middle}")
    page = console.page
    await expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(f"CHROME_BROWSER\\s*{middle}"))
    await expect(page.get_by_role("navigation", name="Those above it")).to_contain_text(f"{top[:8]}…{top[-6:]}")
    await expect(page.get_by_role("region", name="Children")).to_contain_text(f"{bottom[:8]}…{bottom[-6:]}")
    facts = page.locator(".facts")
    for text in ("host-7", "team=search", "3600 s"):
        await expect(facts).to_contain_text(text)
    await expect(page.get_by_role("region", name="Services")).to_contain_text("10.0.0.1:9222/devtools/browser/x")
    await page.get_by_role("region", name="Children").get_by_role("link").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(bottom)
    above = page.get_by_role("navigation", name="Those above it").get_by_role("link")
    await expect(above).to_have_count(2)
    await above.first.click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(top)


async def test_where_a_service_is_goes_to_the_clipboard(browser: Browser, fleet: Fleet) -> None:
    one = await fleet.add(services=[debug_port(path="/devtools/browser/x")])
    async with looking(browser, fleet, permissions=["clipboard-read", "clipboard-write"]) as console:
        await console.open(f"/instances/{one}")
        for name, text in (
            ("Copy 10.0.0.1:9222 of CHROME_DEBUG_PORT", "10.0.0.1:9222"),
            ("Copy address with its path", "ws://10.0.0.1:9222/devtools/browser/x"),
            ("Copy its id", one),
        ):
            button = console.page.get_by_role("button", name=name)
            await button.click()
            await expect(button).to_have_text("copied")
            assert await console.page.evaluate("navigator.clipboard.readText()") == text


async def test_health_has_its_age_and_the_deadline_and_follows_the_checks(
    browser: Browser, settings: Settings, database: Database
) -> None:
    brief = settings.model_copy(update={"timeout": timedelta(seconds=60), "grace": timedelta(hours=1)})
    async with served(brief, database) as fleet, looking(browser, fleet) as console:
        one = await fleet.add()
        await console.open(f"/instances/{one}")
        facts = console.page.locator(".facts")
        await expect(facts).to_contain_text(re.compile(r"Last health check\s*\d+ s ago"))
        await expect(facts).to_contain_text(re.compile(r"Stale in\s*(1 min|\d\d s)"))
        await asyncio.sleep(2)
        await expect(facts).to_contain_text(re.compile(r"Last health check\s*([2-9]|\d\d) s ago"))
        await database.run(
            "update heartbeat set last_seen = last_seen - interval '2 minutes' where instance_id = $1", one
        )
        await expect(console.page.locator(".title")).to_contain_text("stale")
        await expect(facts).to_contain_text("it dies unless it is heard again")
        await fleet.caller.tries.TryHealthCheck(request(one))
        await expect(console.page.locator(".title")).to_contain_text("healthy")


async def test_what_was_measured_is_drawn_over_each_range(console: Console, fleet: Fleet) -> None:
    one = await fleet.add(instance_type=pb.VLLM)
    await measured(fleet, one, minutes=300)
    await console.open(f"/instances/{one}")
    charts = console.page.get_by_role("figure")
    await expect(charts).to_have_count(8)
    for title in ("Memory", "Connections", "Traffic", "GPU memory", "GPU use", "Requests", "Tokens"):
        await expect(console.page.locator(".chart", has=console.page.get_by_text(title, exact=True))).to_have_count(1)
    memory = console.page.get_by_role("img", name=re.compile("^Memory, latest: used [3-8].*GiB, of 14.9 GiB"))
    await expect(memory).to_be_visible()
    ranges = console.page.get_by_role("group", name="Range")
    names = await ranges.get_by_role("button").all_inner_texts()
    assert names == ["15m", "1h", "6h", "1d", "7d", "30d", "90d", "1y"]
    for name in names:
        await ranges.get_by_role("button", name=name, exact=True).click()
        await expect(charts).to_have_count(8)
        assert f"range={name}" in console.path
    await console.open(f"/instances/{one}?range=6h")
    await expect(ranges.get_by_role("button", name="6h")).to_have_attribute("aria-pressed", "true")
    await console.page.locator(".chart canvas").first.wait_for()
    drawn = await console.page.evaluate("""() => {
        const canvas = document.querySelector('.chart canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.filter((value, place) => place % 4 === 3 && value > 0).length;
    }""")
    assert drawn > 500


async def test_what_all_below_it_measured_is_drawn_as_one(console: Console, fleet: Fleet) -> None:
    top = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    await measured(fleet, *[await fleet.add(instance_type=pb.VLLM, parent_id=top) for _ in range(2)], minutes=60)
    await console.open(f"/instances/{top}?range=1h")
    await expect(console.page.get_by_role("region", name="Metrics")).to_contain_text("Nothing was measured")
    whom = console.page.get_by_role("group", name="Of whom")
    await whom.get_by_role("button", name="with all below it").click()
    await expect(console.page.get_by_role("figure")).to_have_count(8)
    await expect(console.page.get_by_role("img", name=re.compile("^Memory, latest: .* of 29.8 GiB"))).to_be_visible()
    await expect(console.page.get_by_role("img", name=re.compile("^GPU use, latest: all GPUs"))).to_be_visible()
    assert "below=1" in console.path
    await whom.get_by_role("button", name="it alone").click()
    await expect(console.page.get_by_role("figure")).to_have_count(0)


async def test_who_measured_nothing_says_so(console: Console, fleet: Fleet) -> None:
    await console.open(f"/instances/{await fleet.add()}")
    await expect(console.page.get_by_role("region", name="Metrics")).to_contain_text("Nothing was measured")


async def test_its_events_are_listed_and_new_ones_come_by_themselves(console: Console, fleet: Fleet) -> None:
    parent, child = await fleet.add(), await fleet.add()
    await console.open(f"/instances/{child}")
    events = console.page.get_by_role("region", name="Events").get_by_role("listitem")
    await expect(events).to_have_count(1)
    await expect(events).to_contain_text("registered by ipv4:127.0.0.1")
    await fleet.caller.tries.TryAddChild(pb.AddChildRequest(parent_id=parent, child_id=child))
    await expect(events).to_have_count(2)
    await expect(events.first).to_contain_text(f"became a child of {parent[:8]}")


async def test_why_it_died_leads_to_where_it_began(console: Console, fleet: Fleet) -> None:
    root, middle, bottom = await fleet.chain(3)
    await console.open(f"/instances/{bottom}")
    await expect(console.page.get_by_role("button", name="Kill…")).to_be_visible()
    await fleet.kill(root, note="the rack is moved")
    why = console.page.get_by_role("region", name="Why it died")
    await expect(why).to_contain_text("It died with its parent")
    await expect(why).to_contain_text("the rack is moved")
    await expect(why).to_contain_text("It began there, by ipv4:127.0.0.1")
    chain = why.get_by_role("listitem")
    await expect(chain).to_have_count(2)
    await expect(chain.first).to_contain_text(middle[-6:])
    await expect(chain.last).to_contain_text("was killed")
    await expect(console.page.get_by_role("button", name="Kill…")).to_have_count(0)
    await expect(console.page.get_by_role("navigation", name="Those above it").get_by_role("link")).to_have_count(2)
    await chain.last.get_by_role("link").click()
    await expect(why).to_contain_text("It was killed")
    await console.page.reload()
    await expect(why).to_contain_text("the rack is moved")


async def test_who_expired_is_said_to_have_been_silent(
    browser: Browser, settings: Settings, database: Database
) -> None:
    hard = settings.model_copy(update={"grace": timedelta(0)})
    async with served(hard, database) as fleet, looking(browser, fleet) as console:
        one = await fleet.add(timeout_ms=1_000)
        await console.open(f"/instances/{one}")
        await fleet.age(one)
        why = console.page.get_by_role("region", name="Why it died")
        await expect(why).to_contain_text("It was silent for longer than its timeout and grace")


async def test_an_id_that_never_was_is_said_to_be_unknown(console: Console, fleet: Fleet) -> None:
    for wrong, told in ((str(new_id()), "was ever registered"), ("nonsense", "must be a UUID")):
        await console.open(f"/instances/{wrong}")
        await expect(console.page.get_by_role("alert")).to_contain_text(told)
    console.wrong.clear()  # a browser complains of every answer that is not 200


async def test_many_children_are_counted_and_the_newest_shown(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    await register(fleet, crowd(100, parent))
    await console.open(f"/instances/{parent}")
    children = console.page.get_by_role("region", name="Children")
    await expect(children.get_by_role("heading")).to_contain_text("100")
    await expect(children.get_by_role("listitem")).to_have_count(30)
    await expect(children).to_contain_text("and 70 more")
