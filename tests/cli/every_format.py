"""Runs `imctl` once for each of the command lines on stdin, each in a fork; what became of each, as JSON, on stdout.

A process for each from its beginning would take minutes in the whole. One for all would have several loops one after
the other, of which gRPC's older releases hear each other's events; and people's have one.
"""

import contextlib
import io
import json
import os
import sys

from manager.cli.app import VERBS, imctl, loaded


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


def forked(arguments: list[str]) -> dict[str, object]:
    """One run, in a process of its own that has all of this one's modules."""
    from_child, to_parent = os.pipe()
    if not os.fork():
        with os.fdopen(to_parent, "w") as told:
            json.dump(ended(arguments), told)
        os._exit(0)
    os.close(to_parent)
    with os.fdopen(from_child) as heard:
        told_by_child: dict[str, object] = json.load(heard)
    os.wait()
    return told_by_child


if __name__ == "__main__":
    lines: list[list[str]] = json.load(sys.stdin)
    for verb in VERBS.keys() & {each[0] for each in lines if each}:
        loaded(verb, VERBS[verb])
    print(json.dumps([forked(each) for each in lines]))
