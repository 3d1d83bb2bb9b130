"""What `make previous` makes of tests that have to fail, and where it looks for the release before."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NAMED = tomllib.loads((HERE / "previous.toml").read_text())

TESTS = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_fails(number):
    assert number == 0

def test_passes():
    pass
"""


def ended(folder: Path, excepted: list[str]) -> int:
    """The exit code of a pytest that runs them with the plugin."""
    (folder / "test_some.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    its = {"PYTHONPATH": str(HERE), "IM_EXCEPTED": json.dumps(dict.fromkeys(excepted, "for a reason"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "newer_schema", "-p", "no:schemathesis", "test_some.py"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **its}, stdout=subprocess.DEVNULL, check=False
    ).returncode


@pytest.mark.parametrize(
    ("excepted", "code"),
    [
        ([], 1),
        (["test_some.py::test_fails"], 0),
        (["test_some.py::test_fails[1]", "test_some.py::test_fails[2]"], 0),
        (["test_some.py::test_fails[1]"], 1),
        (["test_some.py::test_fails", "test_some.py::test_passes"], 1),
        (["test_some.py::test_fails", "test_some.py::test_gone"], 4),
        (["test_some.py::test_fails", "test_other.py::test_fails"], 0),  # of a file that is not run
    ],
)
def test_what_is_excepted_fails_and_nothing_else_does(tmp_path: Path, excepted: list[str], code: int) -> None:
    assert ended(tmp_path, excepted) == code


def test_the_commit_in_place_of_a_release_is_of_this_history_and_has_another_schema() -> None:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)

    if git("rev-parse", "--verify", f"{NAMED['commit']}^{{commit}}").returncode:
        pytest.skip("not a clone, or one without its history")
    assert git("merge-base", "--is-ancestor", NAMED["commit"], "HEAD").returncode == 0
    assert git("diff", "--quiet", NAMED["commit"], "--", "../../migrations/versions").returncode == 1
