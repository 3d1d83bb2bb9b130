"""Real servers in folders of their own; the processes of a test end with it."""

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from manager.embedded import start

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")

# In memory initdb takes a third of the time; some containers let nothing be executed there, though.
MEMORY = Path("/dev/shm")
PLACE = MEMORY if os.access(MEMORY, os.W_OK) and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC else Path("/tmp")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder to be made, whose parents every account may pass."""
    place = Path(tempfile.mkdtemp(prefix="im-test-", dir=PLACE))
    place.chmod(0o755)
    yield place / "data"
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def made() -> Iterator[Path]:
    """A data folder with a stopped cluster, for tests that leave it as good as it was: initdb takes its time."""
    with tempfile.TemporaryDirectory(prefix="im-test-", dir=PLACE) as place:
        Path(place).chmod(0o755)
        start(Path(place) / "data", durable=False).stop()
        yield Path(place) / "data"


@pytest.fixture(params=["found", "debian-15"])
def bin_dir(request: pytest.FixtureRequest) -> Path | None:
    """Each of the binaries that the server is to run with: those found first, and Debian's PostgreSQL 15."""
    chosen: Path | None = None if request.param == "found" else request.getfixturevalue("debian_15")
    return chosen


@pytest.fixture
def debian_15() -> Path:
    if not DEBIAN_15.exists():
        pytest.skip(f"{DEBIAN_15} is missing: apt-get install postgresql-15")
    return DEBIAN_15


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root lends PostgreSQL another account, or tries one")


@pytest.fixture
def ask() -> Callable[[str, str], Awaitable[object]]:
    """Run one statement on the server at an URL; the first column of its first row, if it has any."""

    async def run(url: str, statement: str) -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return run
