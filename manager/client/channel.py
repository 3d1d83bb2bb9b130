"""The connection to the managers: how calls are spread, kept alive and repeated."""

import json
from collections.abc import Sequence

from grpc import aio

from manager.client.access import OPEN, Access
from manager.client.interceptors import every_kind

IDEMPOTENT = (
    {"service": "instance_manager.TryService"},
    {"service": "instance_manager.GetService"},
    {"service": "instance_manager.FleetService", "method": "DescribeInstance"},
    {"service": "stats_service.StatsService", "method": "GetStats"},
)
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
SERVICE_CONFIG = {
    # every call takes the next manager: one that hangs costs every other call, not all of them
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": list(IDEMPOTENT), "retryPolicy": RETRY}],
    # when most calls fail, repeats stop: they would only deepen the outage
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.2},
}
OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # a quiet subscription must outlive the NATs between, and a dead connection no lease
    # and a manager leaves whoever pings oftener than every 20 s
    ("grpc.keepalive_time_ms", 25_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # the default grows to two minutes: longer than a lease
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # identity only: the server refuses compression
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # a manager is inside the network; HTTP_PROXY is meant for what lies outside
    ("grpc.enable_http_proxy", 0),
)


# a connection of one's own, though others of this process have one to the same manager
FRESH = (("grpc.use_local_subchannel_pool", 1),)


def connect(
    target: str, deadline: float, access: Access = OPEN, options: Sequence[tuple[str, int]] = ()
) -> aio.Channel:
    """A channel to this target; single calls without a timeout get `deadline` seconds. Needs a running loop."""
    settings, interceptors = [*OPTIONS, *options], every_kind(deadline, access.metadata)
    if access.credentials is None:
        return aio.insecure_channel(target, options=settings, interceptors=interceptors)
    return aio.secure_channel(target, access.credentials, options=settings, interceptors=interceptors)
