"""A server's life: start, stop, crash, start again."""

import os
import signal
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

from manager.embedded import EmbeddedPostgresError, start

Ask = Callable[[str, str], Awaitable[object]]


async def test_rows_outlive_a_stop_and_a_start(folder: Path, bin_dir: Path | None, ask: Ask) -> None:
    with start(folder, bin_dir=bin_dir) as postgres:
        await ask(postgres.url(), "create table kept as select 42 as answer")
        assert await ask(postgres.url(), "show server_version") == await ask(postgres.url(), "show server_version")
        assert str(await ask(postgres.url(), "show server_version")).startswith(postgres.version)
    with start(folder, bin_dir=bin_dir) as postgres:
        assert await ask(postgres.url(), "select answer from kept") == 42


async def test_rows_outlive_a_killed_server(folder: Path, bin_dir: Path | None, ask: Ask) -> None:
    with start(folder, bin_dir=bin_dir) as postgres:
        await ask(postgres.url(), "create table kept as select 42 as answer")
        postgres.process.kill()
        url = postgres.url()
        postgres.restart()
        assert postgres.url() == url
        assert await ask(url, "select answer from kept") == 42
        postgres.process.kill()
    with start(folder, bin_dir=bin_dir) as postgres:
        assert await ask(postgres.url(), "select answer from kept") == 42


async def test_a_running_server_restarts_on_its_port(made: Path, ask: Ask) -> None:
    with start(made, durable=False) as postgres:
        before, url = postgres.process.pid, postgres.url()
        postgres.restart()
        assert postgres.process.pid != before
        assert await ask(url, "select 1") == 1


async def test_a_stop_waits_for_no_client(made: Path) -> None:
    postgres = start(made, durable=False)
    connection = await asyncpg.connect(postgres.url())
    postgres.stop()
    postgres.stop()
    assert postgres.process.returncode == 0
    connection.terminate()


def test_ctrl_c_in_the_terminal_reaches_the_launcher_alone(made: Path) -> None:
    with start(made, durable=False) as postgres:
        assert os.getpgid(postgres.process.pid) != os.getpgid(0)


def test_a_frozen_server_is_stopped(made: Path) -> None:
    with start(made, durable=False) as postgres:
        postgres.process.send_signal(signal.SIGSTOP)
    assert postgres.process.returncode == 0


async def test_nobody_enters_without_the_password(made: Path) -> None:
    with start(made, durable=False) as postgres:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host="127.0.0.1", port=postgres.port, user="postgres", password="guessed")
        listening = psutil.Process(postgres.process.pid).net_connections("all")
        assert [tuple(entry.laddr) for entry in listening] == [("127.0.0.1", postgres.port)]


async def test_a_role_logs_in_with_the_same_password_at_each_start(made: Path, ask: Ask) -> None:
    with start(made, durable=False) as postgres:
        with pytest.raises(EmbeddedPostgresError, match="grant_login"):
            postgres.url("im_server", "fleet")
        await postgres.create_database("fleet")
        await ask(postgres.url(), "create role im_server nologin")
        first = await postgres.grant_login("im_server")
    with start(made, durable=False) as postgres:
        await postgres.create_database("fleet")
        assert await postgres.grant_login("im_server") == first
        assert await ask(postgres.url("im_server", "fleet"), "select session_user::text") == "im_server"


async def test_only_the_launcher_reads_the_passwords(made: Path, ask: Ask) -> None:
    with start(made, durable=False) as postgres:
        await ask(postgres.url(), "create role careful nologin")
        await postgres.grant_login("careful")
    files = list((made / "passwords").iterdir())
    assert {file.name for file in files} >= {"postgres", "careful"}
    assert {(stat.S_IMODE(file.stat().st_mode), file.stat().st_uid) for file in files} == {(0o600, os.geteuid())}
    assert stat.S_IMODE((made / "passwords").stat().st_mode) == 0o700
    assert stat.S_IMODE((made / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE((made / "postgres.log").stat().st_mode) == 0o600


def test_an_ephemeral_server_leaves_nothing() -> None:
    with start(ephemeral=True, durable=False) as postgres:
        folder, pid = postgres.data_dir, postgres.process.pid
        assert folder.exists()
    assert not folder.exists()
    assert not psutil.pid_exists(pid)


def test_an_ephemeral_server_takes_no_data_folder(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="--ephemeral or --data-dir"):
        start(folder, ephemeral=True)


def test_a_server_starts_from_the_main_thread_alone(folder: Path) -> None:
    refused: list[EmbeddedPostgresError] = []

    def attempt() -> None:
        try:
            start(folder, durable=False)
        except EmbeddedPostgresError as error:
            refused.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


def test_a_server_that_cannot_start_shows_the_end_of_its_log(folder: Path) -> None:
    start(folder, durable=False).stop()
    with (folder / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("shared_buffers = '1 banana'\n")
    with pytest.raises(EmbeddedPostgresError, match="banana"):
        start(folder, durable=False)


def test_a_long_log_is_put_aside_at_a_start(made: Path) -> None:
    with (made / "postgres.log").open("ab") as log:
        log.truncate(9 * 1024 * 1024)
    start(made, durable=False).stop()
    assert (made / "postgres.log").stat().st_size < 1024 * 1024
    assert (made / "postgres.log.1").stat().st_size == 9 * 1024 * 1024
