"""Instances that are only told of: registered, heard of and measured as real ones are, by nobody but `imctl demo`."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from manager.client import Client, Instance, ManagerError, Memory, Owner, RefusedError, new_id
from manager.pb.fleet_pb2 import MetricsBatch
from manager.pb.instance_manager_pb2 import (
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    VLLM,
    VLLM_OPENAI_COMPATIBLE,
    WARMPOOL_CHROME_BROWSER,
    WARMPOOL_PROXY,
    GpuMetrics,
    InstanceDescription,
    InstanceRequest,
    InstanceType,
    LlmMetrics,
    ProxyMetrics,
    Service,
)

LABELS = {"demo": "true"}
EVERY = 2.0
GIB = 1 << 30
RETURNS_AFTER = 3.0
# one is silent for longer than its timeout, and heard of again before its grace is over
SILENT_FOR = 8.0
SILENT_TIMEOUT_MS = 5_000
GPUS = 2


@dataclass(frozen=True, slots=True)
class Simulated:
    """One of them. `lives`: for how many seconds, before another one takes its place; None: until it is killed."""

    description: InstanceDescription
    memory: int
    lives: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.began

    def wave(self, period: float, shift: float = 0.0) -> float:
        """A number from 0 to 1 that goes up and down."""
        return 0.5 + 0.5 * math.sin(2 * math.pi * (self.age / period + shift))

    def used(self) -> Memory:
        """Its memory at this moment."""
        return Memory(round(self.memory * (0.6 + 0.4 * self.wave(60))), 64 * GIB)


def fleet(parent: str) -> Sequence[Simulated]:
    """All that check their health themselves: two model servers, and below the parent a proxy and its browsers."""
    return (
        *(Simulated(model(f"gpu-{number}"), 24 * GIB) for number in (1, 2)),
        Simulated(below(parent, WARMPOOL_PROXY, "edge-1"), GIB // 4),
        *(Simulated(browser(parent, number), GIB // 2, lives=7.0 + 3.0 * number) for number in range(1, 5)),
    )


def model(host: str) -> InstanceDescription:
    """A model server."""
    offered = Service(service_type=VLLM_OPENAI_COMPATIBLE, host=host, port=8000, path="/v1")
    return InstanceDescription(instance_type=VLLM, hostname=host, labels=LABELS, services=[offered])


def browser(parent: str, number: int) -> InstanceDescription:
    """A browser of the warm pool."""
    made = below(parent, WARMPOOL_CHROME_BROWSER, f"node-{number}")
    made.services.add(service_type=CHROME_DEBUG_PORT, host=made.hostname, port=9222)
    return made


def below(parent: str, kind: InstanceType.ValueType, host: str) -> InstanceDescription:
    """A child."""
    return InstanceDescription(instance_type=kind, hostname=host, labels=LABELS, parent_id=parent)


async def keep(client: Client, one: Simulated) -> None:
    """For ever: it lives, and when it is dead another one comes in its place."""
    while True:
        with suppress(ManagerError, RefusedError):  # the next one may have better luck
            await _live_once(client, one)
        await asyncio.sleep(RETURNS_AFTER)


async def _live_once(client: Client, one: Simulated) -> None:
    instance = Instance(client, one.description, owner=Owner(memory=one.used))
    note = "the demo has ended"
    try:
        await instance.start()
        async with asyncio.timeout(one.lives):
            await _until_it_dies(client, one, instance)
    except TimeoutError:
        note = "its time was over"
    finally:
        await instance.close(note)


async def _until_it_dies(client: Client, one: Simulated, made: Instance) -> None:
    measuring = asyncio.create_task(_measure(client, one, made.id))
    try:
        await made.wait()
    finally:
        measuring.cancel()


async def _measure(client: Client, one: Simulated, instance_id: str) -> None:
    while True:
        with suppress(ManagerError):
            await client.fleet.PostMetrics(samples(one, instance_id))
        await asyncio.sleep(EVERY)


def samples(one: Simulated, instance_id: str) -> MetricsBatch:
    """What it measures beside its memory, at this moment."""
    now = time.time_ns() // 1_000_000
    batch = MetricsBatch()
    if one.description.instance_type == VLLM:
        sample: dict[str, Any] = {"instance_id": instance_id, "timestamp_ms": now}
        batch.gpu.extend(gpu(one, index, GpuMetrics(**sample)) for index in range(GPUS))
        batch.llm.append(LlmMetrics(instance_id=instance_id, timestamp_ms=now, **tokens(one)))
    if one.description.instance_type == WARMPOOL_PROXY:
        batch.proxy.append(ProxyMetrics(instance_id=instance_id, timestamp_ms=now, **traffic(one)))
    return batch


def gpu(one: Simulated, index: int, made: GpuMetrics) -> GpuMetrics:
    """A GPU under a load that comes and goes."""
    load = one.wave(45, index / 3)
    made.gpu_index, made.utilization_percent = index, 100 * load
    made.total_memory_bytes, made.used_memory_bytes = 80 * GIB, round((40 + 36 * load) * GIB)
    return made


def tokens(one: Simulated) -> dict[str, int]:
    """What a model server has answered so far."""
    return {
        "request_count": round(3 * one.age),
        "tokens_received": round(900 * one.age),
        "tokens_sent": round(2_100 * one.age),
    }


def traffic(one: Simulated) -> dict[str, int]:
    """What went through a proxy."""
    return {
        "active_connections": round(40 * one.wave(30)),
        "total_connections": round(12 * one.age),
        "bytes_sent": round(250_000 * one.age),
        "bytes_received": round(4_000_000 * one.age),
    }


async def silent(client: Client, parent: str) -> None:
    """For ever: one that is silent for longer than its timeout, stale, heard of again, and so on."""
    one = below(parent, CHROME_BROWSER, "node-5")
    one.timeout_ms = SILENT_TIMEOUT_MS
    alive = False
    while True:
        with suppress(ManagerError):
            if not alive:
                one.instance_id = new_id()
                await client.try_.TryAddInstance(one)
            alive = (await client.try_.TryHealthCheck(InstanceRequest(instance_id=one.instance_id))).value
        await asyncio.sleep(SILENT_FOR)
