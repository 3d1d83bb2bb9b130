"""One launcher a data folder: whoever holds the lock serves, and the lock file says who and where."""

import fcntl
import os
from pathlib import Path

from manager.embedded.errors import EmbeddedPostgresError


class Lock:
    """Held from its making to `release`, or to the end of this process: the kernel frees it, whatever the end."""

    def __init__(self, path: Path) -> None:
        """Raises EmbeddedPostgresError, naming the holder, when another launcher holds it."""
        self._file = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
        )  # not inherited: the server holds no lock
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = os.pread(self._file, 4096, 0).decode(errors="replace")
            os.close(self._file)
            raise EmbeddedPostgresError(_refusal(path.parent, told)) from None
        self.announce("")

    def announce(self, address: str) -> None:
        """Tell those who come second where this one serves, such as 'gRPC at 127.0.0.1:50052'."""
        told = f"{os.getpid()}\n{address}\n".encode()
        os.pwrite(self._file, told, 0)
        os.ftruncate(self._file, len(told))

    def release(self) -> None:
        os.ftruncate(self._file, 0)
        os.close(self._file)


def _refusal(folder: Path, told: str) -> str:
    pid, address, *_ = [*told.splitlines(), "", ""]
    return (
        f"already running: {address or 'address not known yet'}, pid {pid or 'not known yet'}, data in {folder}. "
        "Use that one, stop it first, or name another --data-dir."
    )
