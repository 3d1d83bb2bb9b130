"""Keeps browsers warm, so that whoever needs one does not wait for its start.

    python examples/chrome_pool.py --size 2
    python examples/chrome_pool.py --size 2 -- python -m http.server --bind 127.0.0.1 {port}     # without Chromium

Each browser runs under `imctl run` as a WARMPOOL_CHROME_BROWSER, below the pool, which is an instance itself. Enter
hands one out: it becomes a CHROME_BROWSER, and the pool starts another. One that dies is replaced. At a Ctrl-C all of
them end, those handed out too; should the pool be killed by force, its lease ends, and theirs with it.
"""

import argparse
import asyncio
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from manager.client import Access, Client, Endpoint, Fleet, Instance, Member, Removed, new_id
from manager.pb.instance_manager_pb2 import (
    BROWSER_BACKEND,
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    WARMPOOL_CHROME_BROWSER,
    InstanceDescription,
)

CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
    *("--remote-debugging-port={port}", "about:blank"),
)
ANSWERS_WITHIN = 1.0
STOPS_WITHIN = 15.0
FAILS_WITHIN = 5.0
LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many browsers to keep warm, and what one is: `{port}` in the command is where its DevTools listen."""

    manager: str
    size: int
    command: tuple[str, ...]
    timeout: float


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def answers(endpoint: Endpoint) -> bool:
    """Whether somebody listens there already: a browser is registered before it has started."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWERS_WITHIN):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.close()
        return True
    return False


@dataclass
class Pool:
    """The keeper: `fleet` holds the warm ones below it, as the manager sees them."""

    plan: Plan
    client: Client
    fleet: Fleet
    owner: Instance
    running: list[asyncio.subprocess.Process] = field(default_factory=list)
    warm: dict[str, asyncio.Event] = field(default_factory=dict)  # set when it is in the pool no longer

    async def keep(self) -> None:
        """Keeps the pool filled, for ever."""
        async with asyncio.TaskGroup() as slots:
            slots.create_task(self._listen())
            for _ in range(self.plan.size):
                slots.create_task(self._fill())

    async def take(self) -> Endpoint | None:
        """Hands out a browser that answers, for good: whoever calls owns it from then on. None when none is ready."""
        for each in self.fleet.instances(service_type=CHROME_DEBUG_PORT):
            endpoint = each.services[0]
            if await answers(endpoint) and await self._hand_out(each):
                return endpoint
        return None

    async def _hand_out(self, member: Member) -> bool:
        """Makes it a CHROME_BROWSER, unless somebody else has changed it since: of two takers one gets it."""
        taken = InstanceDescription(
            instance_id=member.id,
            instance_type=CHROME_BROWSER,
            hostname=member.hostname,
            labels=member.labels,
            timeout_ms=round(member.timeout * 1000),
            updated_revision=member.updated_revision,
        )
        return (await self.client.try_.TryUpdateInstance(taken)).value

    async def _listen(self) -> None:
        """Hears who left the pool: handed out, by whomever, or dead."""
        async for change in self.fleet.changes():
            if isinstance(change, Removed) and (left := self.warm.get(change.member.id)):
                left.set()

    async def _fill(self) -> None:
        """One place of the pool: a warm browser, and the next one when it is warm no longer."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            ended = await self._warm()
            failed = ended and asyncio.get_running_loop().time() - began < FAILS_WITHIN
            failures = failures + 1 if failed else 0
            await asyncio.sleep(min(2.0**failures - 1, LONGEST_PAUSE))  # a command that cannot start is not hammered

    async def _warm(self) -> bool:
        """Starts one, and returns when it is warm no longer; whether it ended, and was not handed out or killed."""
        chosen = new_id()
        left = self.warm[chosen] = asyncio.Event()
        process = await self._start(chosen, free_port())
        self.running = [each for each in (*self.running, process) if each.returncode is None]
        ended, gone = asyncio.ensure_future(process.wait()), asyncio.ensure_future(left.wait())
        try:
            await asyncio.wait([ended, gone], return_when=asyncio.FIRST_COMPLETED)
            return ended.done()
        finally:
            ended.cancel()
            gone.cancel()
            del self.warm[chosen]

    async def _start(self, chosen: str, port: int) -> asyncio.subprocess.Process:
        """A browser under `imctl run`, registered before it starts."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "manager", "run", "--quiet", "--type", "WARMPOOL_CHROME_BROWSER"),
            *("--id", chosen, "--parent", self.owner.id, "--service", f"CHROME_DEBUG_PORT={port}"),
            *("--timeout", f"{self.plan.timeout:g}", "--address", self.plan.manager, "--"),
            *(each.replace("{port}", str(port)) for each in self.plan.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is the pool's to pass on
        )

    async def stop(self) -> None:
        """Ends every browser, warm or handed out: `imctl run` stops all their processes and takes them off."""
        for each in self.running:
            with suppress(ProcessLookupError):
                each.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOPS_WITHIN):
                await asyncio.gather(*(each.wait() for each in self.running))


