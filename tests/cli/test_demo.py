"""The small living fleet, by itself and in `imctl dev`."""

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from manager.cli import simulated
from manager.cli.metrics import latest
from manager.client import Fleet
from manager.pb.instance_manager_pb2 import (
    BROWSER_BACKEND,
    CHROME_BROWSER,
    VLLM,
    WARMPOOL_CHROME_BROWSER,
    WARMPOOL_PROXY,
)
from tests.cli.scene import Scene
from tests.processes import IMCTL, environment, imctl, started

# no Chromium is there: what takes its place is on every machine
PLAIN = str(Path(sys.executable).parent)
WHOLE = {BROWSER_BACKEND: 2, CHROME_BROWSER: 1, VLLM: 2, WARMPOOL_PROXY: 1, WARMPOOL_CHROME_BROWSER: 4}


async def test_it_lives_is_measured_and_is_gone_in_the_end(scene: Scene) -> None:
    process = await asyncio.create_subprocess_exec(
        *IMCTL, "demo", env=environment(IM_ADDRESS=scene.address, PATH=PLAIN), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with Fleet(scene.client, labels=simulated.LABELS) as fleet, asyncio.timeout(60):
            while Counter(each.instance_type for each in fleet.instances(healthy=None)) != WHOLE:
                await anext(fleet.changes())
            server = fleet.instances(instance_type=VLLM)[0]
            while {each.kind for each in await latest(scene.client, server.id, ("gpu", "llm"))} != {"gpu", "llm"}:
                await asyncio.sleep(0.1)
            root = next(each for each in fleet.instances(instance_type=BROWSER_BACKEND) if not each.parent_id)
            first = fleet.instances(instance_type=WARMPOOL_PROXY)[0]
            await scene.kill(first.id)
            while not [each for each in fleet.instances(instance_type=WARMPOOL_PROXY) if each.id != first.id]:
                await anext(fleet.changes())
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            while fleet.instances(healthy=None):
                await anext(fleet.changes())
            assert root
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_dev_can_begin_with_it() -> None:
    async with started("dev", "--ephemeral", "--port", "0", "--demo", PATH=PLAIN) as dev:
        async with asyncio.timeout(60):
            asked = ("get", "--label", "demo=true", "-o", "name", "--address", dev.address)
            while len((await imctl(*asked)).out.split()) < 9:
                await asyncio.sleep(0.5)
        ended = await dev.stop()
    assert ended.code == 0
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("one", simulated.fleet("0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f"))
def test_what_is_simulated_could_be_true(one: simulated.Simulated) -> None:
    batch = simulated.samples(one, "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f")
    assert all(0 <= each.utilization_percent <= 100 for each in batch.gpu)
    assert all(each.used_memory_bytes <= each.total_memory_bytes for each in batch.gpu)
    memory = one.used()
    assert 0 < memory.used_bytes <= memory.total_bytes
