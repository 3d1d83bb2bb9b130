"""`imctl demo`: a small fleet that lives, for whoever wants to see how things look."""

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from manager.cli import simulated
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.connection import Connection, Target
from manager.cli.say import say
from manager.client import Client, Instance
from manager.pb.instance_manager_pb2 import BROWSER_BACKEND, InstanceDescription

PATIENCE = 10.0
HEADLESS = ("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


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
    """A real process as an instance, until left."""
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "manager", "run", "--quiet", "--parent", parent, "--address", str(target)),
        *("--label", "demo=true", *_command()),
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


def _command() -> tuple[str, ...]:
    """What `imctl run` runs: Chromium, or else something that is on every machine."""
    if chromium := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        offered = ("--type", "CHROME_BROWSER", "--service", f"CHROME_DEBUG_PORT={port}")
        return (*offered, "--", chromium, *HEADLESS, f"--remote-debugging-port={port}", "about:blank")
    return ("--type", "BROWSER_BACKEND", "--", sys.executable, "-c", "import time; time.sleep(1e9)")
