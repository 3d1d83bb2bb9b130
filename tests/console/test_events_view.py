"""The feed of events: as they come, filtered, and back through the kept history."""

import re

from playwright.async_api import expect

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.console.scene import Console, arranged, crowd, register
from tests.wire.fleet import Fleet


async def test_events_come_as_they_happen_above_those_that_were(console: Console, fleet: Fleet) -> None:
    first = await fleet.add(instance_type=pb.VLLM, hostname="gpu-7")
    await console.open("/events")
    told = console.page.get_by_role("list", name="Events").get_by_role("listitem")
    await expect(told.first).to_contain_text(re.compile(f"VLLM {first[:8]}…{first[-6:]}\\s+on gpu-7\\s+registered"))
    await fleet.kill(first)
    await expect(told.first).to_contain_text("died (killed)")
    await expect(told).to_have_count(3)


async def test_each_filter_and_all_together_narrow_the_feed_and_are_in_the_address(
    console: Console, fleet: Fleet
) -> None:
    scene = await arranged(fleet)
    await fleet.kill(scene.models[0])
    await console.open("/events")
    page = console.page
    told = page.get_by_role("list", name="Events").get_by_role("listitem")
    await page.get_by_role("checkbox", name="removed").check()
    await expect(told).to_have_count(1)
    await page.get_by_role("checkbox", name="removed").uncheck()
    await page.get_by_label("Type").select_option("VLLM")
    await expect(told).to_have_count(7)  # three came with a service each, and one died
    await page.get_by_label("Host").fill("gpu-0")
    await expect(told).to_have_count(3)
    assert console.path == "/events?type=VLLM&host=gpu-0"
    await console.open("/events?type=VLLM&host=gpu-0&kind=ADDED")
    await expect(told).to_have_count(1)
    await expect(page.get_by_role("checkbox", name="added", exact=True)).to_be_checked()
    await console.open("/events?kind=STALE")
    await expect(page.get_by_text("Nothing has happened that matches.")).to_be_visible()


async def test_the_events_of_a_subtree_are_those_of_all_that_were_ever_below(console: Console, fleet: Fleet) -> None:
    top, _, bottom = await fleet.chain(3)
    await fleet.kill(bottom)
    await console.open(f"/instances/{top}")
    await console.page.get_by_role("link", name="with all below it").click()
    told = console.page.get_by_role("list", name="Events").get_by_role("listitem")
    await expect(told).to_have_count(8)  # three came, two links of two, one died
    await console.page.get_by_role("checkbox", name="and all below it").uncheck()
    await expect(told).to_have_count(2)


async def test_live_events_are_filtered_too(console: Console, fleet: Fleet) -> None:
    await fleet.add(hostname="here")
    await console.open("/events?host=here")
    told = console.page.get_by_role("list", name="Events").get_by_role("listitem")
    await expect(told).to_have_count(1)
    await fleet.add(hostname="there")
    await fleet.add(hostname="here")
    await expect(told).to_have_count(2)


async def test_the_history_goes_on_page_by_page(console: Console, fleet: Fleet) -> None:
    await register(fleet, crowd(250))
    await console.open("/events")
    told = console.page.get_by_role("list", name="Events").get_by_role("listitem")
    older = console.page.get_by_role("button", name="Older")
    for count in (100, 200):
        await expect(told).to_have_count(count)
        await older.click()
    await expect(told).to_have_count(251)
    await expect(older).to_have_count(0)
    revisions = [int(each) for each in await console.page.locator(".revision").all_inner_texts()]
    assert revisions == sorted(revisions, reverse=True)


async def test_what_is_no_id_is_said(console: Console, fleet: Fleet) -> None:
    await console.open("/events?id=nonsense")
    await expect(console.page.get_by_role("alert")).to_contain_text("must be a UUID")
    await console.page.get_by_role("textbox", name="Instance").fill(str(new_id()))
    await expect(console.page.get_by_text("Nothing has happened that matches.")).to_be_visible()
    console.wrong.clear()  # a browser complains of every answer that is not 200
