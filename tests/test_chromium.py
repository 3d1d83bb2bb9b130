"""A real Chromium under a real backend process, both by `imctl run`: it lives and dies by its manager."""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from manager.client import Client, Instance, NotFoundError
from manager.pb.instance_manager_pb2 import (
    BROWSER_BACKEND,
    CAUSE_PARENT_DIED,
    CHROME_BROWSER,
    InstanceDescription,
    InstanceFilter,
    InstanceRequest,
    KillRequest,
)
from manager.server import Serving
from tests.processes import IMCTL, environment

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
TIMEOUT = 6.0
# a third of the timeout, and its jitter of a fifth
INTERVAL = TIMEOUT / 3 * 1.2

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on this machine: apt-get install chromium"
)


@pytest.fixture
async def client(server: Serving) -> AsyncIterator[Client]:
    async with Client(server.addresses[0]) as connected:
        yield connected


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def family(process: asyncio.subprocess.Process) -> list[psutil.Process]:
    """A process and all below it."""
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def browser_of(client: Client) -> InstanceDescription:
    """The one browser of the fleet, once its DevTools answer."""
    async with asyncio.timeout(60):
        while True:
            found = await client.get.GetAllInstances(InstanceFilter(types=[CHROME_BROWSER]))
            if found.instances and await answers(found.instances[0]):
                return found.instances[0]
            await asyncio.sleep(0.2)


async def answers(browser: InstanceDescription) -> bool:
    """Whether the DevTools of a browser answer where it says that they are."""
    service = browser.services[0]
    try:
        reply = await asyncio.to_thread(urlopen, f"http://{service.host}:{service.port}/json/version", None, 2)
    except OSError:
        return False
    with reply:
        return "Chrome" in json.load(reply)["Browser"]


async def test_killing_a_backend_ends_its_chromium(server: Serving, client: Client, tmp_path: Path) -> None:
    """DevTools answer where GetInstance says; the kill of the backend ends all within an interval plus 5 s."""
    port = free_port()
    run = [*IMCTL, "run", "--quiet", "--timeout", str(TIMEOUT)]
    browser = [*run, "--type", "CHROME_BROWSER", "--service", f"CHROME_DEBUG_PORT={port}", "--", str(CHROMIUM), *FLAGS]
    browser += [f"--remote-debugging-port={port}", f"--user-data-dir={tmp_path}", "about:blank"]
    # a backend that starts a browser and goes on with its own work
    backend = f"import subprocess, sys; sys.exit(subprocess.Popen({browser!r}).wait())"
    process = await asyncio.create_subprocess_exec(
        *run,
        *("--type", "BROWSER_BACKEND", "--", sys.executable, "-c", backend),
        env=environment(IM_ADDRESS=server.addresses[0]),
        stderr=asyncio.subprocess.DEVNULL,
        cwd=os.getcwd(),
    )
    try:
        found = await browser_of(client)
        described = await client.get.GetInstance(InstanceRequest(instance_id=found.instance_id))
        assert described.services[0].port == port
        processes = family(process)
        assert sum("chrom" in each.name() for each in processes) >= 3
        killed = await client.try_.TryKillInstance(KillRequest(instance_id=described.parent_id, note="the end"))
        assert killed.value
        async with asyncio.timeout(INTERVAL + 5):
            assert await process.wait() == 10  # terminated, since the manager says that it is dead
        assert not alive(processes)
        report = await client.fleet.DescribeInstance(InstanceRequest(instance_id=found.instance_id))
        assert report.instance.death_cause == CAUSE_PARENT_DIED
        assert report.note == "the end"
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def test_ctrl_c_leaves_neither_a_chromium_nor_a_live_instance(
    server: Serving, client: Client, tmp_path: Path
) -> None:
    port = free_port()
    async with Instance(client, InstanceDescription(instance_type=BROWSER_BACKEND)) as backend:
        process = await asyncio.create_subprocess_exec(
            *(*IMCTL, "run", "--quiet", "--type", "CHROME_BROWSER", "--service", f"CHROME_DEBUG_PORT={port}"),
            *("--", str(CHROMIUM), *FLAGS, f"--remote-debugging-port={port}", f"--user-data-dir={tmp_path}"),
            env=environment(IM_ADDRESS=server.addresses[0], IM_INSTANCE_ID=backend.id),
            stderr=asyncio.subprocess.DEVNULL,
        )
        found = await browser_of(client)
        assert found.parent_id == backend.id
        processes = family(process)
        process.send_signal(2)
        async with asyncio.timeout(15):
            assert await process.wait() == 130
        assert not alive(processes)
        with pytest.raises(NotFoundError):
            await client.get.GetInstance(InstanceRequest(instance_id=found.instance_id))
