"""What is drawn on a terminal, and what is asked there."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE

import pytest

from manager.pb.instance_manager_pb2 import BROWSER_BACKEND
from tests.cli.imctl import ROOT
from tests.cli.scene import Scene
from tests.cli.terminal import at_terminal

GREEN = "\x1b[32m"


async def test_a_table_has_colours_and_signs_and_whole_ids(scene: Scene) -> None:
    one = await scene.add(hostname="a-host-with-a-name-that-is-far-too-long-for-a-terminal-of-eighty-columns")
    async with at_terminal(scene.address, "get", width=80) as terminal:
        assert await terminal.ended() == 0
        assert one in terminal.text
        assert f"{GREEN}● healthy" in terminal.raw
        assert "a-host-w" in terminal.text
        assert all(len(line) <= 80 for line in terminal.text.splitlines() if not line.startswith(("imctl:", " ")))
        assert "there was no room for " in terminal.text


async def test_without_colour_the_signs_say_the_same(scene: Scene) -> None:
    async with at_terminal(scene.address, "get", NO_COLOR="1") as terminal:
        assert await terminal.ended() == 0
        assert "● healthy" in terminal.text
        assert GREEN not in terminal.raw


async def test_watching_draws_the_table_anew(scene: Scene) -> None:
    async with at_terminal(scene.address, "get", "--watch") as terminal:
        await terminal.shows("● healthy 1")
        one = await scene.add()
        await terminal.shows(one)
        await terminal.shows("● healthy 2")
        await scene.kill(one)
        await terminal.shows("● healthy 1", await terminal.shows("● healthy 2"))
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 130
        assert "\x1b[?1049l" in terminal.raw  # the screen is given back


async def test_kill_shows_whom_by_type_and_host_and_asks(scene: Scene) -> None:
    backend = await scene.add(of=BROWSER_BACKEND, hostname="b")
    for host in ("x", "x", "y"):
        await scene.add(backend, hostname=host)
    async with at_terminal(scene.address, "kill", backend) as terminal:
        await terminal.shows("Kill? [y/N]")
        for words in ("this kills 4 instances", "1  BROWSER_BACKEND on b", "2  CHROME_BROWSER on x"):
            assert words in terminal.text
        terminal.type("n\n")
        assert await terminal.ended() == 1
        assert "nobody was killed" in terminal.text
    async with at_terminal(scene.address, "kill", backend) as terminal:
        await terminal.shows("Kill? [y/N]")
        terminal.type("y\n")
        await terminal.shows("4 instances died, in ")
        assert await terminal.ended() == 0


async def test_ctrl_c_at_a_question_is_130(scene: Scene) -> None:
    one = await scene.add()
    async with at_terminal(scene.address, "kill", one) as terminal:
        await terminal.shows("Kill? [y/N]")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 130
    assert (await scene.imctl("health", one)).code == 0


IMPATIENT = """
import asyncio, os, signal, sys
from manager.cli.say import agreed, say

class Impatient:
    def write(self, words):
        sys.__stderr__.write(words)
        if sys.argv[1] in words:
            os.kill(os.getpid(), signal.SIGINT)
    def flush(self):
        sys.__stderr__.flush()

async def asking():
    say("this kills 1 instance")
    return agreed("Kill?")

sys.stderr = Impatient()
try:
    asyncio.run(asking())
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("words", ["this kills", "[y/N]"])
async def test_ctrl_c_ends_a_question_also_at_the_moment_in_which_it_is_put(words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IMPATIENT, words, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT
    )
    try:
        async with asyncio.timeout(20):  # nobody types anything
            assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_wait_says_so_after_a_second(scene: Scene) -> None:
    one = await scene.add()
    async with at_terminal(scene.address, "wait", one, "--for", "dead") as terminal:
        await terminal.shows(f"waiting for {one} to be dead")
        await scene.kill(one)
        assert await terminal.ended() == 0


async def test_what_takes_longer_has_a_bar_that_fills(scene: Scene) -> None:
    async with at_terminal(scene.address, "bench", "--instances", "5", "--seconds", "2") as terminal:
        await terminal.shows("bench ━")
        await terminal.shows("TryKillInstance")
        assert await terminal.ended() == 0
