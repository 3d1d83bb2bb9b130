"""Who asks questions stands back where cores are short: what PostgreSQL does for the auditor. Linux."""

import os
from contextlib import suppress
from pathlib import Path

NICE = 15


def stand_back(pid: int, niceness: int = NICE) -> None:
    """Gives a process less of the CPU where others want it; it stays so until it ends.

    One that stands further back already is left alone, and so is one that is gone, or not ours.
    """
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, pid) >= niceness:
            return
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
        # each is a session of its own, which many kernels weigh as a whole: by what stands here
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def of_role(postmaster: int, role: str) -> list[int]:
    """The processes that work for a role, as their titles say."""
    return [each for each in _children(postmaster) if f" {role} " in _title(each)]


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _title(pid: int) -> str:
    """Such as `postgres: im-0123456789: im_auditor instance_manager 127.0.0.1(40404) SELECT`."""
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
        return title if title.startswith("postgres: ") else ""
    return ""
