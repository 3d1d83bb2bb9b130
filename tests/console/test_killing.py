"""Killing from the console: who dies is shown first, many are confirmed by their number, and the outcome is said."""

import re

from playwright.async_api import expect

from manager.pb import instance_manager_pb2 as pb
from tests.console.scene import Console, crowd, register
from tests.wire.fleet import Fleet


async def test_a_kill_shows_who_dies_and_carries_its_note(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND, hostname="backend-1")
    children = await register(fleet, crowd(3, parent, hostname="host-7"))
    await console.open(f"/instances/{parent}")
    await console.page.get_by_role("button", name="Kill…").click()
    dialog = console.page.get_by_role("dialog", name="Kill 4 instances?")
    await expect(dialog).to_contain_text("3 instances below it die in the same moment")
    counts = await dialog.get_by_role("listitem").all_inner_texts()
    assert counts == ["3 CHROME_BROWSER", "1 BROWSER_BACKEND", "3 host-7", "1 backend-1"]
    await dialog.get_by_label("Note").fill("too old")
    await dialog.get_by_role("button", name="Kill all 4").click()
    await expect(dialog).to_have_count(0)
    await expect(console.page.get_by_text(re.compile(r"Killed .* and 3 more in \d+ ms"))).to_be_visible()
    await expect(console.page.get_by_role("region", name="Why it died")).to_contain_text("too old")
    for each in (parent, *children):
        assert (await fleet.describe(each)).status == pb.STATUS_DEAD


async def test_more_than_twenty_die_only_after_their_number_was_typed(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    await register(fleet, crowd(24, parent))
    await console.open(f"/instances/{parent}")
    await console.page.get_by_role("button", name="Kill…").click()
    dialog = console.page.get_by_role("dialog")
    kill = dialog.get_by_role("button", name="Kill all 25")
    await expect(kill).to_be_disabled()
    typed = dialog.get_by_label("Type 25 to confirm")
    for wrong in ("24", "2", "yes", ""):
        await typed.fill(wrong)
        await expect(kill).to_be_disabled()
        await typed.press("Enter")
    assert (await fleet.describe(parent)).status == pb.STATUS_HEALTHY
    await typed.fill("25")
    await kill.click()
    await expect(dialog).to_have_count(0)
    assert (await fleet.describe(parent)).status == pb.STATUS_DEAD


async def test_exactly_twenty_need_no_typing(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    await register(fleet, crowd(19, parent))
    await console.open(f"/instances/{parent}")
    await console.press("x")
    dialog = console.page.get_by_role("dialog", name="Kill 20 instances?")
    await expect(dialog.get_by_role("button", name="Kill all 20")).to_be_enabled()
    await expect(dialog.get_by_label(re.compile("to confirm"))).to_have_count(0)


async def test_a_tree_that_changes_under_the_dialog_is_said(console: Console, fleet: Fleet) -> None:
    parent = await fleet.add(instance_type=pb.BROWSER_BACKEND)
    await console.open(f"/instances/{parent}")
    await console.page.get_by_role("button", name="Kill…").click()
    dialog = console.page.get_by_role("dialog", name="Kill this instance?")
    await fleet.add(parent_id=parent)
    await expect(dialog).to_contain_text("the tree has changed: 1 more")


async def test_who_died_meanwhile_is_not_killed_again(console: Console, fleet: Fleet) -> None:
    parent, child = await fleet.chain(2)
    await console.open(f"/instances/{child}")
    await console.page.get_by_role("button", name="Pause").click()  # so that the page does not know yet
    await console.page.get_by_role("button", name="Kill…").click()
    await fleet.kill(parent)
    dialog = console.page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Kill it").click()
    await expect(dialog.get_by_role("alert")).to_have_text("It was not killed: dead.")


async def test_a_manager_is_said_to_drain(console: Console, fleet: Fleet) -> None:
    await console.open(f"/instances/{fleet.serving.instance_id}")
    await console.page.get_by_role("button", name="Kill…").click()
    await expect(console.page.get_by_role("dialog")).to_contain_text("it drains and exits")
