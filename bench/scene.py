"""What the benchmarks of the stream share: a database, managers, and the machine's description."""

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from manager.embedded import Postgres
from manager.repository import migrations

SERVE = ("serve", "--port", "0", "--bind", "127.0.0.1")
NAME = "bench"


async def prepared(postgres: Postgres) -> str:
    """A migrated database; its address for the server's role."""
    await postgres.create_database(NAME)
    await migrations.upgrade(postgres.url(database=NAME))
    await postgres.grant_login("im_server")
    return postgres.url("im_server", NAME)


def machine(postgres: Postgres) -> str:
    """What the figures were taken on."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, PostgreSQL {postgres.version} (fsync on),"
        f" load {os.getloadavg()[0]:.1f}"
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def resident(pid: int) -> float:
    """The memory of a process, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def cpu(pid: int) -> float:
    """The seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family_cpu(pid: int) -> float:
    """The same of a process and all that it has started, those that have ended and were waited for too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has just ended, and its parent has the sum
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(family_cpu(int(each)) for each in children)


def open_files(pid: int) -> int:
    """The file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