def lines() -> "asyncio.Queue[str]":
    """What is typed; read by a thread, since neither a terminal nor a file can be waited for."""
    typed: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(RuntimeError):  # the loop is closed: the pool has ended
            for line in sys.stdin:
                loop.call_soon_threadsafe(typed.put_nowait, line)

    threading.Thread(target=read, daemon=True).start()
    return typed


async def hand_out(pool: Pool) -> None:
    """One browser for each Enter."""
    typed = lines()
    while True:
        await typed.get()
        endpoint = await pool.take()
        said = "none is ready" if endpoint is None else f"{endpoint.instance_id} is yours: http://{endpoint.address}"
        print(said, flush=True)


async def main(plan: Plan) -> None:
    backend = InstanceDescription(
        instance_type=BROWSER_BACKEND, hostname=socket.gethostname(), timeout_ms=round(plan.timeout * 1000)
    )
    async with (
        Client(plan.manager, access=Access.of_environment()) as client,
        Instance(client, backend) as owner,
        Fleet(client, types=[WARMPOOL_CHROME_BROWSER], subtree_of=owner.id) as fleet,
    ):
        await fleet.wait_synced(30)
        pool = Pool(plan, client, fleet, owner)
        try:
            print(f"{owner.id} keeps {plan.size} browsers warm; Enter hands one out, Ctrl-C ends all", flush=True)
            await until_told(pool)
        finally:
            await pool.stop()


async def until_told(pool: Pool) -> None:
    """Works until a signal comes or the manager says that the pool must terminate."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, stopped.set)
    works = [asyncio.create_task(work) for work in (pool.keep(), hand_out(pool))]
    ends = [asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(pool.owner.wait())]
    done, _ = await asyncio.wait([*works, *ends], return_when=asyncio.FIRST_COMPLETED)
    for each in (*works, *ends):
        each.cancel()
    await asyncio.gather(*works, *ends, return_exceptions=True)
    for ended in done:
        ended.result()  # a fault of the pool's own is shown


def plan_of(arguments: Sequence[str]) -> Plan:
    """The command line."""
    parser = argparse.ArgumentParser(description="Keeps browsers warm.")
    parser.add_argument("--manager", default="[::1]:50052", metavar="HOST:PORT")
    parser.add_argument("--size", type=int, default=2, help="how many to keep warm")
    parser.add_argument("--timeout", type=float, default=30, help="seconds without a health check before one is stale")
    parser.add_argument("command", nargs="*", default=CHROMIUM, help="after `--`: what to run instead of Chromium")
    given = parser.parse_args(arguments)
    if shutil.which(given.command[0]) is None:
        parser.error(f"there is no {given.command[0]} on this machine")
    return Plan(given.manager, given.size, tuple(given.command), given.timeout)


if __name__ == "__main__":
    asyncio.run(main(plan_of(sys.argv[1:])))
