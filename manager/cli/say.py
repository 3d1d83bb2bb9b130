"""What a person is told, on stderr: stdout is for data."""

import signal
import sys
from contextlib import suppress


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
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    # a running loop has a handler of its own, which cannot end the wait for a line
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    finally:
        signal.signal(signal.SIGINT, before)
