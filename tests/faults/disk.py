"""Disks that fail: a small one for the log, which can be filled, and one that cannot flush."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from manager.embedded.account import Account
from tests.faults import trees
from tests.faults.server import LOST, PATIENCE, Missing, Server

SMALL = 48 * 2**20  # bytes: what PostgreSQL starts with, and some segments more


class Disk:
    """A file system of its own for a server's log; give `initdb` and `settings` to it when it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.initdb = ("--wal-segsize=1", f"--waldir={folder}/wal")
        # nothing is kept to be used again, or a server in its stride would not notice that the disk is full
        self.settings = {"wal_recycle": "off", "min_wal_size": "2MB", "max_wal_size": "8MB"}

    @property
    def ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Leaves no room. PostgreSQL goes on in the segment that it holds, a MB at most, and gives up at its end."""
        if free := shutil.disk_usage(self.folder).free:
            with self.ballast.open("ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), free)

    async def exhaust(self, server: Server) -> None:
        """Leaves no room, has the server come to the end of its segment, and returns once it has given up."""
        with suppress(*LOST):
            while True:
                self.fill()
                await server.value("select pg_switch_wal() from pg_logical_emit_message(true, '', '')")

    def free(self) -> None:
        """Gives the room back."""
        self.ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(size: int = SMALL) -> Iterator[Disk]:
    """A file system in memory of so many bytes. Raises Missing without the right to mount one."""
    account = Account.for_data(None)
    with tempfile.TemporaryDirectory(prefix="im-disk-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "disk"
        folder.mkdir()
        options = f"size={size},mode=0700,uid={account.uid},gid={account.gid}"
        _mount("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        try:
            yield Disk(folder)
        finally:
            _mount("umount", "--lazy", str(folder))


def _mount(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"the right to mount: {done.stderr.strip()}")


@asynccontextmanager
async def failing_fsync(server: Server, *pids: int, error: str = "EIO") -> AsyncIterator[None]:
    """Until left, fsync and fdatasync fail in these processes, or where none is named in all, also in new ones.

    PostgreSQL panics at the first one, and recovers by itself. Where its recovery meets the fault too, it does not:
    it is gone, or stays and answers nobody (18.6), and is to be killed and started anew. Raises Missing without
    strace, or without the right to trace.
    """
    if (strace := shutil.which("strace")) is None:
        raise Missing("apt-get install strace")
    chosen = pids or (server.pid, *(each.pid for each in trees.below(server.pid)))
    follow = () if pids else ("--follow-forks",)
    what = ("-e", "trace=fsync,fdatasync", "-e", f"inject=fsync,fdatasync:error={error}")
    whom = [word for pid in chosen for word in ("-p", str(pid))]
    tracer = await asyncio.create_subprocess_exec(
        strace, *follow, *what, "-o", "/dev/null", *whom, stderr=asyncio.subprocess.PIPE
    )
    try:
        await _attached(tracer, chosen)
        yield
    finally:
        if tracer.returncode is None:
            tracer.send_signal(signal.SIGINT)  # it lets go of them, and they go on
        await tracer.communicate()


async def _attached(tracer: asyncio.subprocess.Process, pids: tuple[int, ...]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not all(_tracer_of(pid) in (tracer.pid, None) for pid in pids):
            if tracer.returncode is not None and tracer.stderr is not None:
                raise Missing(f"the right to trace: {(await tracer.stderr.read()).decode()}")
            await asyncio.sleep(0.01)


def _tracer_of(pid: int) -> int | None:
    """None where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid"))
