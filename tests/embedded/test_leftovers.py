"""Killed launchers, second starts, and what a crash leaves behind."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from manager.embedded import EmbeddedPostgresError, start
from manager.embedded.account import Account
from manager.embedded.home import EPHEMERAL

Ask = Callable[[str, str], Awaitable[object]]

PROGRAM = """
import sys
from pathlib import Path
from manager.embedded import start

with start(Path(sys.argv[1]) if sys.argv[1:] else None, ephemeral=not sys.argv[1:], durable=False) as postgres:
    postgres.announce("gRPC at 127.0.0.1:50052")
    print(postgres.process.pid, postgres.url(), postgres.data_dir, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Launcher:
    """A launcher in a process of its own, and the server that it started."""

    process: subprocess.Popen[str]
    server: int
    url: str
    folder: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def launch() -> Iterator[Callable[..., Launcher]]:
    """Start a launcher on a folder, or on an ephemeral one, with variables of its environment changed."""
    launched: list[subprocess.Popen[str]] = []

    def run(*folder: Path, **environment: str) -> Launcher:
        command: list[str | Path] = [sys.executable, "-c", PROGRAM, *folder]
        pipes = {**os.environ, **environment}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=pipes)
        launched.append(process)
        assert process.stdout is not None
        pid, url, place = process.stdout.readline().split()
        return Launcher(process, int(pid), url, Path(place))

    yield run
    for process in launched:
        process.communicate(timeout=30)


def ends(pid: int) -> bool:
    """Whether the process ends within 10 s; a zombie has ended."""
    give_up = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.02)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_launcher_takes_its_server_with_it(made: Path, launch: Callable[..., Launcher]) -> None:
    launcher = launch(made)
    launcher.kill()
    assert ends(launcher.server)


async def test_a_server_without_its_launcher_is_replaced(made: Path, launch: Callable[..., Launcher], ask: Ask) -> None:
    launcher = launch(made, PATH="/nowhere")  # no setpriv there
    await ask(launcher.url, "create table kept as select 42 as answer")
    launcher.kill()
    assert await ask(launcher.url, "select answer from kept") == 42
    with start(made, durable=False) as postgres:
        assert postgres.process.pid != launcher.server
        assert ends(launcher.server)
        assert await ask(postgres.url(), "select answer from kept") == 42


async def test_a_second_start_names_the_first_and_leaves_it_alone(
    made: Path, launch: Callable[..., Launcher], ask: Ask
) -> None:
    launcher = launch(made)
    with pytest.raises(EmbeddedPostgresError) as refused:
        start(made)
    assert f"already running: gRPC at 127.0.0.1:50052, pid {launcher.process.pid}" in str(refused.value)
    assert await ask(launcher.url, "select 1") == 1


def test_a_start_that_fails_gives_the_folder_free(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="There is no PostgreSQL"):
        start(folder, bin_dir=tmp_path)
    start(folder, durable=False).stop()


async def test_a_stale_ready_file_is_not_believed(made: Path, ask: Ask) -> None:
    """Neither with a number that nobody has, nor with that of a zombie, nor with an unrelated process's."""
    with start(made, durable=False) as postgres:
        written = (made / "postgres" / "postmaster.pid").read_text()
        account = Account.for_data(made / "postgres")
    with account.spawn(["/bin/sleep", "60"], subprocess.DEVNULL) as unrelated:
        with account.spawn(["/bin/true"], subprocess.DEVNULL) as zombie:
            assert ends(zombie.pid)
            for pid in (2**22 + 1, zombie.pid, unrelated.pid):
                _, _, rest = written.partition("\n")
                (made / "postgres" / "postmaster.pid").write_text(f"{pid}\n{rest}")
                with start(made, durable=False) as postgres:
                    assert await ask(postgres.url(), "select 1") == 1
        assert unrelated.poll() is None
        unrelated.kill()


def test_an_abandoned_ephemeral_folder_is_swept(launch: Callable[..., Launcher]) -> None:
    launcher, other = launch(PATH="/nowhere"), launch()  # no setpriv there: its server goes on
    launcher.kill()
    for folder in (launcher.folder, other.folder):
        os.utime(folder / "lock", (0, 0))
    start(ephemeral=True, durable=False).stop()
    assert ends(launcher.server)
    assert not launcher.folder.exists()
    assert other.folder.exists()
    assert launcher.folder.name.startswith(EPHEMERAL)
    assert launcher.folder.parent == Path(tempfile.gettempdir()).resolve()
