"""Runs `imctl` once for each of the command lines on stdin, in one process; what became of each, as JSON, on stdout.

A process for each would take minutes in the whole.
"""

import contextlib
import io
import json
import sys

from manager.cli.app import imctl


def ended(arguments: list[str]) -> dict[str, object]:
    """One run."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            imctl(arguments)
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": written(out), "err": written(err)}


def written(to: io.TextIOWrapper) -> str:
    """All of it."""
    to.seek(0)
    return to.read()


if __name__ == "__main__":
    print(json.dumps([ended(each) for each in json.load(sys.stdin)]))
