"""The fleet in a browser: tree and table, live, searched, by keyboard, and large."""

import asyncio
import re
import shutil
from time import perf_counter

import pytest
from playwright.async_api import Browser, expect

from manager.pb import instance_manager_pb2 as pb
from manager.settings import Settings
from tests.conftest import Database
from tests.console.conftest import served
from tests.console.scene import Console, arranged, crowd, looking, register, stir
from tests.wire.fleet import Fleet

# the tree


async def test_children_stand_below_their_parents_and_are_folded_away(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND, hostname="backend-1")
    child = await fleet.add(parent_id=parent)
    grandchild = await fleet.add(parent_id=child)
    await console.open()
    levels = [await console.line(each).get_attribute("aria-level") for each in (parent, child, grandchild)]
    assert levels == ["1", "2", "3"]
    await expect(console.line(parent)).to_have_attribute("aria-expanded", "true")
    await console.line(parent).locator(".twisty").click()
    await expect(console.line(child)).to_have_count(0)
    await expect(console.line(parent)).to_have_attribute("aria-expanded", "false")


async def test_large_groups_of_siblings_are_one_line_until_they_are_opened(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    await register(fleet, crowd(25, parent, hostname="a"))
    few = await register(fleet, crowd(20, parent, instance_type=pb.WARMPOOL_PROXY))
    await console.open()
    group = console.page.locator(".line.group")
    await expect(group).to_have_count(1)
    await expect(group).to_contain_text("CHROME_BROWSER 25")
    await expect(group).to_contain_text("1 host")
    await expect(console.line(few[0])).to_be_visible()
    await group.locator(".twisty").click()
    await expect(group).to_have_attribute("aria-expanded", "true")
    assert sum("CHROME_BROWSER" in each for each in await console.lines()) >= 20


# the table


async def test_the_table_is_sorted_by_any_column_and_the_address_says_so(console: Console, fleet: Fleet) -> None:
    for host in ("b", "a", "c"):
        await fleet.add(hostname=f"host-{host}")
    await console.open("/?view=table&q=type:chrome")
    head = console.page.get_by_role("columnheader", name="Host")
    assert await head.get_attribute("aria-sort") == "none"
    for order, hosts in (("ascending", "abc"), ("descending", "cba")):
        await head.get_by_role("button").click()
        await expect(head).to_have_attribute("aria-sort", order)
        shown = [re.search(r"host-(\w)", each) for each in await console.lines()]
        assert [found and found[1] for found in shown] == list(hosts)
    assert "sort=-host" in console.path
    for name in ("Instance", "Type", "State", "Age", "Children", "Services", "Labels"):
        await console.page.get_by_role("columnheader", name=name).get_by_role("button").click()
        assert len(await console.lines()) == 3


async def test_every_view_and_filter_can_be_linked_to(console: Console, fleet: Fleet) -> None:
    await arranged(fleet)
    await console.open()
    await console.page.get_by_role("button", name="Table").click()
    await console.page.get_by_role("columnheader", name="Host").get_by_role("button").click()
    await console.page.get_by_role("searchbox").fill("type:vllm host:gpu-1")
    await expect(console.page.locator(".line")).to_have_count(1)
    await console.page.goto(console.page.url)
    await expect(console.page.locator(".line")).to_have_count(1)
    await expect(console.page.get_by_role("columnheader", name="Host")).to_have_attribute("aria-sort", "ascending")
    await console.page.locator(".line a").first.click()
    await expect(console.page.get_by_role("heading", level=1)).to_contain_text("VLLM")
    await console.page.go_back()
    await expect(console.page.get_by_role("searchbox")).to_have_value("type:vllm host:gpu-1")


# live


async def test_what_changes_is_seen_as_it_changes(console: Console, fleet: Fleet) -> None:
    await console.open()
    alive = console.page.locator(".totals a").first
    await expect(alive).to_have_text("1 alive")
    one = await fleet.add(instance_type=pb.VLLM, hostname="gpu-7")
    await expect(console.line(one)).to_contain_text("healthy")
    await expect(alive).to_have_text("2 alive")
    await fleet.age(one)
    await expect(console.line(one)).to_contain_text("stale")
    await fleet.kill(one)
    await expect(console.line(one)).to_contain_text("dead")
    await expect(alive).to_have_text("1 alive")
    await expect(console.page.locator(".totals a.dead")).to_have_text(re.compile("1 just died"))


async def test_the_header_has_totals_by_type_and_state_and_each_is_a_search(console: Console, fleet: Fleet) -> None:
    scene = await arranged(fleet)
    await console.open()
    totals = console.page.get_by_role("navigation", name="Totals")
    for text in ("WARMPOOL_CHROME_BROWSER 34", "BROWSER_BACKEND 4", "VLLM 3", "INSTANCE_MANAGER 1", "66 healthy"):
        await expect(totals).to_contain_text(text)
    await fleet.age(scene.models[0])
    await expect(totals).to_contain_text("1 stale")
    await totals.get_by_role("link", name="VLLM").click()
    await expect(console.page.get_by_role("searchbox")).to_have_value("type:vllm")
    await expect(console.page.locator(".line")).to_have_count(3)
    await totals.get_by_role("link", name="stale").click()
    await expect(console.page.locator(".line")).to_have_count(1)


async def test_a_tab_has_one_stream_whatever_it_shows(console: Console, fleet: Fleet) -> None:
    scene = await arranged(fleet)
    await console.open()
    await console.line(scene.models[0]).locator("a").click()
    await console.page.get_by_role("link", name="Events", exact=True).click()
    await console.page.get_by_role("link", name="Fleet").click()
    await expect(console.line(scene.models[0])).to_be_visible()
    assert sum("/live" in each for each in console.asked) == 1


async def test_a_busy_fleet_is_drawn_a_few_times_a_second(console: Console, fleet: Fleet) -> None:
    scene = await arranged(fleet)
    await console.open()
    await console.page.evaluate("""() => {
        window.drawn = 0;
        new MutationObserver(() => { window.drawn += 1; })
            .observe(document.querySelector('.totals'), { subtree: true, childList: true, characterData: true });
    }""")
    begun = perf_counter()
    stirring = [asyncio.create_task(stir(fleet, scene, 0.005)) for _ in range(3)]
    await asyncio.sleep(3)
    for each in stirring:
        each.cancel()
    await asyncio.gather(*stirring, return_exceptions=True)
    drawn = await console.page.evaluate("window.drawn")
    assert 3 <= drawn <= 4 * (perf_counter() - begun) + 4


async def test_a_pause_holds_what_is_shown_and_a_resume_brings_all(console: Console, fleet: Fleet) -> None:
    await console.open()
    await console.page.get_by_role("button", name="Pause").click()
    one = await fleet.add()
    resume = console.page.get_by_role("button", name="Resume")
    await expect(resume).to_have_text("Resume (1 change)")
    await expect(console.line(one)).to_have_count(0)
    await resume.click()
    await expect(console.line(one)).to_be_visible()


async def test_a_lost_connection_is_said_and_what_was_missed_comes_with_the_next(
    browser: Browser, settings: Settings, database: Database
) -> None:
    async with served(settings, database) as fleet:
        ports = {"http_port": int(fleet.serving.http[0].rpartition(":")[2])}
        one = await fleet.add()
        tab = looking(browser, fleet)
        console = await tab.__aenter__()
        await console.open()
        await expect(console.line(one)).to_be_visible()
    lost = console.page.get_by_text("Connection lost.")
    await expect(lost).to_be_visible()
    async with served(settings.model_copy(update=ports), database) as fleet:
        other = await fleet.add()
        await fleet.kill(one)
        await expect(console.line(other)).to_be_visible(timeout=20_000)  # it tries anew after 1, 2 and 5 s
        await expect(lost).to_have_count(0)
        await expect(console.line(one)).to_have_count(1)  # struck out, since it has only just died
        await expect(console.line(one)).to_contain_text("dead")
        console.wrong.clear()  # a browser complains of every connection that it could not make
        await tab.__aexit__(None, None, None)


# search


@pytest.mark.parametrize(
    ("search", "count"),
    [
        ("type:vllm", 3),
        ("host:gpu-1", 1),
        ("state:healthy type:proxy", 6),
        ("label:team=shop", 2),
        ("label:team", 4),
        ("label:zone=eu-1 -type:vllm", 1),
        ("service:10.1.0.", 3),
        ("pool-1", 34),
        ('"backend-3"', 7),
        ("type:vllm host:nowhere", 0),
        ("type:", 66),
    ],
)
async def test_a_search_narrows_the_fleet(console: Console, fleet: Fleet, search: str, count: int) -> None:
    await arranged(fleet)
    await console.open("/?view=table")
    await console.page.get_by_role("searchbox").fill(search)
    help_line = console.page.locator("#search-help")
    await expect(help_line).to_have_text(f"{count} instance matches" if count == 1 else f"{count} instances match")
    grid = console.page.get_by_role("grid")
    await expect(grid).to_have_attribute("aria-rowcount", str(count + 1))
    if not count:
        await console.page.get_by_role("button", name="Clear the search").click()
        await expect(grid).to_have_attribute("aria-rowcount", "67")


async def test_a_search_shows_in_the_tree_who_matches_and_those_above(console: Console, fleet: Fleet) -> None:
    top = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    wanted, other = await fleet.add(parent_id=top, hostname="alpha"), await fleet.add(parent_id=top, hostname="beta")
    await console.open("/?q=host:alpha")
    await expect(console.line(wanted)).to_be_visible()
    await expect(console.line(top)).to_be_visible()
    await expect(console.line(other)).to_have_count(0)
    await expect(console.page.locator("#search-help")).to_have_text("1 instance matches")


async def test_a_key_that_is_none_is_said(console: Console, fleet: Fleet) -> None:
    await console.open("/?q=hots:x")
    await expect(console.page.locator("#search-help")).to_contain_text("there is no hots: here")


async def test_the_end_of_an_id_finds_it(console: Console, fleet: Fleet) -> None:
    one, _ = await fleet.add(), await fleet.add()
    await console.open(f"/?view=table&q=id:{one[-8:]}")
    await expect(console.page.locator(".line")).to_have_count(1)


# by keyboard


async def test_the_keyboard_alone_does_it_all(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    child = await fleet.add(parent_id=parent)
    await console.open()

    async def active(instance: str) -> None:
        await expect(console.line(instance)).to_have_attribute("aria-selected", "true")

    await console.press("j")
    await active(parent)
    await console.press("j")
    await active(child)
    await console.press("ArrowLeft")
    await active(parent)
    await console.press("ArrowLeft")
    await expect(console.line(child)).to_have_count(0)
    await console.press("ArrowRight")
    await expect(console.line(child)).to_be_visible()
    await console.press("ArrowRight")
    await active(child)
    await console.press("k")
    await active(parent)
    await console.press("x")
    dialog = console.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Kill 2 instances?")
    await console.press("Escape")
    await expect(dialog).to_have_count(0)
    await console.press("?")
    await expect(dialog).to_contain_text("Keys")
    await console.press("Escape")
    await console.press("/")
    await expect(console.page.get_by_role("searchbox")).to_be_focused()
    await console.page.keyboard.type("type:chrome")
    await expect(console.page.locator("#search-help")).to_have_text("1 instance matches")
    await console.press("Escape", "Escape")
    assert console.path == "/"
    await console.press("t")
    await expect(console.page.get_by_role("grid")).to_be_visible()
    await console.press("t")
    await expect(console.page.get_by_role("treegrid")).to_be_visible()
    await console.press("Home", "j", "Enter")
    await expect(console.page.get_by_role("heading", level=1)).to_contain_text(child)
    await console.press("x")
    await expect(dialog).to_contain_text("Kill this instance?")
    await console.press("Escape", "Escape")
    await expect(console.page.get_by_role("treegrid")).to_be_visible()
    await console.press("e")
    await expect(console.page.get_by_role("heading", name="Events")).to_be_visible()


async def test_the_active_line_is_told_to_those_who_do_not_see(console: Console, fleet: Fleet) -> None:
    one = await fleet.add()
    await console.open()
    grid = console.page.get_by_role("treegrid")
    await grid.focus()
    await console.press("Home")
    pointed = await grid.get_attribute("aria-activedescendant")
    assert pointed
    await expect(console.page.locator(f"[id='{pointed}']")).to_have_attribute("aria-selected", "true")
    assert pointed.endswith(one)


# nobody


async def test_an_empty_fleet_shows_how_the_first_is_registered(console: Console, fleet: Fleet) -> None:
    await console.open()
    empty = console.page.get_by_role("region", name="Nobody is registered yet")
    for command in ("imctl run", "CHROME_DEBUG_PORT=9222", "curl http://"):
        await expect(empty).to_contain_text(command)
    port = fleet.serving.addresses[0].rpartition(":")[2]
    await expect(empty).to_contain_text(f"--address 127.0.0.1:{port}")
    await fleet.add()
    await expect(empty).to_have_count(0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine: apt-get install curl")
async def test_the_call_that_an_empty_fleet_shows_works(console: Console, fleet: Fleet) -> None:
    await console.open()
    command = await console.page.locator(".command pre").last.inner_text()
    process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert b'"value": true' in told or b'"value":true' in told
    await expect(console.page.locator(".line", has_text="CHROME_BROWSER")).to_be_visible()


# many


async def painted_within(console: Console, view: str) -> float:
    """After how many seconds something of the fleet is seen; soon after, all of it is there."""
    await console.page.goto("about:blank")
    begun = perf_counter()
    await console.page.goto(console.origin + view, wait_until="commit")
    await console.page.locator(".line").first.wait_for()
    taken = perf_counter() - begun
    await expect(console.page.locator(".totals a").first).to_have_text("10,001 alive")
    return taken


async def test_ten_thousand_are_painted_within_a_second_and_drawn_only_where_one_looks(
    console: Console, fleet: Fleet
) -> None:
    ids = await register(fleet, crowd(10_000, hostname="host"))
    for view in ("/?view=table", "/"):
        painted = [await painted_within(console, view) for _ in range(5)]
        print(f"{view}: first paint after {min(painted):.2f} s at best, {max(painted):.2f} s at worst")
        assert min(painted) < 1
    await console.open("/?view=table&sort=instance")
    assert await console.page.locator(".line").count() < 80
    await console.press("End")
    await expect(console.line(sorted(ids)[-1])).to_be_visible()
    assert await console.page.locator(".line").count() < 80


async def test_ten_thousand_that_change_leave_the_page_its_time(console: Console, fleet: Fleet) -> None:
    """While twenty changes a second come in and somebody scrolls, most of the main thread's time is free.

    It is the thread's own time, so that it does not matter what else the machine does.
    """
    await register(fleet, crowd(9_900, hostname="host"))
    scene = await arranged(fleet)
    await console.open("/?view=table&sort=host")
    tools = await console.page.context.new_cdp_session(console.page)
    await tools.send("Performance.enable", {"timeDomain": "threadTicks"})

    async def busy() -> float:
        metrics = {each["name"]: each["value"] for each in (await tools.send("Performance.getMetrics"))["metrics"]}
        return float(metrics["TaskDuration"])

    stirring = asyncio.create_task(stir(fleet, scene, 0.05))
    await asyncio.sleep(1)
    begun, before = perf_counter(), await busy()
    for _ in range(20):
        await console.press("PageDown")
        await asyncio.sleep(0.15)
    share = (await busy() - before) / (perf_counter() - begun)
    stirring.cancel()
    print(f"the page's main thread was busy for {share:.0%} of the time")
    assert share < 0.5
