"""The cluster on the disk: whole, of the right version, upgraded by the commands that a refusal gives."""

import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from manager.embedded import EmbeddedPostgresError, start

Ask = Callable[[str, str], Awaitable[object]]


async def test_the_commands_of_a_refusal_upgrade_the_data(folder: Path, debian_15: Path, ask: Ask) -> None:
    with start(folder, bin_dir=debian_15) as postgres:
        await ask(postgres.url(), "create table kept as select 42 as answer")
    with pytest.raises(EmbeddedPostgresError, match="was made by PostgreSQL 15") as refused:
        start(folder)
    _, _, commands = str(refused.value).partition("\n\n")
    subprocess.run(["/bin/sh", "-eu"], input=commands, text=True, check=True, capture_output=True)
    with start(folder) as postgres:
        assert await ask(postgres.url(), "select answer from kept") == 42
    assert (folder / "postgres-15" / "PG_VERSION").exists()


def test_data_of_a_newer_version_names_its_binaries(made: Path, debian_15: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"IM_POSTGRES_BIN=.*cannot go back"):
        start(made, bin_dir=debian_15)


def test_an_interrupted_initdb_is_begun_anew(folder: Path) -> None:
    (folder / "postgres.unfinished").mkdir(parents=True)
    (folder / "postgres.unfinished" / "PG_VERSION").write_text("18\n")
    (folder / "lock").touch()
    (folder / "password-for-initdb").write_text("old")
    start(folder, durable=False).stop()
    assert {entry.name for entry in folder.iterdir()} >= {"postgres", "passwords", "lock"}
    assert not (folder / "postgres.unfinished").exists()
    assert not (folder / "password-for-initdb").exists()


def test_a_lost_password_is_named(folder: Path) -> None:
    start(folder, durable=False).stop()
    (folder / "passwords" / "postgres").unlink()
    with pytest.raises(EmbeddedPostgresError, match="passwords/postgres is gone"):
        start(folder, durable=False)


def test_a_folder_that_is_no_cluster_is_left_alone(folder: Path) -> None:
    (folder / "postgres").mkdir(parents=True)
    (folder / "lock").touch()
    with pytest.raises(EmbeddedPostgresError, match="is no PostgreSQL cluster"):
        start(folder, durable=False)
    assert not list((folder / "postgres").iterdir())
