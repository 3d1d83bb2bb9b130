"""What Prometheus is told: this server's meters, documented one by one, and the targets of the fleet."""

import asyncio
import re
from math import isnan
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.wire.asker import VERSION, ask, live
from tests.wire.caller import refusal
from tests.wire.fleet import Fleet, debug_port, request

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"


async def sample(fleet: Fleet, name: str, **labels: str) -> float:
    """The present value of a meter; nought where it was never touched."""
    text = (await ask(fleet.serving.http[0], "/metrics")).text
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            if each.name == name and labels.items() <= each.labels.items():
                return float(each.value)
    return 0.0


async def test_calls_are_counted_by_method_and_status_over_grpc_and_http(fleet: Fleet) -> None:
    of = {"service": "instance_manager.GetService", "method": "GetInstance"}
    before = [await sample(fleet, "im_calls_total", code=each, **of) for each in ("OK", "NOT_FOUND")]
    timed = await sample(fleet, "im_call_duration_seconds_count", **of)
    instance = await fleet.add()
    await fleet.get(instance)
    await fleet.get(instance)
    await refusal(fleet.get(str(new_id())))
    body = f'{{"instance_id": "{instance}"}}'.encode()
    headers = {"content_type": "application/json", **VERSION}
    assert (await ask(fleet.serving.http[0], "/instance_manager.GetService/GetInstance", body, **headers)).status == 200
    after = [await sample(fleet, "im_calls_total", code=each, **of) for each in ("OK", "NOT_FOUND")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 1]
    assert await sample(fleet, "im_call_duration_seconds_count", **of) - timed == 4


async def test_turns_streams_and_the_feed_are_measured(fleet: Fleet) -> None:
    turns = await sample(fleet, "im_batch_calls_sum", lane="turns")
    checks = await sample(fleet, "im_batch_calls_sum", lane="checks")
    instances = await asyncio.gather(*(fleet.add() for _ in range(20)))
    await asyncio.gather(*(fleet.caller.tries.TryHealthCheck(request(each)) for each in instances))
    assert await sample(fleet, "im_batch_calls_sum", lane="turns") - turns == 20
    assert await sample(fleet, "im_batch_calls_sum", lane="checks") - checks == 20
    assert isnan(await sample(fleet, "im_feed_revision"))  # nobody subscribes
    assert await sample(fleet, "im_feed_age_seconds") == 0
    async with live(fleet.serving.http[0]) as frames, asyncio.timeout(10):
        await anext(frames)
        while await sample(fleet, "im_feed_revision") != await fleet.head():
            await asyncio.sleep(0.02)
        assert await sample(fleet, "im_subscriptions") == 1
        assert await sample(fleet, "im_feed_age_seconds") < 5
    assert await sample(fleet, "im_lane_waiting_calls", lane="turns") == 0


async def test_the_fleet_is_counted_by_type_and_state(lone: Fleet) -> None:
    backends = [await lone.add(instance_type=pb.BROWSER_BACKEND) for _ in range(3)]
    await lone.age(backends[0])
    await lone.kill(backends[1])
    kind = {"type": "BROWSER_BACKEND"}
    assert await sample(lone, "im_instances", status="healthy", **kind) == 1
    assert await sample(lone, "im_instances", status="stale", **kind) == 1
    assert await sample(lone, "im_instances", status="healthy", type="INSTANCE_MANAGER") == 1


async def test_every_meter_is_documented_and_nothing_else_is(fleet: Fleet) -> None:
    text = (await ask(fleet.serving.http[0], "/metrics")).text
    shown = {
        family.name
        for family in text_string_to_metric_families(text)
        if family.name.startswith("im_") and not family.name.endswith("_created")  # which come along by themselves
    }
    documented = set(re.findall(r"^\| `(im_\w+?)(?:_total|_info)?`", DOCUMENT.read_text(), re.M))
    assert {name.removesuffix("_info") for name in shown} - documented == set()
    assert documented - {name.removesuffix("_info") for name in shown} == set()


