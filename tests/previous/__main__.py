"""`python -m tests.previous`: the last release on the schema of this one.

Its tests of the repository, of the stream and of the wire run against databases that this one's `imctl` has migrated;
then its manager serves beside one of this release, on one database (tests/migrations/test_side_by_side.py).

The last release is the newest tag before this commit, or without one the commit that previous.toml names; IM_PREVIOUS
names another, or any commit. It is taken out into a folder of its own, with an environment of its own.
IM_PREVIOUS_TESTS chooses among its tests, as pytest's arguments. Those of its tests that fail for a reason are in
previous.toml too.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAMED = HERE / "previous.toml"
TESTS = "tests/repository tests/stream tests/wire"


def previous(named: dict[str, Any]) -> str:
    """Which tag or commit it is."""
    if given := os.environ.get("IM_PREVIOUS"):
        return given
    found = subprocess.run(
        ["git", "describe", "--tags", "--match", "v*", "--abbrev=0", "HEAD^"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return str(named["commit"]) if found.returncode else found.stdout.strip()


def hash_of(commit: str) -> str:
    """Its whole name."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        sys.exit(f"{commit} is not in this clone: fetch all of its history, or name another by IM_PREVIOUS")
    return found.stdout.strip()


def excepted(named: dict[str, Any], commit: str) -> dict[str, str]:
    """Which of its tests have to fail, and why."""
    return {
        test: reason
        for name, tests in named.items()
        if isinstance(tests, dict) and hash_of(name) == hash_of(commit)
        for test, reason in tests.items()
    }


def taken_out(commit: str, folder: Path) -> None:
    """Its files, and its environment."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    subprocess.run(["make", "-s", "setup"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def tested(folder: Path, failing: dict[str, str]) -> int:
    """What its own tests say."""
    chosen = os.environ.get("IM_PREVIOUS_TESTS", TESTS).split()
    plugin = {
        "PYTHONPATH": str(HERE),
        "IM_NEWER": str(ROOT),
        "IM_NEWER_PYTHON": sys.executable,
        "IM_EXCEPTED": json.dumps(failing),
    }
    command = [str(folder / ".venv/bin/python"), "-m", "pytest", "-q", "-p", "newer_schema", *chosen]
    return subprocess.run(command, cwd=folder, env={**os.environ, **plugin}, check=False).returncode


def beside(folder: Path) -> int:
    """What this one's test of the two says."""
    its = {
        "IM_PREVIOUS_IMCTL": str(folder / ".venv/bin/imctl"),
        "IM_TEST_PROTO_VERSION": (folder / "proto/proto_version").read_text().strip(),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/migrations/test_side_by_side.py"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **its}, check=False).returncode


def main() -> int:
    named = tomllib.loads(NAMED.read_text())
    commit = previous(named)
    failing = excepted(named, commit)
    with tempfile.TemporaryDirectory(prefix="im-previous-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL's own account runs what is in there
        taken_out(commit, folder)
        print(f"the tests of {commit}, on the schema of this commit", flush=True)
        return max(tested(folder, failing), beside(folder))


if __name__ == "__main__":
    sys.exit(main())
