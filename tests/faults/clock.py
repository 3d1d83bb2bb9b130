"""Another clock for one server: libfaketime, set while the server runs.

Under it a statement_timeout may fire late or not at all, as it may under any clock that jumps.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from tests.faults.server import Missing

MEMORY = Path("/dev/shm")


class Clock:
    """What the server's clock says; give `env` to it when it is started."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",  # or a change is seen after ten seconds
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.set(timedelta())

    def set(self, offset: timedelta) -> None:
        """From now on it is ahead of the machine's by so much, or behind it."""
        new = self._file.with_suffix(".new")
        # always signed: an offset without a sign ends the server; and never half a file: it is read at each look
        new.write_text(f"{offset.total_seconds():+.3f}\n")
        new.rename(self._file)


@contextmanager
def clock() -> Iterator[Clock]:
    """A clock that is right until set. Raises Missing without libfaketime."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        raise Missing("apt-get install faketime")
    with tempfile.TemporaryDirectory(prefix="im-clock-") as folder:
        Path(folder).chmod(0o755)
        _sweep()
        try:
            yield Clock(library, Path(folder) / "offset")
        finally:
            _sweep()


def _sweep() -> None:
    """A killed process leaves its shared memory behind, on which another one with its number would fail to start."""
    for each in (*MEMORY.glob("faketime_shm_*"), *MEMORY.glob("sem.faketime_sem_*")):
        if not os.path.exists(f"/proc/{each.name.rpartition('_')[2]}"):
            with suppress(FileNotFoundError):
                each.unlink()
