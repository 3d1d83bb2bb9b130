"""Requests of every method to a manager in a process of its own, over both transports and over HTTP: each is answered,
or refused for what is wrong with it, and no answer shows anything of ours."""

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio

from manager.ids import new_id
from tests.credentials import bearing
from tests.fuzz.amount import REQUESTS, chance
from tests.fuzz.requests import any_request
from tests.fuzz.spoiler import Spoiler
from tests.fuzz.strategies import IDS
from tests.fuzz.target import Target
from tests.wire.caller import METHODS, VERSION, path

Code = grpc.StatusCode
AT_ONCE = 16
DEADLINE = 10.0
# what a client's fault may end in; DEADLINE_EXCEEDED ends the streams that have begun
FOR_A_REASON = {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE, Code.ABORTED}
FOR_A_REASON |= {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED}
METADATA: tuple[tuple[str, str | bytes], ...] = (
    ("authorization", "Bearer imt_x"),
    ("authorization", "x"),
    ("proto_version", "x"),
    ("cookie", "im_session=1"),
    ("x-bin", b"\xff\0"),
    ("grpc-trace-bin", b"\xff"),
    ("x", "y" * 500),
)
OF_HTTP = {200, 201, 204, 206, 304, 307, 400, 401, 403, 404, 405, 408, 409, 411, 412, 413, 414, 415, 416, 421, 429, 431}
OF_HTTP |= {499, 501, 504, 505}


LEFT = "Internal error from Core"  # gRPC's own server, of a stream whose client leaves while it is refused
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


def fresh(content: bytes, random: Random, known: list[bytes]) -> bytes:
    """The same about instances of now: those of the descriptors' strategies have died long ago."""
    if random.random() < 0.02:
        known[random.randrange(len(known))] = str(new_id()).encode()
    for old, new in zip(IDS, known, strict=True):
        content = content.replace(old.encode(), new)
    return content


async def asked(channel: aio.Channel, method: MethodDescriptor, content: bytes, metadata: Any) -> bytes:
    """The first answer of a method of any kind; nothing of a stream that is quiet."""
    if not method.server_streaming:
        single: Any = channel.unary_unary(path(method))
        return bytes(await single(content, metadata=metadata, timeout=DEADLINE))
    several: Any = channel.stream_stream if method.client_streaming else channel.unary_stream
    sent: Any = iter([content]) if method.client_streaming else content
    async for each in several(path(method))(sent, metadata=metadata, timeout=0.1):
        return bytes(each)
    return b""


@dataclass(frozen=True)
class Ended:
    """How a call ended that was not answered."""

    code: Code
    message: str
    trailing: bytes


async def outcome_of(channel: aio.Channel, method: MethodDescriptor, content: bytes, metadata: Any) -> bytes | Ended:
    """The first answer, or how the call ended; as it is, unlike what `tests.wire.caller` makes of it."""
    try:
        return await asked(channel, method, content, metadata)
    except aio.AioRpcError as error:
        trailing = repr(tuple(error.trailing_metadata() or ())).encode()
        return Ended(error.code(), error.details() or "", trailing)


@pytest.mark.timeout(7200)
async def test_no_request_over_grpc_ends_in_a_fault_of_ours(it: Target) -> None:
    random, known = chance("grpc"), [each.encode() for each in IDS]
    spoiler, room = Spoiler(random), asyncio.Semaphore(AT_ONCE)
    usual = (*VERSION, *bearing(it.token))

    async def one(method: MethodDescriptor, content: bytes, metadata: Any) -> None:
        what = (method.name, content[:300], metadata[:1])
        async with room:
            ended = await outcome_of(channel, method, content, metadata)
        if isinstance(ended, bytes):
            it.judge.answer(what, ended)
            return
        it.judge.answer(what, ended.trailing)
        it.judge.refusal(what, ended.code.name, ended.message)
        assert ended.code in FOR_A_REASON or ended.message == LEFT, (ended, what)

    async with aio.insecure_channel(it.grpc) as channel:
        for start in range(0, REQUESTS, 1000):
            async with asyncio.TaskGroup() as group:
                for number in range(start, min(start + 1000, REQUESTS)):
                    method = METHODS[number % len(METHODS)]
                    content = fresh(spoiler.request(method.input_type), random, known)
                    metadata = (random.choice(METADATA), *usual) if random.random() < 0.05 else usual
                    group.create_task(one(method, content, metadata))
    it.check()
    assert it.judge.codes["INVALID_ARGUMENT"] > REQUESTS / 10


@pytest.mark.timeout(7200)
async def test_no_request_over_http_ends_in_a_fault_of_ours(it: Target) -> None:
    random, known = chance("http"), [each.encode() for each in IDS]
    room = asyncio.Semaphore(AT_ONCE)

    async def one(content: bytes) -> None:
        async with room:
            it.judge.answer(content[:300], answer := await answered(it.port(http=True), content))
        if answer:
            fit(it, content, answer)

    for start in range(0, REQUESTS, 1000):
        async with asyncio.TaskGroup() as group:
            for _ in range(start, min(start + 1000, REQUESTS)):
                group.create_task(one(fresh(any_request(random, it.token), random, known)))
    it.check()


async def answered(port: int, content: bytes) -> bytes:
    """All that comes, or of a stream what comes at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = bytearray()
    try:
        writer.write(content)
        async with asyncio.timeout(DEADLINE):
            while piece := await reader.read(1 << 20):
                heard += piece
                if b"chunked" in heard or b"event-stream" in heard:
                    break
    except ConnectionError:
        pass
    except TimeoutError:
        raise AssertionError(f"neither an answer nor an end: {content[:500]!r}, {bytes(heard[:300])!r}") from None
    finally:
        writer.transport.abort()
    return bytes(heard)


def fit(it: Target, content: bytes, answer: bytes) -> None:
    """The status is one that a client's fault has, and what it says is in our words."""
    head, _, body = answer.removeprefix(GO_ON).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in OF_HTTP, (content[:600], answer[:600])
    if status < 400 or not body or b"chunked" in head:
        return
    it.judge.refusal_over_http(content[:600], status, head.decode("latin-1"), body)
