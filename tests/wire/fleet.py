"""A served fleet: what tests arrange before they ask."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor

from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.pb import stats_service_pb2 as stats_pb
from manager.presence import new_id
from manager.server import Serving
from tests.conftest import Database
from tests.wire.caller import Caller


def description(instance_id: str = "", **fields: Any) -> pb.InstanceDescription:
    """A registration, of a browser under a new id unless the fields say otherwise."""
    fields.setdefault("instance_type", pb.CHROME_BROWSER)
    return pb.InstanceDescription(instance_id=instance_id or str(new_id()), **fields)


def debug_port(port: int = 9222, host: str = "10.0.0.1", path: str = "") -> pb.Service:
    """A service such as browsers offer."""
    return pb.Service(service_type=pb.CHROME_DEBUG_PORT, host=host, port=port, path=path)


def request(instance_id: str) -> pb.InstanceRequest:
    """A question about one instance."""
    return pb.InstanceRequest(instance_id=instance_id)


def refused(reason: pb.Reason.ValueType) -> pb.Bool:
    """The whole answer of a call that is refused."""
    return pb.Bool(value=False, reason=reason)


def done(revision: int = 0) -> pb.Bool:
    """The whole answer of a call that was carried out."""
    return pb.Bool(value=True, revision=revision)


def complete(kind: Descriptor, one: str, other: str) -> Any:
    """A right request about two living instances with every field given, so that each can be spoiled alone."""
    sample: dict[str, Any] = {"instance_id": one, "timestamp_ms": 1}
    criteria: dict[str, Any] = {
        "ids": [one],
        "id_prefix": one[:4],
        "types": [pb.CHROME_BROWSER],
        "service_types": [pb.CHROME_DEBUG_PORT],
        "hostnames": ["host"],
        "labels": {"key": "value"},
        "parent_id": other,
        "subtree_of": other,
    }
    requests: dict[str, Any] = {
        "InstanceDescription": description(
            one,
            hostname="other",
            labels={"key": "value"},
            parent_id=other,
            services=[debug_port(path="/path")],
            timeout_ms=1000,
            status=pb.STATUS_HEALTHY,
            death_cause=pb.CAUSE_KILLED,
            root_cause_id=other,
        ),
        "InstanceRequest": pb.InstanceRequest(instance_id=one),
        "KillRequest": pb.KillRequest(instance_id=one, note="note"),
        "AddChildRequest": pb.AddChildRequest(parent_id=other, child_id=one),
        "AddServiceRequest": pb.AddServiceRequest(instance_id=one, service=debug_port(path="/path")),
        "InstanceFilter": pb.InstanceFilter(**criteria, page_size=10),
        "SubscribeRequest": pb.SubscribeRequest(**criteria, event_types=[pb.ADDED]),
        "ProxyMetrics": pb.ProxyMetrics(**sample),
        "SystemMetrics": pb.SystemMetrics(**sample),
        "GpuMetrics": pb.GpuMetrics(**sample),
        "LlmMetrics": pb.LlmMetrics(**sample),
        "StatsUploadRequest": stats_pb.StatsUploadRequest(hostname="host", stats=stats_pb.Stats(timestamp_ms=1)),
        "GetStatsRequest": stats_pb.GetStatsRequest(hostname="host"),
        "HealthCheckBatch": fleet_pb2.HealthCheckBatch(instance_ids=[one]),
        "MetricsBatch": fleet_pb2.MetricsBatch(
            proxy=[pb.ProxyMetrics(**sample)],
            system=[pb.SystemMetrics(**sample)],
            gpu=[pb.GpuMetrics(**sample)],
            llm=[pb.LlmMetrics(**sample)],
        ),
    }
    requests["EventFilter"] = fleet_pb2.EventFilter(
        ids=[one],
        types=[pb.CHROME_BROWSER],
        event_types=[pb.ADDED],
        hostnames=["host"],
        subtree_of=other,
        from_revision=1,
        to_revision=2,
        from_ms=1,
        to_ms=2,
        page_size=10,
    )
    requests["MetricsHistoryRequest"] = fleet_pb2.MetricsHistoryRequest(
        instance_id=one, kind=fleet_pb2.METRICS_KIND_GPU, from_ms=1, to_ms=2, max_points=10
    )
    requests["InstancesAtRequest"] = fleet_pb2.InstancesAtRequest(**criteria, revision=1, page_size=10)
    requests["DiffRequest"] = fleet_pb2.DiffRequest(from_revision=1, to_revision=1, page_size=10)
    requests["AddInstancesRequest"] = fleet_pb2.AddInstancesRequest(instances=[requests["InstanceDescription"]])
    requests["KillInstancesRequest"] = fleet_pb2.KillInstancesRequest(kills=[requests["KillRequest"]])
    return requests[kind.name]


@dataclass(frozen=True, slots=True)
class Fleet:
    """A manager, its database, and somebody who calls it."""

    database: Database
    serving: Serving
    caller: Caller

    async def add(self, instance_id: str = "", **fields: Any) -> str:
        """Registers an instance; its id."""
        sent = description(instance_id, **fields)
        assert (await self.caller.tries.TryAddInstance(sent)).value
        return sent.instance_id

    async def register(self, instances: Sequence[pb.InstanceDescription]) -> None:
        """Registers many, at most 10,000; within a minute. Only what has failed is repeated, as a busy machine takes
        too long for a turn, and a fleet with grace admits but so many a second."""
        left = list(instances)
        async with asyncio.timeout(60):
            while left:
                answer = await self.caller.fleet.AddInstances(fleet_pb2.AddInstancesRequest(instances=left))
                left = [one for one, each in zip(left, answer.outcomes, strict=True) if not each.answer.value]
                await asyncio.sleep(0.1 if left else 0)

    async def chain(self, length: int) -> list[str]:
        """Instances each of which is the parent of the next."""
        ids: list[str] = []
        for _ in range(length):
            ids.append(await self.add(parent_id=ids[-1] if ids else ""))
        return ids

    async def kill(self, instance_id: str, note: str = "") -> int:
        """Kills an instance; the revision."""
        answer = await self.caller.tries.TryKillInstance(pb.KillRequest(instance_id=instance_id, note=note))
        assert answer.value
        return answer.revision

    async def age(self, *ids: str) -> None:
        """Lets a day pass since the last health check of these."""
        statement = "update heartbeat set last_seen = last_seen - interval '1 day' where instance_id = any($1::uuid[])"
        await self.database.run(statement, ids)

    async def get(self, instance_id: str) -> pb.InstanceDescription:
        """A living instance."""
        return await self.caller.gets.GetInstance(request(instance_id))

    async def describe(self, instance_id: str) -> pb.InstanceDescription:
        """An instance, dead or alive."""
        return (await self.caller.fleet.DescribeInstance(request(instance_id))).instance

    async def head(self) -> int:
        """The latest revision."""
        revision: int = await self.database.value("select max(revision) from event")
        return revision

    async def restore(self) -> None:
        """Lets the database say that its past was changed, as it does after a restore."""
        await self.database.run("""
            insert into history_epoch
                (number, system_identifier, timeline, database_oid, event_oid, base_revision, reason)
            select number + 1, system_identifier, timeline, database_oid, event_oid, base_revision, 'restored'
            from history_epoch order by number desc limit 1
        """)

    async def alone(self) -> None:
        """Returns once the manager itself is registered, so that nothing more happens by itself."""
        while not await self.database.value("select count(*) from instance where id = $1", self.serving.instance_id):
            await asyncio.sleep(0.01)
