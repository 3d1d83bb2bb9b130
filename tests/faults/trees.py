"""A process with all that it begot: stopped, continued, or killed as one."""

import asyncio
import os
import signal
from contextlib import suppress

import psutil

STOPPED, GONE = psutil.STATUS_STOPPED, (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def below(pid: int) -> list[psutil.Process]:
    """All descendants; none where it is gone."""
    with suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


async def freeze(pid: int) -> None:
    """SIGSTOP for all, the eldest first, since a stopped one begets no more. All stand still on return."""
    while running := [each for each in _tree(pid) if _status(each) not in (STOPPED, *GONE)]:
        for each in running:
            _send(each, signal.SIGSTOP)
        await asyncio.sleep(0.01)


def thaw(pid: int) -> None:
    """SIGCONT for all."""
    for each in reversed(_tree(pid)):
        _send(each, signal.SIGCONT)


async def kill(pid: int) -> None:
    """SIGKILL for all, who have no time to notice that another one is gone. Their parents may have to wait for them."""
    _send_to(pid, signal.SIGSTOP)
    await asyncio.sleep(0.01)
    victims = _tree(pid)
    for each in victims:
        _send(each, signal.SIGKILL)
    while any(_status(each) not in GONE for each in victims):
        await asyncio.sleep(0.01)


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid), *below(pid)]
    return []


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_DEAD)


def _send(process: psutil.Process, sign: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(sign)


def _send_to(pid: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sign)
