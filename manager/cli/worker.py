"""A worker of `imctl serve --workers N`: a server that shares its port, and does not outlive its supervisor.

    python -m manager.cli.worker NUMBER SUPERVISOR_INSTANCE SUPERVISOR_PID

It writes one line to stdout when it serves. When its stdin ends, all of the server stops, and it drains; when it is
asked by a signal, or killed as an instance, it drains alone.
"""

import asyncio
import logging
import os
import signal
from uuid import UUID

import typer

from manager.cli.codes import Exit
from manager.cli.launch import die_with
from manager.cli.logs import form_of, log_as
from manager.cli.serve import carried_out, settings_of
from manager.domain.instance import InstanceId
from manager.presence import Supervisor
from manager.server import Serving, serve
from manager.settings import Settings

log = logging.getLogger("manager.cli.worker")

STDIN = 0
MOMENT = 0.3


def worker(number: int, instance: UUID, pid: int) -> None:
    """Serves until it is to stop. Exit codes: 0 when asked, 10 when it was killed as an instance."""
    die_with(pid)
    settings = settings_of()
    log_as(f"worker {number}", form_of(settings))
    supervisor = Supervisor(InstanceId(instance), number)
    raise typer.Exit(carried_out(_work(settings, supervisor)))


async def _work(settings: Settings, supervisor: Supervisor) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def released() -> None:
        if not os.read(STDIN, 1024):
            loop.remove_reader(STDIN)
            supervisor.stops = True
            stop.set()

    loop.add_reader(STDIN, released)
    for sign in (signal.SIGINT, signal.SIGTERM):
        # systemd signals all: then stdin ends in a moment too, and nobody is to leave before it is known that all do;
        # a second signal is no hurry, since both that and its supervisor may ask
        loop.add_signal_handler(sign, loop.call_later, MOMENT, stop.set)
    killer = await serve(settings, stop, _told, supervisor)
    return Exit.OK if killer is None else Exit.DEAD


def _told(serving: Serving) -> None:
    log.info("serves as instance %s, process %d", serving.instance_id, os.getpid())
    print("serving", flush=True)


if __name__ == "__main__":
    typer.run(worker)
