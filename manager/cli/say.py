"""What a person is told, on stderr: stdout is for data."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # most verbs ask nothing, and what asks takes long to import
    from socket import socket


def say(what: str, then: str = "") -> None:
    """A line what is the matter, and where something can be done about it a line what."""
    with suppress(OSError):  # a terminal that is gone must not stop the cleaning up
        for start, line in (("imctl: ", what), ("       ", then)):
            if line:
                print(f"{start}{line}", file=sys.stderr, flush=True)


def say_more(line: str) -> None:
    """One line more of what was said."""
    say("", line)


def agreed(question: str) -> bool:
    """Whether the person at the terminal says yes. Ctrl-C raises KeyboardInterrupt, in a running loop too."""
    import select

    with _interruptible() as interrupted:
        print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
        # a signal between a look at the pending ones and the read would not end the read; this it ends
        select.select([sys.stdin, interrupted], [], [])
        return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def _interruptible() -> "Iterator[socket]":
    """Ctrl-C raises at once, and makes what is given readable.

    A running loop has a handler of its own, which only marks its task as cancelled: no wait for a line ends by that,
    neither by a Ctrl-C that comes now nor by one that came before.
    """
    from socket import socketpair

    readable, written = socketpair()
    with readable, written:
        written.setblocking(False)
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        descriptor = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        try:
            if _is_cancelled():
                raise KeyboardInterrupt
            yield readable
        finally:
            signal.set_wakeup_fd(descriptor)
            signal.signal(signal.SIGINT, handler)


def _is_cancelled() -> bool:
    import asyncio

    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs
        return False
    return task is not None and task.cancelling() > 0
