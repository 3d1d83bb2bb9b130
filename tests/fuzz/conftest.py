"""A manager of each transport for all tests of this folder, and one with TLS for what comes before a call is made."""

import os
from collections.abc import AsyncIterator
from itertools import count

import asyncpg
import pytest

from manager.settings import Transport
from tests.conftest import Database, _recreate, addressed, at
from tests.fuzz.target import Target, target

numbers = count(1)


SEALED = f"{Transport.NATIVE}-tls"
OVER_TLS = {"test_connections", "test_others"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = any(mark.name == "parametrize" and mark.args[0] == "it" for mark in metafunc.definition.iter_markers())
    if "it" in metafunc.fixturenames and not marked:
        more = [SEALED] if metafunc.module.__name__.rpartition(".")[2] in OVER_TLS else []
        metafunc.parametrize("it", [*Transport, *more], indirect=True, scope="package", ids=str)


@pytest.fixture(scope="package")
async def it(
    request: pytest.FixtureRequest, cluster: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Target]:
    """One, on a database of its own."""
    name = f"im_canary_{os.getpid()}_{next(numbers)}"
    await _recreate(cluster, name, f"template {template} strategy file_copy")
    database: Database = addressed(at(cluster, database=name))
    transport = Transport(request.param.partition("-")[0])
    tls = tmp_path_factory.mktemp("tls") if request.param == SEALED else None
    async with target(database, transport, tls) as made:
        yield made
    connection = await asyncpg.connect(cluster)
    await connection.execute(f'drop database if exists "{name}" with (force)')
    await connection.close()