async def test_openmetrics_is_spoken_to_those_who_ask_for_it(fleet: Fleet) -> None:
    answer = await ask(fleet.serving.http[0], "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


# targets


async def test_every_service_of_the_living_is_a_target_with_its_labels(lone: Fleet) -> None:
    vllm = pb.Service(service_type=pb.VLLM_OPENAI_COMPATIBLE, host="10.0.0.7", port=8000, path="/v1")
    parent = await lone.add(instance_type=pb.BROWSER_BACKEND)
    model = await lone.add(instance_type=pb.VLLM, hostname="gpu-7", labels={"my.model": "x"}, services=[vllm])
    chrome = await lone.add(services=[debug_port(host="fe80::1")], parent_id=parent)
    stale, dead = await lone.add(services=[debug_port(1)]), await lone.add(services=[debug_port(2)])
    await lone.age(stale)
    await lone.kill(dead)
    answer = await ask(lone.serving.http[0], "/sd/prometheus")
    assert answer.headers["content-type"] == "application/json"
    found = {target["labels"]["instance_id"]: target for target in answer.json}
    assert found.keys() == {model, chrome}
    assert found[model] == {
        "targets": ["10.0.0.7:8000"],
        "labels": {
            "instance_id": model,
            "instance_type": "VLLM",
            "service_type": "VLLM_OPENAI_COMPATIBLE",
            "hostname": "gpu-7",
            "__meta_im_path": "/v1",
            "__meta_im_parent_id": "",
            "__meta_im_label_my_model": "x",
        },
    }
    assert found[chrome]["targets"] == ["[fe80::1]:9222"]
    assert found[chrome]["labels"]["__meta_im_parent_id"] == parent


async def test_targets_are_narrowed_and_a_filter_that_is_none_is_refused(lone: Fleet) -> None:
    both = [debug_port(), pb.Service(service_type=pb.VLLM_OPENAI_COMPATIBLE, host="h", port=1)]
    await lone.add(services=both, hostname="a")
    await lone.add(services=both, hostname="b", instance_type=pb.VLLM)

    async def targets(query: str) -> int:
        return len((await ask(lone.serving.http[0], f"/sd/prometheus{query}")).json)

    assert await targets("") == 4
    assert await targets("?service_type=VLLM_OPENAI_COMPATIBLE") == 2
    assert await targets("?service_type=VLLM_OPENAI_COMPATIBLE&type=VLLM") == 1
    assert await targets("?hostname=a&hostname=b&service_type=CHROME_DEBUG_PORT") == 2
    for query, named in (("?type=X", "type"), ("?service_type=", "service_type"), ("?host=a", "host")):
        answer = await ask(lone.serving.http[0], f"/sd/prometheus{query}")
        assert (answer.status, answer.json["message"].partition(":")[0]) == (400, named)


async def test_a_host_name_that_is_none_is_refused_as_everywhere(fleet: Fleet) -> None:
    for query in ("?hostname=a%00b", "?hostname=" + "a" * 254, "?hostname=%1b[31m"):
        answer = await ask(fleet.serving.http[0], f"/sd/prometheus{query}")
        assert (answer.status, answer.json["message"].partition(":")[0]) == (400, "hostname[0]"), query
    for query in ("?%00=a", "?" + "x" * 5000, "?%1b=a"):  # of what nobody has named so before, nothing is repeated
        answer = await ask(fleet.serving.http[0], f"/sd/prometheus{query}")
        assert (answer.status, answer.json["message"].partition(":")[0]) == (400, "query")


async def test_a_version_of_meters_that_is_none_gets_the_plain_ones(fleet: Fleet) -> None:
    for accept in ("text/plain; version=1.x", "application/openmetrics-text; version=x"):
        answer = await ask(fleet.serving.http[0], "/metrics", accept=accept)
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
