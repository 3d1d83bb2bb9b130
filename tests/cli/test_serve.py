"""`imctl migrate` and `imctl serve` on a database of somebody's own."""

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic
from typing import Any

import asyncpg
import grpc
import pytest
from grpc import aio

from manager.pb.fleet_pb2 import HealthCheckBatch
from manager.pb.fleet_pb2_grpc import FleetServiceStub
from manager.repository.versions import newest
from manager.server import serve
from manager.settings import Settings, Transport
from tests.conftest import PASSWORD, Database, _recreate, at
from tests.processes import imctl, started
from tests.wire.caller import VERSION

SERVE = ("serve", "--port", "0", "--bind", "127.0.0.1")


async def test_a_schema_is_refused_before_it_was_migrated_and_served_afterwards(cluster: str) -> None:
    await _recreate(cluster, "im_fresh")
    admin, server = (
        at(cluster, database="im_fresh"),
        at(cluster, database="im_fresh", user="im_server", password=PASSWORD),
    )
    connection = await asyncpg.connect(admin)
    await connection.execute("do $$ begin create role im_server; exception when duplicate_object then null; end $$")
    await connection.execute(f"alter role im_server login password '{PASSWORD}'")
    refused = await imctl(*SERVE, DATABASE_URL=server)
    assert refused.code == 1
    assert "run `imctl migrate`" in refused.err
    migrated = await imctl("migrate", DATABASE_URL=admin)
    assert migrated.code == 0, migrated.err
    assert f"the schema is at {newest()}" in migrated.err
    async with started("serve", "--port", "0", "--bind", "127.0.0.1", DATABASE_URL=server) as running:
        assert (await imctl("get", "--address", running.address)).code == 0
    assert await connection.fetchval("select count(*) from live_instance") == 0  # it took itself out
    await connection.execute("update control set serves_from = '99.0.0'")
    refused = await imctl(*SERVE, DATABASE_URL=server)
    assert "serves releases from 99.0.0 on" in refused.err
    await connection.close()


async def silent() -> AsyncIterator[HealthCheckBatch]:
    """What a client sends that has nothing to say for now."""
    yield HealthCheckBatch()
    await asyncio.Event().wait()


async def test_a_stream_of_checks_is_sent_elsewhere_when_the_server_stops_and_holds_up_no_drain(
    database: Database,
) -> None:
    async with started(*SERVE, DATABASE_URL=database.url, IM_DRAIN="30") as running:
        async with aio.insecure_channel(running.address) as channel:
            answers = FleetServiceStub(channel).HealthChecks(silent(), metadata=VERSION)
            assert await answers.read() is not aio.EOF
            begun = monotonic()
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(aio.AioRpcError) as ended:
                await answers.read()
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await running.process.wait() == 0
        assert monotonic() - begun < 15


async def asks_nothing() -> AsyncIterator[bytes]:
    """One question about the services, and silence."""
    yield b"\x3a\x00"
    await asyncio.Event().wait()


async def test_a_second_signal_stops_at_once_and_quietly(database: Database) -> None:
    async with started(*SERVE, DATABASE_URL=database.url, IM_DRAIN="30") as running:
        async with aio.insecure_channel(running.address) as channel:
            # which nobody ends for a drain
            ask: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            assert await ask(asks_nothing(), metadata=VERSION).read()
            running.process.send_signal(signal.SIGTERM)
            assert running.process.stderr
            assert b"draining" in await running.process.stderr.readuntil(b"once more to stop at once\n")
            ended = await running.stop(signal.SIGTERM)
        assert ended.code == 1
        assert "Traceback" not in ended.err


@pytest.mark.parametrize("transport", Transport)
async def test_a_server_that_is_cancelled_before_it_was_asked_to_stop_does_not_drain(
    database: Database, transport: Transport
) -> None:
    """As by a second signal right after the first one."""
    settings = Settings(
        database_url=database.url, bind=("127.0.0.1",), port=0, http=False, transport=transport,
        drain=timedelta(seconds=30), insecure_i_know=True,
    )  # fmt: skip
    told = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, asyncio.Event(), told.set_result))
    async with aio.insecure_channel((await told).addresses[0]) as channel:
        # which nobody ends for a drain
        ask: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        assert await ask(asks_nothing(), metadata=VERSION).read()
        serving.cancel()
        async with asyncio.timeout(15):
            await asyncio.wait([serving])
    assert serving.cancelled()


@pytest.mark.parametrize("transport", ["grpcio", "native"])
async def test_the_transport_is_chosen_on_the_command_line_and_drains_on_a_signal(
    database: Database, transport: str
) -> None:
    async with started(*SERVE, "--transport", transport, DATABASE_URL=database.url, IM_DRAIN="30") as running:
        assert (await imctl("get", "--address", running.address)).code == 0
        async with aio.insecure_channel(running.address) as channel:
            answers = FleetServiceStub(channel).HealthChecks(silent(), metadata=VERSION)
            assert await answers.read() is not aio.EOF
            ended = await running.stop(signal.SIGTERM)
        assert (ended.code, "Traceback" in ended.err) == (0, False)


async def test_an_unknown_transport_is_named(database: Database) -> None:
    refused = await imctl("serve", IM_TRANSPORT="pigeon", DATABASE_URL=database.url)
    assert refused.code == 1
    assert "transport" in refused.err


@pytest.mark.parametrize("password", ["canary/2", "cana#ry2", "canary?2", "canary:/2", "[canary]"])
async def test_an_address_whose_password_was_not_escaped_is_refused_and_not_repeated(password: str) -> None:
    """Half of it would be taken for a port, or a path, and stand in the error."""
    for verb in ("serve", "migrate"):
        ended = await imctl(verb, DATABASE_URL=f"postgresql://im:{password}@127.0.0.1:1/fleet")
        assert ended.code == 1
        assert "cana" not in ended.out + ended.err
        assert "Traceback" not in ended.err
