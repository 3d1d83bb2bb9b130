"""The pool keeper as people run it, with real processes; a small HTTP server stands where Chromium would."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from manager.client import Client, Fleet
from manager.pb.instance_manager_pb2 import (
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    INSTANCE_MANAGER,
    WARMPOOL_CHROME_BROWSER,
    InstanceFilter,
    InstanceRequest,
    KillRequest,
)
from manager.server import Serving
from tests.processes import environment

SCRIPT = Path(__file__).parent.parent / "examples/chrome_pool.py"
BROWSER = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}")


@asynccontextmanager
async def pool(address: str, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A keeper of two."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), "--manager", address, "--size", "2", "--timeout", "3", "--", *command),
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until(holds: Callable[[], bool]) -> None:
    """Waits until it holds."""
    async with asyncio.timeout(40):
        while not holds():
            await asyncio.sleep(0.05)


async def handed_out(process: asyncio.subprocess.Process) -> str:
    """Presses Enter until a browser is handed out: the line that says so."""
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(40):
        assert b"Enter hands one out" in await process.stdout.readline()
        while True:
            process.stdin.write(b"\n")
            line = (await process.stdout.readline()).decode()
            if "is yours" in line:
                return line
            await asyncio.sleep(0.2)


def listening(process: asyncio.subprocess.Process, port: int) -> psutil.Process | None:
    """The browser of this port."""
    family = psutil.Process(process.pid).children(recursive=True)
    for each in family:
        with suppress(psutil.Error):  # it may be gone already
            if each.cmdline()[1:] == [*BROWSER[1:-1], str(port)]:
                return each
    return None


async def test_two_are_kept_warm_whatever_happens_to_them_and_nothing_is_left_behind(server: Serving) -> None:
    async with (
        Client(server.addresses[0]) as client,
        Fleet(client, types=[WARMPOOL_CHROME_BROWSER, CHROME_BROWSER]) as fleet,
        pool(server.addresses[0], *BROWSER) as process,
    ):

        def warm() -> set[str]:
            return {each.id for each in fleet.instances(instance_type=WARMPOOL_CHROME_BROWSER)}

        await until(lambda: len(warm()) == 2)
        first = warm()

        # one is handed out: it is a CHROME_BROWSER from then on, answers, and another takes its place
        line = await handed_out(process)
        (taken,) = (each for each in first if each in line)
        found = await client.get.GetInstance(InstanceRequest(instance_id=taken))
        assert found.instance_type == CHROME_BROWSER
        assert f"http://127.0.0.1:{found.services[0].port}" in line
        await until(lambda: len(warm()) == 2 and taken not in warm())
        _, writer = await asyncio.open_connection("127.0.0.1", found.services[0].port)
        writer.close()

        # one is killed through the manager
        (killed,) = first - {taken}
        assert (await client.try_.TryKillInstance(KillRequest(instance_id=killed))).value
        await until(lambda: len(warm()) == 2 and killed not in warm())

        # one dies by itself
        dead = max(warm())
        port = next(each.port for each in fleet.endpoints(CHROME_DEBUG_PORT) if each.instance_id == dead)
        await until(lambda: listening(process, port) is not None)  # it is registered before it starts
        victim = listening(process, port)
        assert victim is not None
        victim.kill()
        await until(lambda: len(warm()) == 2 and dead not in warm())

        keeper = psutil.Process(process.pid)
        # three browsers, each with the process that keeps it; the last is registered before it starts
        await until(lambda: len(keeper.children(recursive=True)) >= 6)
        family = keeper.children(recursive=True)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        assert psutil.wait_procs(family, timeout=1)[1] == []
        everybody = await client.get.GetAllInstances(InstanceFilter())
        assert [each.instance_type for each in everybody.instances] == [INSTANCE_MANAGER]


async def test_a_pool_that_is_told_to_terminate_ends_with_all_its_browsers(server: Serving) -> None:
    async with (
        Client(server.addresses[0]) as client,
        Fleet(client, types=[WARMPOOL_CHROME_BROWSER]) as fleet,
        pool(server.addresses[0], "sleep", "60") as process,
    ):
        await until(lambda: len(fleet.instances()) == 2)
        family = psutil.Process(process.pid).children(recursive=True)
        (owner,) = {each.parent_id for each in fleet.instances()}
        assert owner is not None
        await client.try_.TryKillInstance(KillRequest(instance_id=owner))
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        assert psutil.wait_procs(family, timeout=1)[1] == []


@pytest.mark.parametrize("command", ["no-such-command"])
async def test_a_command_that_is_not_there_is_refused_at_once(command: str) -> None:
    async with pool("127.0.0.1:1", command) as process:
        async with asyncio.timeout(20):
            assert await process.wait() == 2
