"""Who may call what: one table, for gRPC and for HTTP alike. What it does not name is nobody's.

It is read before a request is: who may not call a method learns nothing by calling it.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeAlias

from manager.domain.instance import InstanceId
from manager.domain.principal import Role


class Whose(StrEnum):
    """About which instances."""

    ANY = "any"
    OWN = "own"  # the one that the caller is bound to


Row: TypeAlias = Mapping[Role, Whose]
NO, ANY, OWN = None, Whose.ANY, Whose.OWN


def _row(*whose: Whose | None) -> Row:
    """For each role in turn: reader, instance, registrar, operator, admin."""
    return {role: each for role, each in zip(Role, whose, strict=True) if each is not None}


TRY, GET, POST = "/instance_manager.TryService", "/instance_manager.GetService", "/instance_manager.PostService"
SUBSCRIBE, FLEET = "/instance_manager.SubscribeService", "/instance_manager.FleetService"
STATS, REFLECTION = "/stats_service.StatsService", "/grpc.reflection.v1alpha.ServerReflection"

RIGHTS: Mapping[str, Row] = {
    # ............................... reader instance registrar operator admin
    f"{TRY}/TryAddInstance": _row(NO, NO, ANY, NO, ANY),
    f"{TRY}/TryUpdateInstance": _row(NO, OWN, NO, ANY, ANY),
    f"{TRY}/TryKillInstance": _row(NO, OWN, NO, ANY, ANY),
    f"{TRY}/TryHealthCheck": _row(NO, OWN, ANY, NO, ANY),
    f"{TRY}/TryAddChild": _row(NO, OWN, NO, ANY, ANY),
    f"{TRY}/TryAddService": _row(NO, OWN, NO, ANY, ANY),
    f"{POST}/PostProxyMetrics": _row(NO, OWN, ANY, NO, ANY),
    f"{POST}/PostSystemMetrics": _row(NO, OWN, ANY, NO, ANY),
    f"{POST}/PostGpuMetrics": _row(NO, OWN, ANY, NO, ANY),
    f"{POST}/PostLlmMetrics": _row(NO, OWN, ANY, NO, ANY),
    f"{GET}/GetAllInstances": _row(ANY, NO, ANY, ANY, ANY),
    f"{GET}/GetInstance": _row(ANY, OWN, ANY, ANY, ANY),
    f"{GET}/GetHealthCheck": _row(ANY, OWN, ANY, ANY, ANY),
    f"{GET}/GetParent": _row(ANY, NO, ANY, ANY, ANY),
    f"{GET}/GetChildren": _row(ANY, NO, ANY, ANY, ANY),
    f"{GET}/GetProxyMetrics": _row(ANY, OWN, ANY, ANY, ANY),
    f"{GET}/GetSystemMetrics": _row(ANY, OWN, ANY, ANY, ANY),
    f"{GET}/GetGpuMetrics": _row(ANY, OWN, ANY, ANY, ANY),
    f"{GET}/GetLlmMetrics": _row(ANY, OWN, ANY, ANY, ANY),
    f"{SUBSCRIBE}/SubscribeToInstanceUpdates": _row(ANY, NO, ANY, ANY, ANY),
    f"{FLEET}/HealthChecks": _row(NO, OWN, ANY, NO, ANY),
    f"{FLEET}/AddInstances": _row(NO, NO, ANY, NO, ANY),
    f"{FLEET}/KillInstances": _row(NO, OWN, NO, ANY, ANY),
    f"{FLEET}/PostMetrics": _row(NO, OWN, ANY, NO, ANY),
    f"{FLEET}/WatchInstances": _row(ANY, NO, ANY, ANY, ANY),
    f"{FLEET}/DescribeInstance": _row(ANY, OWN, ANY, ANY, ANY),
    f"{FLEET}/ListEvents": _row(ANY, NO, ANY, ANY, ANY),
    f"{FLEET}/GetMetricsHistory": _row(ANY, OWN, ANY, ANY, ANY),
    f"{FLEET}/GetInstancesAt": _row(ANY, NO, ANY, ANY, ANY),
    f"{FLEET}/Diff": _row(ANY, NO, ANY, ANY, ANY),
    f"{STATS}/UploadStats": _row(NO, NO, ANY, NO, ANY),
    f"{STATS}/GetStats": _row(ANY, NO, ANY, ANY, ANY),
    f"{REFLECTION}/ServerReflectionInfo": _row(ANY, ANY, ANY, ANY, ANY),
    # what HTTP has beside the contract
    "/live": _row(ANY, NO, ANY, ANY, ANY),
    "/metrics": _row(ANY, NO, ANY, ANY, ANY),
    "/sd/prometheus": _row(ANY, NO, ANY, ANY, ANY),
}
# for probes, and the page that asks for a token: nothing of the fleet is in it
PUBLIC = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/healthz",
        "/",
        "/instances/{id}",
        "/events",
        "/console",
        "/session",
    }
)

# whom a request is about, by the name of its type: of those that somebody may send about himself alone
ABOUT: Mapping[str, Callable[[Any], Iterable[str]]] = {
    "InstanceDescription": lambda request: (request.instance_id,),
    "InstanceRequest": lambda request: (request.instance_id,),
    "KillRequest": lambda request: (request.instance_id,),
    "AddChildRequest": lambda request: (request.child_id,),  # to be linked is to hang one's life on another's
    "AddServiceRequest": lambda request: (request.instance_id,),
    "MetricsHistoryRequest": lambda request: (request.instance_id,),
    "ProxyMetrics": lambda request: (request.instance_id,),
    "SystemMetrics": lambda request: (request.instance_id,),
    "GpuMetrics": lambda request: (request.instance_id,),
    "LlmMetrics": lambda request: (request.instance_id,),
    "HealthCheckBatch": lambda request: request.instance_ids,
    "KillInstancesRequest": lambda request: (each.instance_id for each in request.kills),
    "MetricsBatch": lambda request: (
        each.instance_id for kind in (request.proxy, request.system, request.gpu, request.llm) for each in kind
    ),
}


def about_only(request: Any, instance: InstanceId | None) -> bool:
    """Whether a request is about nobody but this instance."""
    own = str(instance)
    return all(each.lower() == own for each in ABOUT[request.DESCRIPTOR.name](request))
