"""What a person is told, on stderr: stdout is for data."""

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
