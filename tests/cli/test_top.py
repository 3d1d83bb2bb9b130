"""The screen of `imctl top`, by the keys that a person presses."""

from textual.widgets import DataTable, Static

from manager.cli.top_screen import Top
from manager.client import Fleet
from manager.pb.instance_manager_pb2 import VLLM
from tests.cli.scene import Scene
from tests.cli.terminal import at_terminal


def shown(app: Top) -> list[str]:
    """The rows, as words."""
    table = app.query_one(DataTable)
    return [" ".join(str(cell) for cell in table.get_row_at(number)) for number in range(table.row_count)]


async def test_it_shows_who_there_is_and_what_they_measured(scene: Scene) -> None:
    one = await scene.add(of=VLLM, hostname="gpu-7")
    await scene.measure(one)
    async with Fleet(scene.client) as fleet:
        await fleet.wait_synced(10)
        app = Top(scene.client, fleet)
        async with app.run_test(size=(160, 30)) as pilot:
            for _ in range(300):
                await pilot.pause(0.1)
                app.redraw()
                (row,) = [each for each in shown(app) if one in each]
                if "7 requests" in row:
                    break
            assert "healthy" in row
            assert "gpu-7" in row
            assert "2.0 GiB" in row
            assert "GPU 1: 0 %" in row
            assert "VLLM 1" in str(app.query_one("#summary", Static).content)


async def test_keys_sort_filter_and_pause(scene: Scene) -> None:
    await scene.add(hostname="b")
    await scene.add(hostname="a", team="search")
    async with Fleet(scene.client, hostnames=["a", "b"]) as fleet:
        await fleet.wait_synced(10)
        app = Top(scene.client, fleet)
        async with app.run_test(size=(160, 30)) as pilot:
            await pilot.press("s", "s")  # by host
            assert [" a " in row for row in shown(app)] == [True, False]
            await pilot.press("r")
            assert [" a " in row for row in shown(app)] == [False, True]
            await pilot.press("slash", *"team=se", "enter")
            assert len(shown(app)) == 1
            assert "1 of 2 shown" in str(app.query_one("#summary", Static).content)
            await pilot.press("escape")
            assert len(shown(app)) == 2
            await pilot.press("p")
            assert "PAUSED" in str(app.query_one("#summary", Static).content)
            await scene.add(hostname="a")
            await pilot.pause(1.2)
            assert len(shown(app)) == 2
            await pilot.press("p")
            assert len(shown(app)) == 3


async def test_on_a_terminal_it_draws_and_q_ends_it(scene: Scene) -> None:
    one = await scene.add()
    async with at_terminal(scene.address, "top", width=160) as terminal:
        await terminal.shows(one)
        terminal.type("q")
        assert await terminal.ended() == 0


async def test_without_a_terminal_it_names_what_does_without(scene: Scene) -> None:
    ended = await scene.imctl("top")
    assert (ended.code, ended.out) == (2, "")
    assert "get --watch" in ended.err
