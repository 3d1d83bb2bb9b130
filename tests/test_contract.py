"""The contract's files: current, and compatible with what was released before."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUF = Path(sys.executable).parent / "buf"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contract and what was generated from it."""
    for name in ("proto", "manager/pb"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def script(copy: Path, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, copy / "proto" / name, *arguments], cwd=copy, capture_output=True, text=True)


def change(copy: Path, old: str, new: str) -> None:
    path = copy / "proto/instance_manager.proto"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def release(copy: Path) -> None:
    """Says of the present contract that it was released as 0.0.9, and is accepted still."""
    (copy / "proto/released").mkdir()
    subprocess.run([BUF, "build", "-o", "proto/released/0.0.9.binpb"], cwd=copy, check=True)
    with (copy / "proto/compatible_versions").open("a") as accepted:
        accepted.write("0" * 64 + " 0.0.9\n")


def test_the_generated_files_are_current(copy: Path) -> None:
    assert script(copy, "generate.py", "--check").returncode == 0


def test_a_changed_proto_file_makes_them_stale(copy: Path) -> None:
    change(copy, "string hostname = 3;", "string hostname = 3; // changed")
    stale = script(copy, "generate.py", "--check")
    assert stale.returncode != 0
    assert "make proto" in stale.stderr
    assert script(copy, "generate.py").returncode == 0
    assert script(copy, "generate.py", "--check").returncode == 0


def test_an_addition_is_compatible_with_a_release(copy: Path) -> None:
    release(copy)
    change(copy, "string note = 2;", "string note = 2;\n  string ticket = 3;")
    assert script(copy, "compatible.py").returncode == 0


def test_a_changed_field_is_not(copy: Path) -> None:
    release(copy)
    change(copy, "string note = 2;", "int64 note = 2;")
    assert script(copy, "compatible.py").returncode != 0


def test_an_accepted_release_without_its_image_is_an_error(copy: Path) -> None:
    release(copy)
    (copy / "proto/released/0.0.9.binpb").unlink()
    assert "0.0.9" in script(copy, "compatible.py").stderr


def test_accepted_releases_are_served(copy: Path) -> None:
    release(copy)
    assert script(copy, "generate.py").returncode == 0
    assert "0" * 64 in (copy / "manager/pb/version.py").read_text()
