"""The supervisor of `imctl serve --workers N`: holds the port, keeps N workers running, and stops them together."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import typer

from manager.cli.codes import Exit
from manager.cli.logs import form_of, log_as
from manager.cli.serve import STOPS, asked_to_stop, banner, fail, tell, unsafe
from manager.ids import new_id
from manager.safety import Unsafe, notice, require
from manager.settings import Settings
from manager.wire.ports import CannotListen, Reservation

log = logging.getLogger(__name__)

STEADY = 10.0  # seconds: who has served for so long is started anew at once
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
FRUITLESS = 10  # starts in a row, while nobody serves
LATE = 10.0  # seconds beyond the drain


def supervise(settings: Settings) -> NoReturn:
    """Serves by many processes until a signal, or until all are drained as instances."""
    if sys.platform != "linux":
        fail("--workers needs Linux, whose kernel shares connections out", "start servers on ports of their own")
    if settings.http and settings.http_at + settings.workers - 1 > 65535:
        fail(f"there are not {settings.workers} ports from the http_port {settings.http_at} on")
    log_as("", form_of(settings))
    instance = str(new_id())
    try:
        require(settings)  # before anything is taken; of the database each worker asks by itself
        with Reservation(settings.bind, settings.port) as port:
            workers = Workers(lambda number: launched(settings, port.addresses, instance, number), settings)
            head = banner(instance, port.addresses, notice=notice(settings))
            code = asyncio.run(workers.serve(lambda: _announce(settings, head, workers)))
    except Unsafe as refusal:
        unsafe(refusal)
    except CannotListen as refusal:
        fail(str(refusal))
    raise typer.Exit(code)


def _announce(settings: Settings, head: Sequence[str], workers: "Workers") -> None:
    pids = ", ".join(str(each.process.pid) for _, each in sorted(workers.running.items()))
    tell(settings, *head, f"  workers        {len(workers.running)}, processes {pids}", STOPS)


@dataclass(frozen=True, slots=True)
class Launch:
    """The command of a worker, and what it finds in its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


def launched(settings: Settings, addresses: tuple[str, ...], instance: str, number: int) -> Launch:
    """How the worker of a number is started: with our own environment, but for what is decided here for all."""
    hosts = [each.rpartition(":")[0] for each in addresses]
    decided = {
        "IM_BIND": json.dumps(hosts),
        "IM_PORT": addresses[0].rpartition(":")[2],
        # each has a port of its own: what Prometheus asks is about one process
        "IM_HTTP_PORT": str(settings.http_at + number - 1 if settings.http_at else 0),
        "IM_TRANSPORT": settings.transport or "",
        "IM_INSECURE_I_KNOW": json.dumps(settings.insecure_i_know),
    }
    command = (sys.executable, "-m", "manager.cli.worker", str(number), instance, str(os.getpid()))
    return Launch(command, os.environ | decided)


@dataclass(slots=True)
class Worker:
    """A running process, and since when it serves, by the loop's clock."""

    process: asyncio.subprocess.Process
    since: float | None = None

    @property
    def serves(self) -> bool:
        """Whether it has come so far."""
        return self.since is not None

    def release(self) -> None:
        """Has it drain; one that has not served yet has nothing to drain."""
        if self.serves and self.process.stdin:
            self.process.stdin.close()
        else:
            self.kill()

    def kill(self) -> None:
        """Ends it at once."""
        with suppress(ProcessLookupError):
            self.process.kill()


@dataclass
class Workers:
    """Keeps workers running. `launch` says how the one of a number is started."""

    launch: Callable[[int], Launch]
    settings: Settings
    running: dict[int, Worker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.code = 0
        self._stop = asyncio.Event()
        self._settled = {number: asyncio.Event() for number in range(1, self.settings.workers + 1)}
        self._served = False
        self._fruitless = 0

    async def serve(self, started: Callable[[], None]) -> int:
        """The exit code, once all have ended. `started` is called when all serve, but for those that cannot yet."""
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, self._asked, sign)
        async with asyncio.TaskGroup() as group:
            first, *others = self._settled
            group.create_task(self._keep(first))
            await self._settled[first].wait()  # so that one alone says why none can start
            if self._served:
                for each in others:
                    group.create_task(self._keep(each))
                await asyncio.gather(*(self._settled[each].wait() for each in others))
            if not self._stop.is_set():
                started()
        return self.code

    def _asked(self, sign: signal.Signals) -> None:
        if self._stop.is_set():
            log.warning("%s again: stopping at once", sign.name)
            self._hurry()
            return
        tell(self.settings, asked_to_stop(sign))
        self._end(0)
        patience = self.settings.drain.total_seconds() + LATE
        asyncio.get_running_loop().call_later(patience, self._hurry)

    def _end(self, code: int) -> None:
        self.code = code
        self._stop.set()
        for worker in self.running.values():
            worker.release()

    def _hurry(self) -> None:
        for number, worker in self.running.items():
            log.error("worker %d (process %d) has not drained, and is ended", number, worker.process.pid)
            self.code = Exit.FAILED
            worker.kill()

    async def _keep(self, number: int) -> None:
        """Has one worker run, again and again, until all stop or this one was drained as an instance."""
        pause = 0.0
        while not self._stop.is_set():
            worker, code = await self._run(number)
            self._settled[number].set()
            if self._stop.is_set():
                self.code = self.code or (Exit.FAILED if worker.serves and code not in (Exit.OK, Exit.DEAD) else 0)
                return
            if code == Exit.DEAD:
                log.warning("worker %d was drained and stays away; %d serve", number, len(self.running))
                return
            self._count(worker, code)
            pause = FIRST_PAUSE if _steady(worker) or not pause else min(2 * pause, LONGEST_PAUSE)
            if not self._stop.is_set():
                log.warning("worker %d %s; it is started anew in %.1f s", number, _ended(worker, code), pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _run(self, number: int) -> tuple[Worker, int]:
        """A worker that has ended, and how."""
        launch = self.launch(number)
        process = await asyncio.create_subprocess_exec(
            *launch.command,
            env=launch.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for its supervisor alone
        )
        worker = self.running[number] = Worker(process)
        if self._stop.is_set():  # it came between
            worker.release()
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            if await process.stdout.readline():
                self._serves(number, worker)
            while await process.stdout.read(4096):
                pass  # nothing more is expected, but a full pipe would stop it
            return worker, await process.wait()
        finally:
            worker.kill()
            del self.running[number]

    def _serves(self, number: int, worker: Worker) -> None:
        worker.since = asyncio.get_running_loop().time()
        self._served = True
        self._fruitless = 0
        self._settled[number].set()

    def _count(self, worker: Worker, code: int) -> None:
        """Gives up where none has ever served, or none does for long."""
        self._fruitless += not worker.serves
        if not self._served:  # it has said why
            self._end(code if code > 0 else Exit.FAILED)
        elif self._fruitless >= FRUITLESS and not any(each.serves for each in self.running.values()):
            log.error("no worker serves, and %d could not start: giving up", self._fruitless)
            self._end(Exit.FAILED)


def _steady(worker: Worker) -> bool:
    return worker.since is not None and asyncio.get_running_loop().time() - worker.since > STEADY


def _ended(worker: Worker, code: int) -> str:
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return f"(process {worker.process.pid}) {how}"
