"""Who asks over HTTP: requests as they are, answers as they come, and server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from manager.pb.version import PROTO_VERSION

VERSION = {"proto_version": PROTO_VERSION}


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


async def ask(address: str, path: str, body: bytes | None = None, method: str = "", **headers: str) -> Reply:
    """What is answered at an address; a name of a header is written with underscores, but for proto_version."""
    names = {name if name == "proto_version" else name.replace("_", "-"): value for name, value in headers.items()}

    def asked() -> Reply:
        connection = HTTPConnection(address, timeout=20)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, names)
            answer = connection.getresponse()
            return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(asked)


async def first_of(address: str, path: str, body: bytes, **headers: str) -> Reply:
    """The first frame of a stream by Connect, as `ask` has it: its content, with a status of what was answered."""
    names = {name if name == "proto_version" else name.replace("_", "-"): value for name, value in headers.items()}

    def asked() -> Reply:
        connection = HTTPConnection(address, timeout=20)
        try:
            connection.request("POST", path, b"\0" + len(body).to_bytes(4, "big") + body, names)
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders()}
            if answer.status != 200:
                return Reply(answer.status, found, answer.read())
            head = answer.read(5)
            return Reply(answer.status, {**found, "flags": str(head[0])}, answer.read(int.from_bytes(head[1:])))
        finally:
            connection.close()

    return await asyncio.to_thread(asked)


async def call(address: str, method: str, request: object, **headers: str) -> Reply:
    """A call by Connect in JSON, as `FleetService/ListEvents`."""
    service = "stats_service" if method.startswith("Stats") else "instance_manager"
    sent = json.dumps(request).encode()
    return await ask(address, f"/{service}.{method}", sent, content_type="application/json", **{**VERSION, **headers})


@dataclass(frozen=True)
class Frame:
    """One server-sent event."""

    kind: str
    id: str
    data: Any


@asynccontextmanager
async def live(address: str, **headers: str) -> AsyncIterator[AsyncIterator[Frame]]:
    """The frames of the console's stream."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=2**24)
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(["GET /live HTTP/1.0", f"host: {address}", *lines, "", ""]).encode())
    status = await reader.readline()
    assert b" 200 " in status, status
    while await reader.readline() != b"\r\n":
        pass
    try:
        yield _frames(reader)
    finally:
        writer.close()


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[Frame]:
    fields: dict[str, str] = {}
    while line := (await reader.readline()).decode():
        if line.strip():
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value
        elif fields:
            yield Frame(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
