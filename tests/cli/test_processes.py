import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from manager.cli import processes

TREE = (
    "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); {then}"
)
SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def program(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def root() -> Iterator["subprocess.Popen[str]"]:
    """A process with one child, whose pid it has written."""
    started = program(
        TREE.format(child=SLEEP, then="import signal; signal.signal(15, lambda *_: None)\nwhile 1: signal.pause()")
    )
    yield from kept(started)


@pytest.fixture
def deaf() -> Iterator["subprocess.Popen[str]"]:
    """A process with one child that takes no notice of TERM."""
    started = program(TREE.format(child=DEAF, then="time.sleep(60)"))
    assert started.stdout
    yield from kept(started)


def kept(started: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    yield started
    for each in psutil.Process(started.pid).children(recursive=True):
        each.kill()
    started.kill()
    started.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


async def test_the_descendants_are_found_and_measured(root: "subprocess.Popen[str]") -> None:
    child = int(line(root))
    tree = processes.descendants(psutil.Process(root.pid))
    assert [each.pid for each in tree] == [child]
    async with asyncio.timeout(30):
        while (used := processes.used_memory(tree)) < 1_000_000:  # it has only just begun
            await asyncio.sleep(0.05)
    assert used < 100_000_000


async def test_term_is_enough_for_those_that_listen(root: "subprocess.Popen[str]") -> None:
    line(root)
    assert await processes.stop(psutil.Process(root.pid), 10, asyncio.Event()) == []


async def test_those_that_do_not_are_killed_after_the_grace(deaf: "subprocess.Popen[str]") -> None:
    line(deaf), line(deaf)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await processes.stop(psutil.Process(deaf.pid), 0.3, asyncio.Event()) == []
    assert 0.3 <= loop.time() - began < 9


async def test_a_hurry_does_not_wait_for_the_grace(deaf: "subprocess.Popen[str]") -> None:
    line(deaf), line(deaf)
    hurry = asyncio.Event()
    hurry.set()
    async with asyncio.timeout(9):
        assert await processes.stop(psutil.Process(deaf.pid), 60, hurry) == []


async def test_a_process_that_ended_has_neither_memory_nor_descendants() -> None:
    ended = program("pass")
    gone = psutil.Process(ended.pid)
    ended.communicate()
    assert processes.used_memory([gone]) == 0
    assert processes.descendants(gone) == []
    processes.send(signal.SIGTERM, [gone])
