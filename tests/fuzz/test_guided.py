"""Every decoder by atheris, which is guided by what is reached in the code: by `make fuzz`, where there is atheris."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.amount import INPUTS

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(7200)
@pytest.mark.skipif(INPUTS < 500_000, reason="make fuzz runs it")
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is for Linux on x86_64")
def test_no_input_that_reaches_something_new_ends_in_a_fault_of_ours(tmp_path: Path) -> None:
    guided = (sys.executable, "-m", "tests.fuzz.guided", str(INPUTS // 2), str(tmp_path))
    # by a small process: the kernel counts the most memory of whoever begot it as its own, and so does its limit
    command = ["sh", "-c", '"$@"; exit $?', "sh", *guided]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-5000:]
    assert f"Done {INPUTS // 2} runs" in ended.stderr
    print("\natheris:", ended.stderr.strip().splitlines()[-1], end=" ")
