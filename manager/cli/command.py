"""The command that `imctl run` runs: found, started in a session of its own, waited for."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")


def require(command: str) -> None:
    """Raises FileNotFoundError or PermissionError where there is no such program, before anything was done for it."""
    if shutil.which(command) is None:
        there = os.sep in command and Path(command).exists()
        raise PermissionError(13, "Permission denied") if there else FileNotFoundError(2, "No such command")


class Command:
    """A running command. `ended` has its exit code when it ended: its own, or 128 + n for signal n.

    Takes every dead child of this process off the system, adopted ones too: only for a process that has no others.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        loop = asyncio.get_running_loop()
        self.process = process
        self.ended: asyncio.Future[int] = loop.create_future()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()

    def _reap(self) -> None:
        while (dead := next_dead()) is not None:
            if dead[0] == self.process.pid:
                code = self.process.returncode = os.waitstatus_to_exitcode(dead[1])
                self.ended.set_result(code if code >= 0 else 128 - code)


def next_dead() -> tuple[int, int] | None:
    """The pid and status of a child that is dead and not yet waited for."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def start(command: Sequence[str], environment: Mapping[str, str]) -> Command:
    """Starts the command in a session of its own, so that a Ctrl-C at the terminal reaches only us; it dies with us.

    Its input and outputs are ours. Call it from the main thread: the kernel ties the command to the thread that forks.
    Raises OSError where the system will not execute it.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as errors:
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                [sys.executable, "-I", "-S", str(LAUNCH), str(writing), str(os.getpid()), *command],
                env=dict(environment),
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        refusal = errors.read()  # ends when the command runs: its end of the pipe closes then
    if refusal:
        process.wait()
        raise OSError(int(refusal), os.strerror(int(refusal)))
    return Command(process)
