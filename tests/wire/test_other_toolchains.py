"""Clients of other makers, from the proto files alone: the same answers, refusals and error details."""

import asyncio
import base64
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from manager.pb.version import PROTO_VERSION
from manager.presence import new_id
from tests.wire.fleet import Fleet

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
BUF = Path(sys.executable).parent / "buf"
NODE = ROOT / "examples" / "node"
OK = grpc.StatusCode.OK
INVALID = grpc.StatusCode.INVALID_ARGUMENT
ADD = "instance_manager.TryService/TryAddInstance"
WITHIN = 60.0


@dataclass(frozen=True)
class Said:
    """What a client of another maker was told: an answer, or a status with its details by name."""

    code: grpc.StatusCode
    answer: Any = None
    message: str = ""
    details: tuple[tuple[str, Any], ...] = ()


async def run(*command: str | Path, sent: str = "", cwd: Path = ROOT) -> tuple[int, str, str]:
    """A command's exit code, output and errors."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd)
    try:
        async with asyncio.timeout(WITHIN):
            told, errors = await process.communicate(sent.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, told.decode(), errors.decode()


def status(number: int) -> grpc.StatusCode:
    """The status of a number."""
    return next(each for each in grpc.StatusCode if each.value[0] == number)


# buf curl


async def curl(
    fleet: Fleet, method: str, request: object, *, version: str | None = PROTO_VERSION, schema: Sequence[str] = ()
) -> Said:
    """A call by `buf curl`, whose exit code is eight times the status."""
    header = ("-H", f"proto_version: {version}") if version else ()
    plain = ("--http2-prior-knowledge", "--protocol", "grpc", "--emit-defaults")
    where = schema or ("--schema", str(PROTO))
    address = f"http://{fleet.serving.addresses[0]}/{method}"
    code, told, errors = await run(BUF, "curl", *plain, *header, *where, "-d", json.dumps(request), address)
    if not code:
        return Said(OK, answer=json.loads(told))
    assert code % 8 == 0, errors
    refusal = json.loads(errors)
    details = tuple((each["type"], _unpacked(each)) for each in refusal.get("details", ()))
    return Said(status(code // 8), message=refusal.get("message", ""), details=details)


def _unpacked(detail: dict[str, str]) -> Any:
    message = getattr(error_details_pb2, detail["type"].removeprefix("google.rpc."))()
    message.ParseFromString(base64.b64decode(detail["value"] + "=="))
    return message


async def test_buf_registers_and_reads_by_the_proto_files_and_by_reflection(fleet: Fleet) -> None:
    instance = str(new_id())
    sent = {"instance_id": instance, "instance_type": "CHROME_BROWSER", "labels": {"a": "b"}}
    added = await curl(fleet, ADD, sent)
    assert added.code == OK
    revision = added.answer["revision"]
    assert added.answer == {"value": True, "reason": "REASON_UNSPECIFIED", "revision": revision}
    asked = {"instance_id": instance}
    for schema in ((), ("--reflect",)):
        found = await curl(fleet, "instance_manager.GetService/GetInstance", asked, schema=schema)
        assert found.answer["labels"] == {"a": "b"}
        assert (found.answer["status"], found.answer["createdRevision"]) == ("STATUS_HEALTHY", revision)


async def test_buf_is_told_the_reason_of_a_refusal(fleet: Fleet) -> None:
    instance = await fleet.add()
    taken = await curl(fleet, ADD, {"instance_id": instance, "instance_type": "VLLM"})
    assert taken == Said(OK, answer={"value": False, "reason": "REASON_ID_TAKEN", "revision": "0"})
    ring = {"parent_id": instance, "child_id": instance}
    cycle = await curl(fleet, "instance_manager.TryService/TryAddChild", ring)
    assert cycle.answer["reason"] == "REASON_CYCLE"


async def test_buf_is_told_which_field_is_invalid(fleet: Fleet) -> None:
    answer = await curl(fleet, ADD, {"instance_id": "x", "instance_type": "VLLM"})
    assert answer.code == INVALID
    ((name, detail),) = answer.details
    (violation,) = detail.field_violations
    assert (name, violation.field) == ("google.rpc.BadRequest", "instance_id")
    assert answer.message == f"instance_id: {violation.description}"


async def test_buf_is_told_what_is_not_found(fleet: Fleet) -> None:
    answer = await curl(fleet, "stats_service.StatsService/GetStats", {"hostname": "nobody's"})
    assert (answer.code, answer.details) == (grpc.StatusCode.NOT_FOUND, ())


@pytest.mark.parametrize("version", ["0123", None])
async def test_buf_is_told_which_version_is_spoken(fleet: Fleet, version: str | None) -> None:
    answer = await curl(fleet, ADD, {}, version=version)
    assert answer.code == grpc.StatusCode.FAILED_PRECONDITION
    ((name, detail),) = answer.details
    assert (name, detail.reason) == ("google.rpc.ErrorInfo", "PROTO_VERSION")
    assert PROTO_VERSION in answer.message
    assert (version or "none") in answer.message


# Node


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the caller and the packages of the example, as its lock file names them."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no Node.js with npm on this machine: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("node")
    for file in (NODE / "package.json", NODE / "package-lock.json", Path(__file__).with_name("node_caller.mjs")):
        shutil.copy(file, folder)
    code, told, errors = await run(
        "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", cwd=folder
    )
    if code:
        pytest.skip(f"npm could not install @grpc/grpc-js here: {(told + errors)[-300:]}")
    return folder


def asked(method: str, version: str = PROTO_VERSION, file: str = "instance_manager.proto", **request: object) -> object:
    """A call as the caller in Node reads it."""
    return {"file": file, "method": method, "request": request, "version": version}


async def from_node(fleet: Fleet, folder: Path, *calls: object) -> list[Said]:
    """What became of the calls, in their order."""
    google = Path(error_details_pb2.__file__).parents[2]
    script = ("node_caller.mjs", fleet.serving.addresses[0], PROTO, google)
    code, told, errors = await run("node", *script, sent=json.dumps(calls), cwd=folder)
    assert code == 0, errors
    return [_said(each) for each in json.loads(told)]


def _said(outcome: dict[str, Any]) -> Said:
    if "answer" in outcome:
        return Said(OK, answer=outcome["answer"])
    details = tuple((each.pop("name"), each) for each in outcome["details"])
    return Said(status(outcome["code"]), message=outcome["message"], details=details)


async def test_node_gets_answers_refusals_and_details(fleet: Fleet, node: Path) -> None:
    instance = str(new_id())
    added, again, found, taken, invalid, unknown, spoken, silent = await from_node(
        fleet,
        node,
        asked(ADD, instance_id=instance, instance_type="CHROME_BROWSER", labels={"a": "ä"}),
        asked(ADD, instance_id=instance, instance_type="CHROME_BROWSER", labels={"a": "ä"}),
        asked("instance_manager.GetService/GetInstance", instance_id=instance),
        asked(ADD, instance_id=instance, instance_type="VLLM"),
        asked(ADD, instance_id=instance, instance_type="VLLM", services=[{"service_type": "CHROME_DEBUG_PORT"}]),
        asked("stats_service.StatsService/GetStats", file="stats_service.proto", hostname="nobody's"),
        asked(ADD, version="0123"),
        asked(ADD, version=""),
    )
    assert added == again
    assert added.answer == {"value": True, "reason": "REASON_UNSPECIFIED", "revision": str(await fleet.head())}
    assert (found.answer["labels"], found.answer["status"]) == ({"a": "ä"}, "STATUS_HEALTHY")
    assert taken.answer == {"value": False, "reason": "REASON_ID_TAKEN", "revision": "0"}
    ((name, detail),) = invalid.details
    assert (invalid.code, name) == (INVALID, "google.rpc.BadRequest")
    assert [each["field"] for each in detail["field_violations"]] == ["services[0].port"]
    assert (unknown.code, unknown.details) == (grpc.StatusCode.NOT_FOUND, ())
    for refused, version in ((spoken, "0123"), (silent, "none")):
        ((name, detail),) = refused.details
        assert (refused.code, name) == (grpc.StatusCode.FAILED_PRECONDITION, "google.rpc.ErrorInfo")
        assert detail["reason"] == "PROTO_VERSION"
        assert PROTO_VERSION in refused.message
        assert version in refused.message


def yes(said: Said) -> int:
    """The revision of an answer that is true."""
    assert said.code == OK, said
    assert said.answer["value"] is True, said
    return int(said.answer["revision"])


def reason(said: Said) -> str:
    """Why an answer is false."""
    assert said.code == OK, said
    assert (said.answer["value"], said.answer["revision"]) == (False, "0")
    return str(said.answer["reason"]).removeprefix("REASON_")


def trying(name: str, **request: Any) -> object:
    return asked(f"instance_manager.TryService/{name}", **request)


def getting(name: str, **request: Any) -> object:
    return asked(f"instance_manager.GetService/{name}", **request)


async def test_node_gets_every_outcome_of_a_change(fleet: Fleet, node: Path) -> None:
    """Each true and each false of the contract's table, in its order, by a client of another maker."""
    parent, child, other, dead, never, fresh = (str(new_id()) for _ in range(6))
    kind: dict[str, Any] = {"instance_type": "CHROME_BROWSER"}
    port: dict[str, Any] = {"service_type": "CHROME_DEBUG_PORT", "host": "h", "port": 1}
    trues = await from_node(
        fleet,
        node,
        *(trying("TryAddInstance", instance_id=each, **kind) for each in (parent, child, other, dead)),
        trying("TryAddInstance", instance_id=fresh, parent_id=parent, services=[port], **kind),
        trying("TryAddChild", parent_id=parent, child_id=child),
        trying("TryAddService", instance_id=child, service=port),
        trying("TryUpdateInstance", instance_id=child, instance_type="VLLM", hostname="new"),
        trying("TryKillInstance", instance_id=dead, note="enough"),
    )
    revisions = [yes(each) for each in trues]
    assert revisions == list(range(revisions[0], revisions[0] + len(revisions)))
    check, linked, killed = await from_node(
        fleet,
        node,
        trying("TryHealthCheck", instance_id=child),
        trying("TryAddChild", parent_id=parent, child_id=child),
        trying("TryKillInstance", instance_id=dead),
    )
    assert (yes(check), yes(linked), yes(killed)) == (0, revisions[5], revisions[8])
    falses: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "TryAddInstance": [
            ("DEAD", {"instance_id": dead, **kind}),
            ("ID_TAKEN", {"instance_id": parent, "hostname": "other", **kind}),
            ("UNKNOWN_PARENT", {"instance_id": never, "parent_id": str(new_id()), **kind}),
            ("PARENT_DEAD", {"instance_id": never, "parent_id": dead, **kind}),
        ],
        "TryUpdateInstance": [
            ("UNKNOWN_INSTANCE", {"instance_id": never, **kind}),
            ("DEAD", {"instance_id": dead, **kind}),
            ("CONFLICT", {"instance_id": child, "updated_revision": "1", **kind}),
        ],
        "TryKillInstance": [("UNKNOWN_INSTANCE", {"instance_id": never})],
        "TryHealthCheck": [("UNKNOWN_INSTANCE", {"instance_id": never}), ("DEAD", {"instance_id": dead})],
        "TryAddChild": [
            ("UNKNOWN_INSTANCE", {"parent_id": parent, "child_id": never}),
            ("DEAD", {"parent_id": dead, "child_id": other}),
            ("HAS_PARENT", {"parent_id": other, "child_id": child}),
            ("CYCLE", {"parent_id": child, "child_id": parent}),
            ("CYCLE", {"parent_id": parent, "child_id": parent}),
        ],
        "TryAddService": [
            ("UNKNOWN_INSTANCE", {"instance_id": never, "service": port}),
            ("DEAD", {"instance_id": dead, "service": port}),
        ],
    }
    cases = [(name, *case) for name, those in falses.items() for case in those]
    said = await from_node(fleet, node, *(trying(name, **sent) for name, _, sent in cases))
    assert [reason(each) for each in said] == [expected for _, expected, _ in cases]
    await fleet.kill(parent)
    (orphaned,) = await from_node(fleet, node, trying("TryKillInstance", instance_id=child))
    assert reason(orphaned) == "DEAD"


