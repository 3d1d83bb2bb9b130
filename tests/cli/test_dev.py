"""`imctl dev`, and the verbs that a newcomer tries on it, as processes."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import psutil
import pytest

from manager.embedded import published
from manager.embedded.niceness import NICE
from tests.processes import Running, imctl, started


@pytest.fixture
async def dev() -> AsyncIterator[Running]:
    """A manager with a database of its own that nobody else sees. It speaks in words, whoever listens."""
    async with started("dev", "--ephemeral", "--port", "0", IM_LOG_FORMAT="") as running:
        yield running


@pytest.fixture
def folder() -> Iterator[str]:
    """A data folder to be, which the server's account can reach: pytest closes the folders that it makes."""
    with TemporaryDirectory(dir="/tmp", prefix="im-") as parent:
        Path(parent).chmod(0o755)
        yield f"{parent}/data"


async def test_the_banner_says_where_everything_is(dev: Running) -> None:
    for word in ("gRPC", "[::1]:", "proto_version", "PostgreSQL", "nothing is kept", "imctl sql --data-dir", "Ctrl-C"):
        assert word in dev.said


async def test_the_fleet_is_listed_described_killed_and_asked_in_sql(dev: Running) -> None:
    listed = await imctl("get", "--address", dev.address)
    assert listed.code == 0
    header, manager = listed.out.splitlines()
    assert header.split() == ["ID", "STATUS", "TYPE", "HOSTNAME", "PARENT", "SERVICES", "CREATED"]
    assert "INSTANCE_MANAGER" in manager
    folder = dev.said.split("--data-dir ")[1].split()[0]
    asked = await imctl("sql", "--data-dir", folder, "--", "-Atc", "select type from trees")
    assert asked.out == "INSTANCE_MANAGER\n"
    one = manager.split()[0]
    assert "● healthy" in (await imctl("describe", one, IM_ADDRESS=dev.address)).out
    killed = await imctl("kill", one, "--yes", "--note", "enough", IM_ADDRESS=dev.address)
    assert killed.code == 0
    ended = await dev.stop(signal.SIGCONT)  # it ends by itself: its own kill reached it
    assert ended.code == 0
    assert "(enough)" in ended.err


@pytest.mark.timeout(400)
async def test_an_archive_that_fails_is_told_by_the_doctor_until_it_works_again(folder: str) -> None:
    kept = Path(folder).parent / "kept"
    chosen = ("--data-dir", folder, "--port", "0", "--archive", str(kept))
    async with started("dev", *chosen, IM_ARCHIVE_WITHIN="1") as running:

        async def told(state: str) -> str:
            """What the doctor finds, once it is that."""
            async with asyncio.timeout(90):
                while True:
                    ended = await imctl("doctor", "--data-dir", folder, "-o", "json", IM_ADDRESS=running.address)
                    found = {each["check"]: each for each in json.loads(ended.out)}
                    assert found["archive disk"]["found"].endswith(str(kept / "wal"))
                    if found["archive"]["state"] == state and found["archive"]["found"] != "nothing yet":
                        return str(found["archive"]["found"])
                    await asyncio.sleep(0.2)

        assert "ago" in await told("ok")
        (kept / "wal").chmod(0o500)
        assert "it fails" in await told("failed")
        (kept / "wal").chmod(0o700)
        assert "ago" in await told("ok")


async def test_an_id_that_never_was_is_not_found(dev: Running) -> None:
    ended = await imctl("describe", "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f", "--address", dev.address)
    assert (ended.code, ended.out) == (3, "")
    assert "was ever registered" in ended.err


async def test_a_manager_that_is_not_there_is_named_with_what_to_do() -> None:
    ended = await imctl("get", "--address", "127.0.0.1:1")
    assert ended.code == 4
    assert "imctl dev" in ended.err


async def test_data_is_kept_between_starts_and_a_second_start_names_the_first(folder: str) -> None:
    async with started("dev", "--data-dir", folder, "--port", "0") as first:
        assert f"kept in {folder}" in first.said
        second = await imctl("dev", "--data-dir", folder, "--port", "0")
        assert second.code == 1
        assert "already running" in second.err
        assert str(first.process.pid) in second.err
        assert (await first.stop()).code == 0
    async with started("dev", "--data-dir", folder, "--port", "0") as again:
        asked = await imctl(
            "sql", "--data-dir", folder, "--", "-Atc", "select count(*) from events where event = 'ADDED'"
        )
        assert asked.out == "2\n"  # the two managers
        query = "select event, count(*) as number from events group by 1"
        told = await imctl("sql", "--data-dir", folder, "-c", query, "-o", "json")
        assert {"event": "ADDED", "number": "2"} in json.loads(told.out)
        assert (await again.stop(signal.SIGTERM)).code == 0


async def test_a_port_that_is_taken_is_named_with_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = await imctl("dev", "--ephemeral", "--port", port)
    assert ended.code == 1
    assert (
        ended.err.strip().splitlines()[-1]
        == f"imctl: port {port} is taken: choose another with --port, or 0 for a free one"
    )


async def test_nothing_runs_on_after_a_stop(dev: Running) -> None:
    family = psutil.Process(dev.process.pid).children(recursive=True)
    assert any(each.name() == "postgres" for each in family)
    assert (await dev.stop()).code == 0
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def test_a_postgresql_that_is_killed_comes_back_by_itself(dev: Running) -> None:
    postmaster = next(each for each in psutil.Process(dev.process.pid).children() if each.name() == "postgres")
    postmaster.kill()
    async with asyncio.timeout(60):
        while (await imctl("get", "--address", dev.address)).code != 0:
            await asyncio.sleep(0.2)


async def test_serve_and_migrate_need_a_database() -> None:
    for verb in ("serve", "migrate"):
        ended = await imctl(verb)
        assert ended.code == 1
        assert "DATABASE_URL is not set" in ended.err
        ended = await imctl(verb, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", IM_BIND='["127.0.0.1"]')
        assert ended.code == 1
        assert "Traceback" not in ended.err


async def test_a_wrong_setting_is_named(dev: Running) -> None:
    ended = await imctl("serve", IM_REAPER_INTERVAL="often")
    assert ended.code == 1
    assert "reaper_interval" in ended.err


@pytest.mark.skipif(sys.platform != "linux", reason="it is known by a title, as on Linux")
async def test_what_an_auditor_asks_stands_back(folder: str) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    async with started("dev", "--data-dir", folder, "--port", "0"):
        connection = await asyncpg.connect(published(Path(folder), "im_auditor"))
        async with asyncio.timeout(10):
            while os.getpriority(os.PRIO_PROCESS, connection.get_server_pid()) != max(usual, NICE):
                await asyncio.sleep(0.05)
        await connection.close()
