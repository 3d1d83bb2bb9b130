"""A limit of memory on a running process, by a control group of its own: beyond it the kernel ends the process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.server import Missing

GROUPS = Path("/sys/fs/cgroup")
SECOND = GROUPS / "cgroup.controllers"  # is there where control groups are of the second version


@contextmanager
def at_most(pid: int, more: int) -> Iterator[None]:
    """Lets a process allocate so many bytes more than it holds already. Raises Missing where nobody may limit it."""
    second = SECOND.exists()
    group = (GROUPS if second else GROUPS / "memory") / f"im-test-{os.getpid()}-{pid}"
    limits = ("memory.max", "memory.swap.max") if second else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    try:
        group.mkdir()
        (group / limits[0]).write_text(str(more))
        with suppress(FileNotFoundError):  # where there is no swap to limit
            (group / limits[1]).write_text("0" if second else str(more))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        raise Missing(f"no control group can limit memory here: {error}") from None
    try:
        yield
    finally:
        for each in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(each)
        group.rmdir()
