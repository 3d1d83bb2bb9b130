"""The data folder and the account: who may enter, and what is never touched."""

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from manager.embedded import EmbeddedPostgresError, start

Ask = Callable[[str, str], Awaitable[object]]

# Everything is imported first: the interpreter may live where the account cannot reach it.
ORDINARY = """
import encodings.idna, os, pwd, sys
from pathlib import Path
import asyncpg, psutil
from manager.embedded import start

account = pwd.getpwnam("nobody")
os.setgroups([]), os.setresgid(*[account.pw_gid] * 3), os.setresuid(*[account.pw_uid] * 3)
with start(Path(sys.argv[1]), durable=False) as postgres:
    print(postgres.process.pid, postgres.url(), flush=True)
    sys.stdin.read()
"""


def test_files_of_others_are_left_alone(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").touch()
    with pytest.raises(EmbeddedPostgresError, match="holds other files"):
        start(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [entry.name for entry in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("as_root")
def test_a_folder_closed_to_the_account_is_refused_and_stays_closed(folder: Path) -> None:
    folder.parent.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match="cannot enter"):
        start(folder)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


@pytest.mark.usefixtures("as_root")
def test_root_lends_the_server_an_account_that_cannot_touch_the_rest(made: Path) -> None:
    with start(made, durable=False) as postgres:
        uids, groups = psutil.Process(postgres.process.pid).uids(), Path(f"/proc/{postgres.process.pid}/status")
        assert 0 not in uids
        assert "Groups:\t \n" in groups.read_text()
    assert (made.stat().st_uid, stat.S_IMODE(made.stat().st_mode)) == (0, 0o710)
    assert (made / "postgres").stat().st_uid == uids.real


@pytest.mark.usefixtures("as_root")
async def test_the_owner_of_the_data_goes_on_owning_it(folder: Path, ask: Ask) -> None:
    start(folder, durable=False).stop()
    nobody = pwd.getpwnam("nobody")
    for path in [folder / "postgres", *(folder / "postgres").rglob("*")]:
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    with start(folder, durable=False) as postgres:
        assert psutil.Process(postgres.process.pid).uids().real == nobody.pw_uid
        assert await ask(postgres.url(), "select 1") == 1


@pytest.mark.usefixtures("as_root")
async def test_an_ordinary_user_runs_it_too(folder: Path, ask: Ask) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder.parent, nobody.pw_uid, nobody.pw_gid)
    command: list[str | Path] = [sys.executable, "-c", ORDINARY, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid, url = launcher.stdout.readline().split()
        assert psutil.Process(int(pid)).uids().real == nobody.pw_uid
        assert await ask(url, "select 1") == 1
        launcher.communicate()
    assert launcher.returncode == 0
    assert (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)) == (nobody.pw_uid, 0o700)
