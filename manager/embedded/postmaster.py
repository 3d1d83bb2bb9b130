"""PostgreSQL's main process: our direct child, which does not outlive us, and which is ready when it says so itself."""

import contextlib
import functools
import logging
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from manager.embedded.account import Account
from manager.embedded.binaries import Binaries
from manager.embedded.cluster import Cluster
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.home import Home
from manager.embedded.leftovers import ENDINGS, cluster_name

logger = logging.getLogger(__name__)

SILENCE = 60.0  # seconds without a word; a long recovery reports its progress every 10 s
RETRIES = 10.0  # seconds
PASSING = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists', "Address already in use")
LOG_LIMIT = 8 * 1024 * 1024  # bytes; the log before that is kept once
STATUS_LINE = 7  # of postmaster.pid, counted from 0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # none: no path that is too long, nothing to clear away after a crash
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_startup_progress_interval": "10s",
}
CARELESS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server that was ready on 127.0.0.1:`port`."""

    process: subprocess.Popen[bytes]
    port: int


def launch(cluster: Cluster, port: int | None, *, durable: bool) -> Postmaster:
    """Start the server on `port`, or on a free one, and wait until it takes connections.

    Raises EmbeddedPostgresError with the end of its log when it ends, or says nothing for a minute.
    """
    if threading.current_thread() is not threading.main_thread():
        raise EmbeddedPostgresError("Start PostgreSQL from the main thread: it ends with the thread that started it.")
    _rotate(cluster.home.log)
    give_up = time.monotonic() + RETRIES
    while True:
        began = _size(cluster.home.log)
        if started := _attempt(cluster, port or _free_port(), durable=durable):
            return started
        told = _read_from(cluster.home.log, began)
        if time.monotonic() > give_up or not any(reason in told for reason in PASSING):
            raise EmbeddedPostgresError(f"PostgreSQL did not start; the end of {cluster.home.log}:\n{told[-2000:]}")
        time.sleep(0.2)


def _attempt(cluster: Cluster, port: int, *, durable: bool) -> Postmaster | None:
    with contextlib.ExitStack() as undo:
        process = _spawn(cluster, port, durable=durable)
        undo.callback(end, process)
        if not _becomes_ready(process, cluster.home):
            return None
        undo.pop_all()
        if cluster.archive:
            # the checkpointer has gone to sleep amid the start, and heeds archive_timeout once it is woken
            process.send_signal(signal.SIGHUP)
        return Postmaster(process, port)


def _spawn(cluster: Cluster, port: int, *, durable: bool) -> subprocess.Popen[bytes]:
    data = cluster.home.data
    archiving = cluster.archive.settings if cluster.archive else {}
    own = {"port": str(port), "cluster_name": cluster_name(data)}
    settings = {**SETTINGS, **archiving, **({} if durable else CARELESS), **own}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with cluster.home.log.open("ab") as log:
        return spawn(cluster.account, cluster.binaries, data, options, log)


def spawn(
    account: Account, binaries: Binaries, data: Path, options: Sequence[str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a postmaster on `data` as the account; from the main thread, with which it ends."""
    return account.spawn([*_ending_with_us(), binaries.postgres, "-D", data, *options], log)


@functools.cache
def _ending_with_us() -> tuple[str, ...]:
    """A prefix that has the kernel stop the server when its launcher is gone, even by SIGKILL."""
    prefix = (shutil.which("setpriv") or "setpriv", "--pdeathsig", "INT")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):  # not Linux, or a setpriv of busybox
        logger.warning(
            "setpriv of util-linux is missing: a PostgreSQL whose launcher is killed runs on until the next start"
        )
        return ()
    return prefix


def _becomes_ready(process: subprocess.Popen[bytes], home: Home) -> bool:
    """False when it ends first, or falls silent."""
    heard, size = time.monotonic(), _size(home.log)
    while process.poll() is None and time.monotonic() - heard < SILENCE:
        if _says_ready(process.pid, home.data / "postmaster.pid"):
            return True
        if (now := _size(home.log)) != size:
            heard, size = time.monotonic(), now
        time.sleep(0.01)
    return False


def _says_ready(pid: int, file: Path) -> bool:
    """The file may be that of a former server: only with our child's number does it speak of ours."""
    with contextlib.suppress(FileNotFoundError):
        lines = file.read_text().splitlines()
        return len(lines) > STATUS_LINE and lines[0] == str(pid) and lines[STATUS_LINE].strip() == "ready"
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server, first without waiting for its clients, then without tidying up. It has ended on return."""
    for sign, patience in ENDINGS:
        if process.poll() is None:
            process.send_signal(sign)
            process.send_signal(signal.SIGCONT)  # a stopped one would not hear it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rotate(log: Path) -> None:
    if _size(log) > LOG_LIMIT:
        log.rename(log.with_suffix(".log.1"))
    log.touch(mode=0o600)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _read_from(log: Path, position: int) -> str:
    with log.open("rb") as file:
        file.seek(position)
        return file.read().decode(errors="replace")
