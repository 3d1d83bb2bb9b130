"""Who asks questions stands back where cores are short: what PostgreSQL does for the auditor. Linux."""

import os
from contextlib import suppress
from pathlib import Path

NICE = 15
# microseconds of CPU in each so many: a tenth of a core, and little at a time, since whoever is served waits as long
QUOTA, PERIOD = 2_000, 20_000
# where the kernel's groups of processes are, of either version
GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu"))


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


class Allowance:
    """A tenth of a core for all who are held to it, where this system lets us: as root, outside most containers.

    Niceness does not do what this does: who is served pays for a core that is taken, however willingly it is given up.
    """

    def __init__(self, name: str) -> None:
        self._group: Path | None = None
        for root in GROUPS:
            with suppress(OSError):
                self._group = _limited(root, name)
                return

    @property
    def holds(self) -> bool:
        """Whether this system lets us."""
        return self._group is not None

    def hold(self, pid: int) -> None:
        """From now on; one that is gone, or not ours, is left alone."""
        if self._group is not None:
            with suppress(OSError):
                (self._group / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """Lets all go."""
        if self._group is not None:
            with suppress(OSError):
                for each in (self._group / "cgroup.procs").read_text().split():
                    (self._group.parent / "cgroup.procs").write_text(each)
                self._group.rmdir()


def _limited(root: Path, name: str) -> Path:
    """A group of that name; raises OSError where there can be none."""
    group = root / name
    if (root / "cgroup.controllers").exists():
        (root / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir(exist_ok=True)
        (group / "cpu.max").write_text(f"{QUOTA} {PERIOD}")
    else:
        (root / "cpu.cfs_quota_us").stat()
        group.mkdir(exist_ok=True)
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA))
    return group
