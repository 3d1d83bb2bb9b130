"""What stdout can write: not every terminal, and not every pipe, is UTF-8."""

import io
import sys


def unicode() -> bool:
    """Whether it can write all there is."""
    # what catches our output in the place of a terminal may have no encoding
    encoding = getattr(sys.stdout, "encoding", None) or getattr(sys.__stdout__, "encoding", None) or ""
    return encoding.lower().startswith("utf")


def escape_the_rest() -> None:
    """Has what cannot be written come as `\\xe9`, where it would be the end of the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
