"""Each toxic does what it says, and nothing else."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from time import monotonic

import asyncpg
import pytest

from manager.client import Client, new_id
from manager.pb.instance_manager_pb2 import CHROME_BROWSER, InstanceDescription, InstanceRequest
from manager.server import Serving
from tests.conftest import Database
from tests.faults.echo import PATIENCE, Echo, answering, calling
from tests.faults.proxy import Proxy, proxied, server_of
from tests.faults.toxics import (
    Bandwidth,
    Down,
    HalfOpen,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Stall,
    Timeout,
)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with answering() as one:
        yield one


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with proxied(echo.address, seed=7) as one:
        yield one


async def test_megabytes_pass_unchanged_and_fast(proxy: Proxy) -> None:
    data = random.Random(1).randbytes(8 << 20)
    async with calling(proxy) as caller:
        begun = monotonic()
        caller.writer.write(data)
        back = await caller.heard(len(data))
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
        assert len(data) / (monotonic() - begun) > 4e6


async def test_latency_comes_and_goes_on_an_open_connection(proxy: Proxy) -> None:
    async with calling(proxy) as caller:
        without = min([await caller.ask() for _ in range(5)])
        proxy.add(Latency(0.1, jitter=0.02), "up")
        assert min([await caller.ask() for _ in range(3)]) >= 0.08
        proxy.add(Latency(0.1), "down")
        assert await caller.ask() >= 0.18
        proxy.heal()
        assert without < 0.08
        assert min([await caller.ask() for _ in range(5)]) < 0.08


async def test_latency_delays_and_does_not_slow_down(proxy: Proxy) -> None:
    proxy.add(Latency(0.2))
    async with calling(proxy) as caller:
        assert 0.4 <= await caller.ask(bytes(1 << 20)) < 2.0


async def test_a_narrow_link_carries_so_many_bytes_a_second(proxy: Proxy) -> None:
    proxy.add(Bandwidth(20_000), "up")
    async with calling(proxy) as caller:
        assert 0.4 <= await caller.ask(bytes(10_000)) < 2.0
        proxy.remove(Bandwidth(20_000))
        assert await caller.ask(bytes(100_000)) < 2.0


async def test_slices_are_small_and_complete(echo: Echo, proxy: Proxy) -> None:
    proxy.add(Slicer(7, delay=0.005, variation=3), "up")
    async with calling(proxy) as caller:
        await caller.ask(bytes(range(200)))
    assert b"".join(echo.pieces) == bytes(range(200))
    assert len(echo.pieces) > 10


async def test_a_black_hole_swallows_and_what_lost_bytes_is_reset_when_healed(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as talking, calling(proxy) as silent:
        assert await talking.ask() + await silent.ask() >= 0
        proxy.add(Timeout())
        talking.writer.write(b"lost")
        async with calling(proxy) as begun:
            begun.writer.write(b"late")
            assert await talking.is_open()
            assert await begun.is_open()
            assert b"".join(echo.pieces) == b"hellohello"
            proxy.heal()
            assert await talking.end() == "reset"
            assert await echo.ended() == "reset"
            assert await begun.heard(4) == b"late"
        assert await silent.ask() < PATIENCE


async def test_a_black_hole_in_one_direction_lets_the_other_pass(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as caller:
        await caller.ask()
        proxy.add(Timeout(), "down")
        caller.writer.write(b"heard")
        assert await caller.is_open()
        assert b"".join(echo.pieces) == b"hello" + b"heard"


async def test_a_stall_loses_nothing(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as caller:
        proxy.add(Stall())
        caller.writer.write(b"later")
        assert await caller.is_open()
        assert not echo.pieces
        proxy.heal()
        assert await caller.heard(5) == b"later"


async def test_a_reset_is_a_reset_at_both_ends(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as caller:
        await caller.ask()
        proxy.add(ResetPeer(after=0.1))
        assert await caller.ask() < PATIENCE
        assert await caller.end() == "reset"
        assert await echo.ended() == "reset"
    proxy.heal()
    async with calling(proxy) as caller:
        await caller.ask()


async def test_ends_are_told_as_they_are(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as caller:
        await caller.ask()
        caller.writer.write_eof()
        assert await echo.ended() == "closed"
        assert await caller.end() == "closed"
    async with calling(proxy) as caller:
        await caller.ask()
        proxy.cut()
        assert await echo.ended() == "reset"


async def test_a_slow_close_is_told_late(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as caller:
        await caller.ask()
        proxy.add(SlowClose(0.3), "up")
        begun = monotonic()
        caller.writer.write_eof()
        assert await echo.ended() == "closed"
        assert monotonic() - begun >= 0.3


async def test_limited_data_ends_after_so_many_bytes(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as caller:
        await caller.ask()
        proxy.add(LimitData(8), "down")
        caller.writer.write(b"0123456789")
        assert await caller.heard(8) == b"01234567"
        assert await caller.end() == "closed"
        assert await echo.ended() == "closed"


async def test_down_refuses_and_keeps_the_port(echo: Echo, proxy: Proxy) -> None:
    address = proxy.address
    async with calling(proxy) as caller:
        await caller.ask()
        proxy.add(Down())
        assert await caller.end() == "reset"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.remove(Down())
    assert proxy.address == address
    async with calling(proxy) as caller:
        await caller.ask()


async def test_a_half_open_connection_swallows_both_ways_and_never_comes_back(echo: Echo, proxy: Proxy) -> None:
    async with calling(proxy) as left, calling(proxy) as told:
        assert await left.ask() + await told.ask() >= 0
        proxy.add(HalfOpen())
        left.writer.transport.abort()
        told.writer.write(b"anybody?")
        echo.writers[1].write(b"anybody?")
        assert await told.is_open()
        assert echo.ends.empty()
        assert b"".join(echo.pieces) == b"hellohello"
        proxy.heal()
        assert await echo.ended() == "reset"
        told.writer.write(b"now?")
        assert await told.is_open()
        assert proxy.connections == 1
        async with calling(proxy) as fresh:
            await fresh.ask()


async def test_another_target_is_for_new_connections(proxy: Proxy) -> None:
    async with answering(b"2:") as other, calling(proxy) as before:
        proxy.to(other.address)
        async with calling(proxy) as after:
            after.writer.write(b"who?")
            assert await after.heard(6) == b"2:who?"
        await before.ask()


async def test_without_a_server_connections_are_reset(proxy: Proxy) -> None:
    async with proxied(proxy.address) as spare:
        gone = spare.address
    proxy.to(gone)
    async with calling(proxy) as caller:
        assert await caller.end() == "reset"


async def test_what_befalls_a_connection_as_a_whole_has_no_direction(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="no direction"):
        proxy.add(Down(), "up")


async def test_nothing_is_left_of_a_proxy(echo: Echo) -> None:
    before = asyncio.all_tasks()
    async with proxied(echo.address) as one, calling(one) as first, calling(one):
        await first.ask()
        one.add(Stall())
        assert asyncio.all_tasks() > before
        await one.close()
        assert {each for each in asyncio.all_tasks() - before if "Echo.serve" not in repr(each)} == set()


async def test_a_manager_and_its_database_can_be_slow(server: Serving, database: Database) -> None:
    one = InstanceDescription(instance_id=new_id(), instance_type=CHROME_BROWSER)
    async with proxied(server.addresses[0]) as door, Client(door.address) as client:
        door.add(Slicer(20))
        assert (await client.try_.TryAddInstance(one)).value
        door.heal()
        door.add(Latency(0.1))
        begun = monotonic()
        assert (await client.try_.TryHealthCheck(InstanceRequest(instance_id=one.instance_id))).value
        assert monotonic() - begun >= 0.2
    async with proxied(server_of(database.url)) as link:
        connection = await asyncpg.connect(link.instead(database.url))
        link.add(Latency(0.2), "down")
        begun = monotonic()
        assert await connection.fetchval("select count(*) from instance where died_at is null") >= 1
        assert monotonic() - begun >= 0.2
        link.add(Down())
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
            await connection.fetchval("select 1")
