"""A real manager on a real socket, a fleet for it, and `imctl` run against it as people run it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from manager.client import Client, Fleet, NotFoundError, new_id
from manager.pb.instance_manager_pb2 import (
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    INSTANCE_MANAGER,
    GpuMetrics,
    InstanceDescription,
    InstanceRequest,
    InstanceType,
    KillRequest,
    LlmMetrics,
    ProxyMetrics,
    Service,
    SystemMetrics,
)
from manager.server import Serving
from tests import processes
from tests.conftest import Database
from tests.processes import Ended

SERVICE = Service(service_type=CHROME_DEBUG_PORT, host="10.0.0.1", port=9222)


@dataclass(frozen=True)
class Scene:
    """One manager and its database."""

    server: Serving
    database: Database
    client: Client

    @property
    def address(self) -> str:
        """Where it is."""
        return self.server.addresses[0]

    @property
    def manager(self) -> str:
        """The manager's own id."""
        return self.server.instance_id

    async def add(
        self,
        parent: str = "",
        *,
        instance_id: str = "",
        of: InstanceType.ValueType = CHROME_BROWSER,
        hostname: str = "host",
        services: Sequence[Service] = (),
        **labels: str,
    ) -> str:
        """A new instance."""
        one = InstanceDescription(
            instance_id=instance_id or new_id(), instance_type=of, hostname=hostname, parent_id=parent,
            services=services, labels=labels,
        )  # fmt: skip
        assert (await self.client.try_.TryAddInstance(one)).value
        return one.instance_id

    async def kill(self, one: str, note: str = "") -> None:
        """Kills it."""
        assert (await self.client.try_.TryKillInstance(KillRequest(instance_id=one, note=note))).value

    async def measure(self, one: str) -> None:
        """Has it post samples of each kind, and waits until they are kept."""
        sample: dict[str, Any] = {"instance_id": one, "timestamp_ms": 1_000}
        post = self.client.post
        for used in (1, 2):
            await post.PostSystemMetrics(SystemMetrics(**sample, used_memory_bytes=used << 30))
        await post.PostProxyMetrics(ProxyMetrics(**sample, bytes_sent=2**63 - 1))
        await post.PostLlmMetrics(LlmMetrics(**sample, request_count=7))
        for index in (0, 1):
            await post.PostGpuMetrics(GpuMetrics(**sample, gpu_index=index))
        async with asyncio.timeout(10):
            while not await self.measured(one):
                await asyncio.sleep(0.05)

    async def measured(self, one: str) -> bool:
        """Whether its second GPU is known of."""
        try:
            return len((await self.client.get.GetGpuMetrics(InstanceRequest(instance_id=one))).metrics) == 2
        except NotFoundError:
            return False

    async def silence(self, seconds: float, one: str) -> None:
        """Makes it as silent as if it had been heard of last so long ago."""
        await self.database.run(
            "update heartbeat set last_seen = clock_timestamp() - $1::interval where instance_id = $2",
            timedelta(seconds=seconds),
            one,
        )

    async def imctl(self, *arguments: str, **variables: str) -> Ended:
        """`imctl` with these arguments at this manager, to its end."""
        return await processes.imctl(*arguments, **{"IM_ADDRESS": self.address} | variables)

    async def runs(self, lines: Sequence[Sequence[str]], **variables: str) -> list[Ended]:
        """Several of them, one after another."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.cli.every_format"),
            env=processes.environment(**{"IM_ADDRESS": self.address} | variables),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(json.dumps([list(each) for each in lines]).encode())
        told: list[dict[str, Any]] = json.loads(out)
        return [Ended(**each) for each in told]


@asynccontextmanager
async def scene_of(server: Serving, database: Database) -> AsyncIterator[Scene]:
    """The scene of this manager, once it is in the fleet itself."""
    async with Client(server.addresses[0]) as client, Fleet(client, types=[INSTANCE_MANAGER]) as fleet:
        async with asyncio.timeout(10):
            while not fleet.get(server.instance_id):
                await anext(fleet.changes())
        yield Scene(server, database, client)
