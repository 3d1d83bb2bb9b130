"""What a killed launcher left behind: a server that still runs, a stale postmaster.pid, an ephemeral folder."""

import contextlib
import hashlib
import os
import shutil
import signal
import time
from pathlib import Path

import psutil

from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.home import EPHEMERAL, Home
from manager.embedded.lock import Lock

ENDINGS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))  # politely first; seconds of patience
YOUNG = 60.0  # seconds in which a lock file may be there before its lock is


def cluster_name(data: Path) -> str:
    """A name that the server and its workers carry in their command lines, so that they are known as this folder's."""
    return f"im-{hashlib.sha256(bytes(data)).hexdigest()[:10]}"


def end_server(data: Path) -> None:
    """Stop whatever still serves `data`, and remove a postmaster.pid that would keep PostgreSQL from starting.

    Only for the holder of the folder's lock. Raises EmbeddedPostgresError when a process survives even SIGKILL.
    """
    if not data.exists():
        return
    for sign, patience in ENDINGS:
        _send(sign, data)
        if _gone_within(patience, data):
            _remove_misleading_pid(data / "postmaster.pid")
            return
    pids = ", ".join(str(process.pid) for process in _alive(data))
    raise EmbeddedPostgresError(f"A former PostgreSQL on {data} cannot be ended: look at the processes {pids}.")


def _send(sign: signal.Signals, data: Path) -> None:
    for process in _alive(data):
        # An interrupt means something else to the workers: the postmaster tells them.
        if sign != signal.SIGINT or not _is_worker(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sign)
                process.send_signal(signal.SIGCONT)  # a stopped one would not hear it


def _gone_within(patience: float, data: Path) -> bool:
    give_up = time.monotonic() + patience
    while _alive(data):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def _alive(data: Path) -> list[psutil.Process]:
    owner = data.stat().st_uid
    running = psutil.process_iter(["cmdline", "uids"])
    return [process for process in running if _owned_by(process, owner) and _serves(process, data)]


def _owned_by(process: psutil.Process, owner: int) -> bool:
    uids = process.info["uids"]
    return uids is not None and uids.real == owner


def _serves(process: psutil.Process, data: Path) -> bool:
    """By its command line, which anybody may read, unlike its folder, and which a zombie has no more."""
    arguments = process.info["cmdline"] or [""]
    name = cluster_name(data)
    by_hand = Path(arguments[0]).name == "postgres" and str(data) in arguments
    return by_hand or f"cluster_name={name}" in arguments or arguments[0].startswith(f"postgres: {name}: ")


def _is_worker(process: psutil.Process) -> bool:
    return bool(process.info["cmdline"][0].startswith("postgres: "))


def _remove_misleading_pid(file: Path) -> None:
    """PostgreSQL refuses to start while any process has the number in the file, be it a zombie or an unrelated one."""
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        process = psutil.Process(int(file.read_text().split()[0]))
        if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
            file.unlink()


def sweep(place: Path) -> None:
    """Remove the ephemeral folders in `place` whose launcher is gone."""
    for folder in place.glob(f"{EPHEMERAL}*"):
        with contextlib.suppress(OSError, EmbeddedPostgresError):  # in use, or being removed by another
            _remove_abandoned(Home(folder))


def _remove_abandoned(home: Home) -> None:
    if home.folder.lstat().st_uid != os.geteuid() or time.time() - home.lock.lstat().st_mtime < YOUNG:
        return
    lock = Lock(home.lock)
    try:
        end_server(home.data)
        shutil.rmtree(home.folder, ignore_errors=True)
    finally:
        lock.release()
