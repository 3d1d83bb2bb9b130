"""`imctl demo`: a small fleet that lives, for whoever wants to see how things look."""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from tempfile import TemporaryDirectory

from manager.cli import simulated
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection, Target
from manager.cli.say import say
from manager.client import Client, Instance
from manager.pb.instance_manager_pb2 import BROWSER_BACKEND, InstanceDescription

PATIENCE = 10.0
HEADLESS = (
    *("--headless", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def demo(at: Connection) -> None:
    """Fill a manager with a small living fleet until it is interrupted; then it is gone.

    A browser is a real process, by `imctl run`, if there is a Chromium; all others are simulated: model servers and a
    proxy with changing metrics, browsers that come and go, one that falls silent again and again. Who is killed comes
    back under another id.

    \b
    Examples:
      imctl demo
      imctl dev --demo
    """
    target = at.target()

    async def lived(client: Client) -> int:
        say("a small fleet lives now: look at it with `imctl tree`, `imctl top`, `imctl watch`", "Ctrl-C ends it")
        await live(client, target)
        say("the root of the demo was killed, and so it ends")
        return Exit.OK

    ask(at, lived)


async def live(client: Client, target: Target) -> None:
    """Keeps the fleet alive until its root is killed; it dies when this is cancelled. Raises where it is refused."""
    description = InstanceDescription(
        instance_type=BROWSER_BACKEND, hostname=socket.gethostname(), labels=simulated.LABELS
    )
    async with Instance(client, description) as backend, _real(target, backend.id), asyncio.TaskGroup() as fleet:
        kept = [fleet.create_task(simulated.keep(client, each)) for each in simulated.fleet(backend.id)]
        kept.append(fleet.create_task(simulated.silent(client, backend.id)))
        await backend.wait()
        for each in kept:  # most of them died with it
            each.cancel()


@asynccontextmanager
async def _real(target: Target, parent: str) -> AsyncIterator[None]:
    """A real process as an instance, until left; its files are in a folder that goes with it."""
    named = ("--context", target.context) if target.context else ()
    with TemporaryDirectory(prefix="imctl-demo-", ignore_cleanup_errors=True) as folder:
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "manager", "run", "--quiet", "--address", str(target), *named),
            *("--parent", parent, "--label", "demo=true", *_command(folder)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                command.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await command.wait()


def _command(folder: str) -> tuple[str, ...]:
    """What `imctl run` runs: Chromium, or else something that is on every machine."""
    if chromium := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        offered = ("--type", "CHROME_BROWSER", "--service", f"CHROME_DEBUG_PORT={port}")
        rooted = ("--no-sandbox",) if os.geteuid() == 0 else ()  # its sandbox does not work for root
        told = (f"--remote-debugging-port={port}", f"--user-data-dir={folder}", "about:blank")
        return (*offered, "--", chromium, *HEADLESS, *rooted, *told)
    return ("--type", "BROWSER_BACKEND", "--", sys.executable, "-c", "import time; time.sleep(1e9)")
