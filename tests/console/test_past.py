"""The fleet as it was, in a browser: by the address, by the slider, and back to now."""

import re

from playwright.async_api import expect

from manager.pb import instance_manager_pb2 as pb
from tests.console.scene import Console, now
from tests.wire.fleet import Fleet

AT = re.compile(r"[?&]at=\d{4}-\d\d-\d\dT")


async def slide(console: Console, place: int) -> None:
    """Moves the slider there; 1,000 is now."""
    await console.page.get_by_role("slider", name="How long ago").fill(str(place))


async def long_ago(fleet: Fleet, minutes: int) -> None:
    """All that has happened was so long ago."""
    for statement in (
        "update instance set created_at = created_at - $1 * interval '1 minute'",
        "update event set at = at - $1 * interval '1 minute'",
    ):
        await fleet.database.run(statement, minutes)


async def test_the_fleet_is_seen_as_it_was_at_the_moment_in_the_address(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND, hostname="backend-1")
    child = await fleet.add(parent_id=parent, hostname="then", labels={"team": "search"})
    stays = await fleet.add(instance_type=pb.VLLM, hostname="gpu-1")
    before = await now(fleet)
    await fleet.kill(parent)
    later = await fleet.add(hostname="later")
    await console.open(f"/?at={before}")
    await expect(console.page.get_by_role("status").filter(has_text="As it was at")).to_contain_text("4 instances")
    for each in (parent, child, stays):
        await expect(console.line(each)).to_contain_text("healthy")
    await expect(console.line(child)).to_have_attribute("aria-level", "2")
    await expect(console.line(child)).to_contain_text("team=search")
    await expect(console.line(later)).to_have_count(0)
    await console.page.get_by_role("button", name="Now").click()
    await expect(console.line(later)).to_be_visible()
    await expect(console.line(child)).to_have_count(0)
    assert "at=" not in console.path


async def test_what_changes_meanwhile_changes_nothing_of_the_past(console: Console, fleet: Fleet) -> None:
    one = await fleet.add(hostname="then")
    await console.open(f"/?at={await now(fleet)}")
    await expect(console.line(one)).to_be_visible()
    await fleet.kill(one)
    await expect(console.page.locator(".totals")).to_contain_text("1 just died")  # the header is of now
    await expect(console.line(one)).to_contain_text("healthy")


async def test_the_slider_goes_back_and_the_address_follows(console: Console, fleet: Fleet) -> None:
    old = await fleet.add(hostname="old")
    await long_ago(fleet, 120)
    new = await fleet.add(hostname="new")
    await console.open()
    await expect(console.line(new)).to_be_visible()
    await slide(console, 900)  # 43 minutes ago
    await expect(console.line(new)).to_have_count(0)
    await expect(console.line(old)).to_be_visible()
    await expect(console.page).to_have_url(AT)
    assert re.search(r"1 h 1[67] min", await console.line(old).inner_text())
    slider = console.page.get_by_role("slider", name="How long ago")
    assert re.match(r"43 min ago, ", await slider.get_attribute("aria-valuetext") or "")
    await slide(console, 700)  # 19 hours ago
    await expect(console.line(old)).to_have_count(0)
    await console.page.goto(console.page.url)
    await expect(console.page.get_by_role("status").filter(has_text="As it was at")).to_contain_text("0 instances")
    await slider.press("End")
    await expect(console.line(new)).to_be_visible()
    assert "at=" not in console.path


async def test_the_past_is_searched_and_sorted_as_the_present(console: Console, fleet: Fleet) -> None:
    for host in "bac":
        await fleet.add(hostname=f"host-{host}", labels={"team": host})
    before = await now(fleet)
    await fleet.add(hostname="host-d")
    await console.open(f"/?view=table&q=type:chrome&sort=-host&at={before}")
    await expect(console.page.locator(".line")).to_have_count(3)
    assert [re.findall(r"host-(\w)", each)[0] for each in await console.lines()] == ["c", "b", "a"]
    await console.page.get_by_role("searchbox").fill("label:team=a")
    await expect(console.page.locator(".line")).to_have_count(1)
    assert AT.search(console.path)


async def test_nobody_is_killed_in_the_past(console: Console, fleet: Fleet) -> None:
    one = await fleet.add()
    await console.open(f"/?at={await now(fleet)}")
    await console.line(one).click()
    await console.press("x")
    await expect(console.page.get_by_role("dialog")).to_have_count(0)
    await console.page.get_by_role("button", name="Now").click()
    await console.line(one).click()
    await console.press("x")
    await expect(console.page.get_by_role("dialog")).to_be_visible()


async def test_a_moment_that_is_not_on_record_any_more_is_said(console: Console, fleet: Fleet) -> None:
    await fleet.add()
    await fleet.database.run("update control set buried_revision = 1, compacted_revision = 1")
    await console.open("/?at=2020-01-01T00:00:00Z")
    await expect(console.page.get_by_role("alert")).to_contain_text("record")
    assert console.wrong  # the browser complains of the answer
    console.wrong.clear()