async def test_node_gets_every_read_and_every_status(fleet: Fleet, node: Path) -> None:
    parent, child = str(new_id()), str(new_id())
    metrics: dict[str, Any] = {"instance_id": child, "timestamp_ms": "5"}
    numbers: dict[str, dict[str, Any]] = {
        "Proxy": {"active_connections": "1", "total_connections": "2", "bytes_sent": "3", "bytes_received": "4"},
        "System": {"used_memory_bytes": "1", "total_memory_bytes": str(2**63 - 1)},
        "Gpu": {"gpu_index": 7, "used_memory_bytes": "1", "total_memory_bytes": "2", "utilization_percent": 12.5},
        "Llm": {"request_count": "1", "tokens_received": "2", "tokens_sent": "3"},
    }
    prepared = await from_node(
        fleet,
        node,
        trying("TryAddInstance", instance_id=parent, instance_type="BROWSER_BACKEND"),
        trying("TryAddInstance", instance_id=child, instance_type="CHROME_BROWSER", parent_id=parent),
        *(
            asked(f"instance_manager.PostService/Post{name}Metrics", **metrics, **those)
            for name, those in numbers.items()
        ),
        asked(
            "stats_service.StatsService/UploadStats",
            file="stats_service.proto",
            hostname="h",
            stats={"used_memory_bytes": "1", "total_memory_bytes": "2", "timestamp_ms": "3"},
        ),
    )
    assert {each.code for each in prepared} == {OK}
    async with asyncio.timeout(5):
        while not await fleet.database.value("select count(*) from latest_llm_metrics"):
            await asyncio.sleep(0.05)
    one, health, above, none, below, everyone, stats, *latest = await from_node(
        fleet,
        node,
        getting("GetInstance", instance_id=child),
        getting("GetHealthCheck", instance_id=child),
        getting("GetParent", instance_id=child),
        getting("GetParent", instance_id=parent),
        getting("GetChildren", instance_id=parent),
        getting("GetAllInstances", subtree_of=parent, page_size=1),
        asked("stats_service.StatsService/GetStats", file="stats_service.proto", hostname="h"),
        *(getting(f"Get{name}Metrics", instance_id=child) for name in numbers),
    )
    assert one.answer["parent_id"] == parent
    assert health.answer["healthy"] is True
    assert (above.answer["instance"]["instance_id"], none.answer["instance"]) == (parent, None)
    assert [each["instance_id"] for each in below.answer["instances"]] == [child]
    assert len(everyone.answer["instances"]) == 1
    assert everyone.answer["next_page_token"]["data"]
    assert stats.answer["total_memory_bytes"] == "2"
    proxy, system, gpu, llm = (each.answer for each in latest)
    for name, answer in (("Proxy", proxy), ("System", system), ("Gpu", gpu["metrics"][0]), ("Llm", llm)):
        assert {key: answer[key] for key in numbers[name]} == numbers[name]
    never = str(new_id())
    await fleet.database.run(
        "insert into history_epoch select 2, gen_random_uuid(), system_identifier, timeline,"
        " database_oid, event_oid, base_revision, clock_timestamp(), 'a test' from history_epoch where number = 1"
    )
    invalid, absent, unposted, again, full = await from_node(
        fleet,
        node,
        getting("GetInstance", instance_id="none"),
        getting("GetInstance", instance_id=never),
        getting("GetLlmMetrics", instance_id=parent),
        trying("TryHealthCheck", instance_id=never),
        getting("GetAllInstances", page_size=10_001),
    )
    await fleet.database.run("delete from history_epoch where number = 2")  # which is not for the other transport
    assert [each.code.name for each in (invalid, absent, unposted, again, full)] == [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
    ]
    assert invalid.details[0][1]["field_violations"][0]["field"] == "instance_id"
    assert again.details[0][1]["reason"] == "EPOCH_CHANGED"
    assert full.details[0][1]["field_violations"][0]["field"] == "page_size"


async def test_node_is_told_when_to_come_again_while_the_database_is_away(fleet: Fleet, node: Path) -> None:
    """The server role may not connect for a while, which is as good as no database."""
    await fleet.database.run("alter role im_server nologin")
    try:
        await fleet.database.run(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'im_server' and datname = $1",
            fleet.database.name,
        )
        answers = await from_node(
            fleet,
            node,
            trying("TryHealthCheck", instance_id=str(new_id())),
            trying("TryKillInstance", instance_id=str(new_id())),
            getting("GetInstance", instance_id=str(new_id())),
        )
    finally:
        await fleet.database.run("alter role im_server login")
    assert {each.code for each in answers} == {grpc.StatusCode.UNAVAILABLE}
    assert {name for each in answers for name, _ in each.details} == {"google.rpc.RetryInfo"}
