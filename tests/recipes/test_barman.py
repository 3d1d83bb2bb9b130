"""docs/operations.md with Barman, command by command: a database is lost with its disk, and comes back.

`make recipes`: with Debian's packages barman and postgresql-15. Barman and PostgreSQL are one account on one host here.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from time import perf_counter

import asyncpg
import pytest

from tests.conftest import PASSWORD
from tests.drilling import managing, registering
from tests.faults.server import NAME
from tests.recipes.lost import DEPLOY, Own, Told, kept_again, lived, own_server, serves_again

pytestmark = [
    pytest.mark.skipif("IM_RECIPES" not in os.environ, reason="takes Debian's packages: make recipes"),
    pytest.mark.timeout(300),
]

LOAD = 5.0  # seconds
BEHIND = 5.0


@pytest.fixture
async def own() -> AsyncIterator[Own]:
    async with own_server() as server:
        folder, port = server.folder, server.server.port
        for each in ("barman", "barman.d"):
            (folder / each).mkdir()
            server.server.account.own(folder / each)
        # what Debian's /etc/barman.conf says, with other folders
        server.write(
            "home/.barman.conf",
            f"[barman]\nbarman_user = {server.server.account.name}\nbarman_home = {folder}/barman\n"
            f"configuration_files_directory = {folder}/barman.d\nlog_file = {folder}/barman.log\n",
        )
        text = (DEPLOY / "barman.conf").read_text()
        here = {"host=db1": f"host=127.0.0.1 port={port}", "dbname=instance_manager": f"dbname={NAME}"}
        for theirs, own in here.items():
            text = text.replace(theirs, own)
        server.write("barman.d/fleet.conf", text)
        server.server.environment["HOME"] = server.variables["HOME"]
        await server.run("barman-prepare", PASSWORD=PASSWORD)
        try:
            yield server
        finally:
            await server.bash("barman receive-wal --stop fleet || true")


async def lost(own: Own) -> Told:
    """What was told of a fleet that is gone with its disk, though not with what Barman has."""
    told = await lived(own, "barman-backup", "barman-complete")
    await own.lose()
    return told


@pytest.mark.parametrize("moment", ["time", "revision"])
async def test_a_database_comes_back_from_barman(own: Own, moment: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = await lost(own)
    await own.run(f"barman-to-{moment}", TIME=told.time)
    took = await serves_again(own, told)
    await kept_again(own, "barman-again")
    with capsys.disabled():
        print(f"\nBarman, to a {moment}: {own.said(took)}")


async def test_a_revision_that_only_the_archive_knows_comes_back_from_barman(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    told = await lost(own)
    (own.folder / "backups" / "xid").unlink()
    await own.run("barman-to-the-end", PGDATA=str(own.scratch))
    await own.run("look", REVISION=str(told.revision))
    await own.run("barman-to-revision")
    took = await serves_again(own, told)
    with capsys.disabled():
        print(f"\nBarman, to a revision that only the archive knows: {own.said(took)}")


@pytest.mark.parametrize("waiting", [False, True], ids=["behind", "waited for"])
async def test_of_a_database_that_is_gone_barman_has_all_but_the_last_moments(
    own: Own, waiting: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where commits wait for it, all."""
    async with managing(own.server.database.url) as client, registering(client) as told:
        await own.run("barman-backup")
        if waiting:
            await own.run("barman-synchronous")
        await asyncio.sleep(LOAD)
        lost_at = perf_counter()
        await own.lose()
    await own.run("barman-to-the-end")
    await own.recovered()
    there = {str(each["id"]) for each in await rows(own, "select id from instance")}
    gone = [at for at, one in told if at < lost_at and one not in there]
    window = lost_at - gone[0] if gone else 0.0
    assert window < BEHIND
    if waiting:
        assert not gone
    with capsys.disabled():
        print(f"\nBarman, {waiting=}: {len(told)} acknowledged, {len(gone)} lost: the last {window:.2f} s")


async def rows(own: Own, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(own.url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()
