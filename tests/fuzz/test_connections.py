"""Bad connections, thousands of them: the manager runs, keeps within its memory, says nothing of its inside, and logs
no fault; and others are answered meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from time import monotonic

import pytest

from manager.ids import new_id
from manager.pb import instance_manager_pb2 as pb
from manager.settings import Transport
from tests.credentials import bearing
from tests.fuzz.amount import CONNECTIONS, LONG, chance
from tests.fuzz.crowd import crowd, half_way
from tests.fuzz.strangers import Stranger, visits
from tests.fuzz.target import OWN, Target
from tests.wire.caller import VERSION, calling

PATIENCE = 10.0


@asynccontextmanager
async def somebody_else(it: Target) -> AsyncIterator[list[float]]:
    """A client of good will, whose every health check is answered; how long each took."""
    took: list[float] = []
    trusted = it.ca.read_bytes() if it.ca else None
    async with calling(it.grpc, (*VERSION, *bearing(it.token)), trusted) as caller:
        one = pb.InstanceDescription(instance_id=str(new_id()), instance_type=pb.CHROME_BROWSER)
        assert (await caller.tries.TryAddInstance(one)).value

        async def checking() -> None:
            while True:
                begun = monotonic()
                answer = await caller.tries.TryHealthCheck(pb.InstanceRequest(instance_id=one.instance_id))
                assert answer.value
                took.append(monotonic() - begun)
                await asyncio.sleep(0.01)

        task = asyncio.create_task(checking())
        try:
            yield took
            await asyncio.sleep(0.05)
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("side", ["grpc", "http"])
async def test_bad_connections_hurt_nobody_but_themselves(it: Target, side: str) -> None:
    kinds = crowd(side, it.transport, it.ca)
    async with somebody_else(it) as took:
        files = it.manager.open_files()
        before = it.judge.texts
        for name, heard in await visits(it.port(http=side == "http"), kinds, CONNECTIONS, chance(side)):
            it.judge.connection(name, heard)
        assert it.judge.texts - before > CONNECTIONS / 10  # many get no answer, and some leave before it
        await it.at_rest(files)
    assert took
    assert max(took) < PATIENCE
    it.check()
    if LONG:
        print(f"\n{side}: {CONNECTIONS} connections, {it.judge.size} bytes, peak {it.peak >> 20} MiB", end=" ")


HELD = min(CONNECTIONS, 4000)
BY_GRPCIO = 500  # gRPC's own server keeps a quarter of a mebibyte for each
FOR = 75.0 if LONG else 1.0  # seconds; the first are enough for every connection of HTTP to be given up


@pytest.mark.timeout(600)
@pytest.mark.parametrize("side", ["grpc", "http"])
async def test_connections_that_are_held_open_half_way_hurt_nobody(it: Target, side: str) -> None:
    random, files = chance("held", side), it.manager.open_files()
    async with somebody_else(it) as took, AsyncExitStack() as stack:
        grpcio = side == "grpc" and it.transport is Transport.GRPCIO
        idlers = half_way(side, it.ca)
        for each in idlers:  # whoever is given up soonest comes last
            for _ in range((min(HELD, BY_GRPCIO) if grpcio else HELD) // len(idlers)):
                await stack.enter_async_context(held(it.port(http=side == "http"), each, random))
        at_once = it.manager.open_files() - files
        await asyncio.sleep(FOR)
        peak, still = it.peak, it.manager.open_files() - files
        if LONG and side == "http":
            assert still <= OWN, "whoever says nothing is not waited for"
    await it.at_rest(files)
    assert max(took) < PATIENCE
    it.check()
    if LONG:
        print(f"\n{side}: {HELD} came, {at_once} held at once, {still} after {FOR} s, peak {peak >> 20} MiB", end=" ")


@asynccontextmanager
async def held(port: int, stranger: Stranger, random: Random) -> AsyncIterator[None]:
    """A connection of somebody who says what he says and then nothing, and reads nothing."""
    _, writer = await stranger.opened(port, random)
    writer.transport.pause_reading()  # type: ignore[attr-defined] # a stream's transport does both
    writer.writelines(stranger.script(random))
    try:
        yield
    finally:
        writer.transport.abort()
