"""docs/operations.md with pgBackRest, command by command: a database is lost with its disk, and comes back.

`make recipes`: with Debian's packages pgbackrest and postgresql-15.
"""

import os
from collections.abc import AsyncIterator

import pytest

from tests.recipes.lost import DEPLOY, Own, Told, kept_again, lived, own_server, serves_again

pytestmark = [
    pytest.mark.skipif("IM_RECIPES" not in os.environ, reason="takes Debian's packages: make recipes"),
    pytest.mark.timeout(300),
]


@pytest.fixture
async def own() -> AsyncIterator[Own]:
    async with own_server() as server:
        folder = server.folder
        server.write("pgbackrest.conf", (DEPLOY / "pgbackrest.conf").read_text())
        here = {
            "PGBACKREST_CONFIG": str(folder / "pgbackrest.conf"),
            "PGBACKREST_PG1_PATH": str(server.server.data),
            "PGBACKREST_PG1_PORT": str(server.server.port),
            "PGBACKREST_PG1_SOCKET_PATH": str(folder),
            "PGBACKREST_PG1_USER": "postgres",
            **{f"PGBACKREST_{each}_PATH": str(folder / each.lower()) for each in ("REPO1", "LOG", "LOCK", "SPOOL")},
        }
        for each in ("repo1", "log", "lock", "spool"):
            (folder / each).mkdir()
            server.server.account.own(folder / each)
        server.variables |= here
        server.server.environment |= here
        await server.run("pgbackrest-configure")
        await server.server.restart()
        yield server


async def lost(own: Own) -> Told:
    """What was told of a fleet that is gone with its disk, though not with its archive."""
    told = await lived(own, "pgbackrest-backup", "pgbackrest-complete")
    await own.lose()
    return told


@pytest.mark.parametrize("moment", ["time", "revision"])
async def test_a_database_comes_back_from_pgbackrest(own: Own, moment: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = await lost(own)
    await own.run(f"pgbackrest-to-{moment}", TIME=told.time)
    took = await serves_again(own, told)
    await kept_again(own, "pgbackrest-again")
    with capsys.disabled():
        print(f"\npgBackRest, to a {moment}: {own.said(took)}")


async def test_a_revision_that_only_the_archive_knows_comes_back_from_pgbackrest(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    told = await lost(own)
    (own.folder / "backups" / "xid").unlink()
    await own.run("pgbackrest-beside")
    await own.run("look", REVISION=str(told.revision))
    await own.run("pgbackrest-to-revision")
    took = await serves_again(own, told)
    with capsys.disabled():
        print(f"\npgBackRest, to a revision that only the archive knows: {own.said(took)}")
