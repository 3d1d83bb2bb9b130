"""What clients did, and what they were told: every call with its times, and a ledger of what was acknowledged.

The ledger is a file outside the database, and is on disk before its client goes on: what it holds must be found in
the database whatever happened since.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Literal, NamedTuple

import grpc
from grpc import aio

from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import GetServiceStub, TryServiceStub
from manager.pb.version import PROTO_VERSION

VERSION = (("proto_version", PROTO_VERSION),)
DEADLINE = 3.0

Method = Literal["add", "kill", "check", "link", "offer", "get"]
CHANGES = ("add", "kill", "link", "offer")

# Nobody knows whether these calls were carried out.
UNKNOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# And these are answers that are no Bool, by method.
ANSWERS = {("get", grpc.StatusCode.NOT_FOUND), ("check", grpc.StatusCode.FAILED_PRECONDITION)}


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked. `other`: the parent of an add, the child of a link, the port of an offer; else nothing."""

    method: Method
    instance: str
    other: str = ""

    @property
    def about(self) -> tuple[str, ...]:
        """The instances that it speaks of."""
        return (self.instance, self.other) if self.other and self.method in ("add", "link") else (self.instance,)


@dataclass(slots=True)
class Operation:
    """A call, by its client's monotonic clock (seconds); `returned` is None where nobody knows what became of it."""

    call: Call
    client: int
    called: float
    wall: float = 0.0
    returned: float | None = None
    value: bool = False
    reason: int = 0
    revision: int = 0
    status: str = ""


class Entry(NamedTuple):
    """A change of the ledger: what was asked, when, and the revision that was answered."""

    call: Call
    revision: int
    called: float = 0.0


class Ledger:
    """Acknowledged changes, on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    async def write(self, operation: Operation) -> None:
        """Returns once it cannot be lost with this process, or with the machine."""
        call = operation.call
        line = json.dumps([*astuple(call), operation.revision, operation.called]) + "\n"
        await asyncio.to_thread(self._write, line.encode())

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        os.fsync(self._file.fileno())

    def read(self) -> list[Entry]:
        """What it holds."""
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [Entry(Call(*row[:3]), *row[3:]) for row in rows]

    def close(self) -> None:
        self._file.close()


@dataclass
class Recorder:
    """All clients' operations, and how each kind of call went lately."""

    ledger: Ledger
    operations: list[Operation] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # answers that no server may give

    @property
    def acknowledged(self) -> int:
        """The highest revision that was answered."""
        return max((each.revision for each in self.operations), default=0)

    def save(self, path: Path) -> None:
        """As lines of JSON, for whoever looks into a failure."""
        path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.operations))


def loaded(path: Path) -> list[Operation]:
    """What `save` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Operation(**{**row, "call": Call(**row["call"])}) for row in rows]


class Client:
    """One client on one channel: it makes one call after the other, and each is recorded."""

    def __init__(self, number: int, channel: aio.Channel, recorder: Recorder) -> None:
        self.number, self.recorder = number, recorder
        self._tries, self._gets = TryServiceStub(channel), GetServiceStub(channel)

    async def ask(self, call: Call) -> Operation:
        """Makes the call; what became of it is recorded, acknowledged changes in the ledger first."""
        operation = Operation(call, self.number, monotonic(), time())
        self.recorder.operations.append(operation)
        try:
            answer = await self._sent(call)
        except aio.AioRpcError as error:
            operation.status = error.code().name
            if (call.method, error.code()) in ANSWERS:
                operation.returned = monotonic()
            elif error.code() not in UNKNOWN:
                self.recorder.faults.append(f"{call} was answered {error.code()}: {error.details()}")
            return operation
        operation.value, operation.reason, operation.revision = answer
        operation.returned = monotonic()
        if operation.value and call.method in CHANGES:
            await self.recorder.ledger.write(operation)
        return operation

    async def _sent(self, call: Call) -> tuple[bool, int, int]:
        if call.method == "get":
            await self._gets.GetInstance(
                pb.InstanceRequest(instance_id=call.instance), metadata=VERSION, timeout=DEADLINE
            )
            return True, 0, 0
        method, request = self._request(call)
        answer: pb.Bool = await method(request, metadata=VERSION, timeout=DEADLINE)
        return answer.value, answer.reason, answer.revision

    def _request(self, call: Call) -> tuple[Callable[..., Awaitable[Any]], Any]:
        match call.method:
            case "add":
                described = pb.InstanceDescription(
                    instance_id=call.instance, instance_type=pb.CHROME_BROWSER, hostname="host", parent_id=call.other
                )
                return self._tries.TryAddInstance, described
            case "kill":
                return self._tries.TryKillInstance, pb.KillRequest(instance_id=call.instance)
            case "link":
                return self._tries.TryAddChild, pb.AddChildRequest(parent_id=call.instance, child_id=call.other)
            case "offer":
                service = pb.Service(service_type=pb.CHROME_DEBUG_PORT, host="10.0.0.1", port=int(call.other))
                return self._tries.TryAddService, pb.AddServiceRequest(instance_id=call.instance, service=service)
        return self._tries.TryHealthCheck, pb.InstanceRequest(instance_id=call.instance)


def by_instance(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The operations about each instance, by the time at which they were called."""
    found: dict[str, list[Operation]] = {}
    for each in sorted(operations, key=lambda each: each.called):
        found.setdefault(each.call.instance, []).append(each)
    return found
