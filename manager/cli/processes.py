"""The process tree below a process: who is in it, what memory it uses, and its end."""

import asyncio
import ctypes
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36
POLL = 0.05
KILL_PATIENCE = 10.0


def adopt_orphans() -> bool:
    """From now on this process is the parent of descendants whose own parent ended, so that none escapes the tree.

    Whether the system can do it (Linux); elsewhere a daemon that leaves its parent is lost from sight.
    """
    if sys.platform != "linux":
        return False
    return int(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def descendants(root: psutil.Process) -> list[psutil.Process]:
    """All that descends from a process and runs; the dead that nobody waited for are not counted."""
    with suppress(psutil.NoSuchProcess):
        return [each for each in root.children(recursive=True) if runs(each)]
    return []


def runs(process: psutil.Process) -> bool:
    """Whether a process is more than a zombie."""
    with suppress(psutil.NoSuchProcess):
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def used_memory(processes: Iterable[psutil.Process]) -> int:
    """The bytes of memory that they use, what they share counted once where the system tells."""
    return sum(memory_of(each) for each in processes)


def memory_of(process: psutil.Process) -> int:
    """Its share of resident memory (PSS), or all of it (RSS) where the system does not tell; 0 when it has ended."""
    with suppress(psutil.NoSuchProcess):
        try:
            full = process.memory_full_info()
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
        return int(getattr(full, "pss", 0) or full.rss)
    return 0


async def stop(root: psutil.Process, grace: float, hurry: asyncio.Event) -> list[psutil.Process]:
    """Ends all that descends from a process: TERM, and after `grace` seconds or at once in a `hurry` KILL.

    Returns who could not be ended within 10 s: those of another user, or stuck in the kernel.
    """
    send(signal.SIGTERM, descendants(root))
    if not await gone(root, grace, hurry):
        await killed(root)
    return descendants(root)


async def gone(root: psutil.Process, grace: float, hurry: asyncio.Event) -> bool:
    """Whether all ended within the grace, or before a hurry began."""
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    while descendants(root):
        if loop.time() >= until or hurry.is_set():
            return False
        await asyncio.sleep(POLL)
    return True


async def killed(root: psutil.Process) -> None:
    """Kills again and again, since those killed last may have had children meanwhile."""
    loop = asyncio.get_running_loop()
    until = loop.time() + KILL_PATIENCE
    while (left := descendants(root)) and loop.time() < until:
        send(signal.SIGKILL, left)
        await asyncio.sleep(POLL)


def send(sign: signal.Signals, processes: Sequence[psutil.Process]) -> None:
    """Signals each; those that ended, or are not ours to signal, are passed over."""
    for each in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            each.send_signal(sign)
