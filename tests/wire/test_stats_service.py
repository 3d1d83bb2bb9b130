"""StatsService: the latest of each host."""

import grpc
import pytest

from manager.pb import stats_service_pb2 as pb
from tests.wire.caller import refusal
from tests.wire.fleet import Fleet

MOST = 2**63 - 1


@pytest.mark.parametrize("hostname", ["host-1", "x" * 253, "büro 🖥", "a'b\"c\\d"])
async def test_what_was_uploaded_is_read_at_once_and_the_latest_alone(fleet: Fleet, hostname: str) -> None:
    for stats in (
        pb.Stats(used_memory_bytes=1, total_memory_bytes=2, timestamp_ms=3),
        pb.Stats(used_memory_bytes=MOST, total_memory_bytes=MOST, timestamp_ms=253402300799999),
        pb.Stats(),
    ):
        answer = await fleet.caller.stats.UploadStats(pb.StatsUploadRequest(hostname=hostname, stats=stats))
        assert answer == pb.StatsUploadResponse()
        assert await fleet.caller.stats.GetStats(pb.GetStatsRequest(hostname=hostname)) == stats


async def test_stats_of_an_unknown_host_are_not_found(fleet: Fleet) -> None:
    await fleet.caller.stats.UploadStats(pb.StatsUploadRequest(hostname="Known", stats=pb.Stats()))
    for hostname in ("nobody's", "known", "Known "):
        answer = await refusal(fleet.caller.stats.GetStats(pb.GetStatsRequest(hostname=hostname)))
        assert (answer.code, answer.details) == (grpc.StatusCode.NOT_FOUND, ())


async def test_an_upload_without_stats_or_hostname_is_refused(fleet: Fleet) -> None:
    for sent, field in (
        (pb.StatsUploadRequest(hostname="host"), "stats"),
        (pb.StatsUploadRequest(stats=pb.Stats()), "hostname"),
    ):
        answer = await refusal(fleet.caller.stats.UploadStats(sent))
        assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    answer = await refusal(fleet.caller.stats.GetStats(pb.GetStatsRequest()))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["hostname"])
