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
