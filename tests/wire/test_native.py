"""Our own server of gRPC on HTTP/2: what it owes to clients that are slow, gone, wrong or of bad will."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import ngh2
import pytest
from grpc import aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

import manager.wire
from manager.wire.call import Call
from manager.wire.http2 import HELD, HELD_BY_ALL, QUEUED, STREAM_WINDOW, UNTAKEN
from manager.wire.listener import OPTIONS
from manager.wire.manners import DEADLINE, LONGEST
from manager.wire.native import Server
from tests.wire.raw import Answer, Raw, connected, framed

MESSAGE = 1024 * 1024
UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED = 14, 1, 4
INTERNAL, UNIMPLEMENTED, RESOURCE_EXHAUSTED = 13, 12, 8
PATH = "/test.Test/"
OURS: Mapping[str, int] = {**dict(OPTIONS), "grpc.so_reuseport": 0}


@dataclass
class Handlers:
    """What the tests' service does, and what it has seen."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    written: int = 0
    seen: list[Any] = field(default_factory=list)

    async def echo(self, request: bytes, context: Any) -> bytes:
        """Answers what it was asked, and tells what it knows of the caller."""
        self.seen.append((context.peer(), dict(context.invocation_metadata())))
        context.set_trailing_metadata((("a", "b"), ("c-bin", b"\0\xff")))
        return request

    async def wait(self, request: bytes, context: Any) -> bytes:
        """Answers when it may."""
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def tell(self, request: bytes, context: Any) -> None:
        """Begins to answer, and goes on when it may."""
        await context.send_initial_metadata((("place", "here"), ("token-bin", b"\0\xff")))
        await self.go_on.wait()
        await context.write(request)

    async def refuse(self, request: bytes, context: Any) -> bytes:
        """Aborts."""
        await context.abort(grpc.StatusCode.NOT_FOUND, "100 % \N{SNOWMAN}\n", (("why", "so"),))
        return request

    async def fail(self, request: bytes, context: Any) -> bytes:
        """Fails, past any gate."""
        raise ValueError("a secret")

    async def flood(self, request: bytes, context: Any) -> None:
        """Writes without an end."""
        try:
            while True:
                await context.write(bytes(1000))
                self.written += 1000
        finally:
            self.cancelled.set()

    async def talk(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        """Answers each, once it may."""
        self.entered.set()
        try:
            await self.go_on.wait()
            async for each in requests:
                yield each
        finally:
            self.cancelled.set()

    def table(self) -> dict[str, Any]:
        """As a server takes it; messages are bytes."""

        def same(content: bytes) -> bytes:
            return content

        unary = {"Echo": self.echo, "Wait": self.wait, "Refuse": self.refuse, "Fail": self.fail}
        stream: Any = self.talk
        flood: Any = self.flood
        tell: Any = self.tell
        return {
            **{PATH + name: grpc.unary_unary_rpc_method_handler(each, same, same) for name, each in unary.items()},
            PATH + "Tell": grpc.unary_stream_rpc_method_handler(tell, same, same),
            PATH + "Flood": grpc.unary_stream_rpc_method_handler(flood, same, same),
            PATH + "Talk": grpc.stream_stream_rpc_method_handler(stream, same, same),
        }


@dataclass
class Served:
    """A server, its port and what its handlers do."""

    server: Server
    port: int
    handlers: Handlers


@asynccontextmanager
async def served(address: str = "127.0.0.1:0", options: Mapping[str, int] = OURS) -> AsyncIterator[Served]:
    """A server of the tests' handlers."""
    handlers = Handlers()
    server = Server(handlers.table(), [*{**OURS, **options}.items()])
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield Served(server, port, handlers)
    finally:
        await server.stop(0)


@pytest.fixture
async def it() -> AsyncIterator[Served]:
    """A server, and nobody else on it."""
    async with served() as it:
        yield it


async def asked(raw: Raw, name: str, body: bytes, *more: tuple[bytes, bytes], **options: Any) -> Answer:
    """The answer to a call."""
    return await raw.answer(await raw.call(PATH + name, body, *more, **options))


# a call


async def test_a_call_is_answered_with_its_trailers(it: Served) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, "Echo", framed(b"hello"), (b"key", b"value"), (b"some-bin", b"AP8"))
    assert (answer.status, answer.body) == (0, framed(b"hello"))
    assert answer.headers[b":status"] == b"200"
    assert answer.headers[b"content-type"] == b"application/grpc"
    assert (answer.headers[b"a"], answer.headers[b"c-bin"]) == (b"b", b"AP8")
    ((peer, metadata),) = it.handlers.seen
    assert peer.startswith("ipv4:127.0.0.1:")
    assert metadata == {"key": "value", "some-bin": b"\0\xff"}


async def test_what_is_no_base64_is_handed_on_as_it_is(it: Served) -> None:
    async with connected(it.port) as raw:
        assert (await asked(raw, "Echo", framed(b""), (b"some-bin", b"A"))).status == 0
    assert it.handlers.seen[0][1] == {"some-bin": "A"}


async def test_what_goes_before_the_first_message_goes_at_once(it: Served) -> None:
    async with connected(it.port) as raw:
        number = await raw.call(PATH + "Tell", framed(b"x"))
        await raw.until(lambda: b"place" in raw.answers[number].headers)
        assert raw.answers[number].headers[b"token-bin"] == b"AP8"
        it.handlers.go_on.set()
        answer = await raw.answer(number)
        assert (answer.status, answer.body) == (0, framed(b"x"))


def test_a_call_is_all_that_handlers_ask_of_their_context() -> None:
    folders = [Path(manager.wire.__path__[0]), Path(health.__file__).parent, Path(reflection.__file__).parent]
    sources = [each for folder in folders for each in folder.glob("*.py") if each.name != "_sync.py"]
    asked = {name for each in sources for name in re.findall(r"\bcontext\.([a-z_]+)\(", each.read_text())}
    sync = {"add_callback", "is_active", "set_code", "set_details"}  # of handlers that run in threads, and of none here
    assert {"write", "abort", "send_initial_metadata"} <= asked
    assert asked - sync <= set(dir(Call))


async def test_an_abort_is_one_frame_of_its_code_its_message_and_what_it_trails(it: Served) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, "Refuse", framed(b""))
    assert (answer.status, answer.body, answer.headers[b"why"]) == (5, b"", b"so")
    assert answer.headers[b"grpc-message"] == b"100 %25 %E2%98%83%0A"


async def test_a_fault_shows_nothing_of_itself(it: Served, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, "Fail", framed(b""))
    assert answer.status == INTERNAL
    assert "secret" not in answer.message
    assert "a handler failed" in caplog.text


@pytest.mark.parametrize("pieces", [1, 3, 5, 7])
async def test_a_request_may_come_in_any_pieces(it: Served, pieces: int) -> None:
    body = framed(b"0123456789")
    async with connected(it.port) as raw:
        number = await raw.call(PATH + "Echo", end=False)
        for start in range(0, len(body), pieces):
            await raw.send(number, body[start : start + pieces])
            await asyncio.sleep(0.001)
        await raw.send(number, b"", end=True)
        assert (await raw.answer(number)).body == body


async def test_a_great_request_comes_through_small_windows_and_its_answer_goes_back(it: Served) -> None:
    body = framed(bytes(1024 * 1024))
    async with connected(it.port) as raw:
        answers = [await raw.call(PATH + "Echo", body) for _ in range(3)]
        assert [(await raw.answer(each)).body == body for each in answers] == [True] * 3


@pytest.mark.parametrize("body", [b"", framed(b"a") + framed(b"b"), framed(b"abc")[:-1], b"\0\0"])
async def test_a_request_that_is_not_one_message_is_refused(it: Served, body: bytes) -> None:
    async with connected(it.port) as raw:
        assert (await asked(raw, "Echo", body)).status == INTERNAL


# what is not taken


async def test_a_message_that_is_too_large_is_refused_by_its_first_bytes(it: Served) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, "Echo", framed(b"")[:1] + (1 << 30).to_bytes(4) + b"begin", end=False)
    assert answer.status == RESOURCE_EXHAUSTED
    assert answer.message == "SERVER: Received message larger than max (1073741824 vs. 1048576)"
    assert answer.reset in (None, ngh2.ErrorCode.NO_ERROR)


async def test_compression_is_refused_before_anything_is_inflated(it: Served) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, "Echo", framed(b"x", 1), (b"grpc-encoding", b"gzip"))
        assert (answer.status, answer.headers[b"grpc-accept-encoding"]) == (UNIMPLEMENTED, b"identity")
        assert (await asked(raw, "Echo", framed(b"x", 1))).status == INTERNAL
        assert (await asked(raw, "Talk", framed(b"x", 1), end=False)).status == INTERNAL
        assert (await asked(raw, "Echo", framed(b"x"), (b"grpc-encoding", b"identity"))).status == 0


async def test_many_beginnings_of_messages_are_not_kept_without_bound(it: Served) -> None:
    """Each of them stays within its limit, and all together would not."""
    begin = framed(bytes(1024 * 1024))[: 800 * 1024]
    async with connected(it.port) as raw:
        numbers = [await raw.call(PATH + "Echo", begin, end=False) for _ in range(90)]
        await raw.until(lambda: any(raw.answers[each].closed for each in numbers))
        refused = [each for each in raw.answers.values() if each.closed]
        assert {each.status for each in refused} == {RESOURCE_EXHAUSTED}
        assert (await asked(raw, "Echo", framed(b"x"))).status == 0


@pytest.mark.parametrize(
    ("method", "content"),
    [(b"GET", b"application/grpc"), (b"POST", b"text/html"), (b"POST", b"application/grpc-web")],
)
async def test_what_is_not_grpc_is_told_so_by_http(it: Served, method: bytes, content: bytes) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, "Echo", framed(b""), method=method, content=content)
        assert (answer.headers[b":status"], answer.status) == (b"415", None)
        assert (await asked(raw, "Echo", framed(b"x"), content=b"application/grpc+proto")).status == 0


@pytest.mark.parametrize("name", ["Nothing", "", "Echo/"])
async def test_an_unknown_method_is_unimplemented_while_its_request_still_comes(it: Served, name: str) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, name, b"", end=False)
    assert (answer.status, answer.message) == (UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * 9])
async def test_bytes_that_are_no_http2_end_their_connection_alone(it: Served, content: bytes) -> None:
    async with connected(it.port) as other, connected(it.port, greet=False) as raw:
        await raw.raw(content)
        await raw.until(lambda: raw.ended)
        assert (await asked(other, "Echo", framed(b"x"))).status == 0


async def test_a_flood_of_resets_ends_its_connection(it: Served) -> None:
    async with connected(it.port) as raw:
        try:
            for _ in range(30_000):
                number = await raw.call(PATH + "Wait", framed(b""))
                raw.http2.reset_stream(number)
                await raw.flush()
                if raw.ended:
                    break
        except (ConnectionError, ngh2.NGH2Error):
            pass
        await raw.until(lambda: raw.ended)
    async with connected(it.port) as other:
        assert (await asked(other, "Echo", framed(b"x"))).status == 0


# how long a call lasts


async def test_a_call_ends_at_its_deadline_and_its_handler_with_it(it: Served) -> None:
    async with connected(it.port) as raw:
        assert (await asked(raw, "Wait", framed(b""), (b"grpc-timeout", b"50m"))).status == DEADLINE_EXCEEDED
        await asyncio.wait_for(it.handlers.cancelled.wait(), 5)
        it.handlers.go_on.set()
        assert (await asked(raw, "Wait", framed(b"x"), (b"grpc-timeout", b"10S"))).status == 0


@pytest.mark.parametrize("name", ["Echo", "Talk"])
async def test_a_deadline_counts_while_the_request_still_comes(it: Served, name: str) -> None:
    async with connected(it.port) as raw:
        answer = await asked(raw, name, framed(b"x")[:3], (b"grpc-timeout", b"50m"), end=False)
    assert answer.status == DEADLINE_EXCEEDED


async def test_a_single_call_that_names_no_deadline_has_the_default_while_its_request_comes_and_afterwards() -> None:
    async with served(options={DEADLINE: 100}) as it, connected(it.port) as raw:
        assert (await asked(raw, "Echo", framed(b"x")[:3], end=False)).status == DEADLINE_EXCEEDED
        assert (await asked(raw, "Wait", framed(b"x"))).status == DEADLINE_EXCEEDED
        assert it.handlers.cancelled.is_set()


async def test_a_single_call_has_no_longer_than_the_longest_and_a_stream_what_it_names() -> None:
    async with served(options={DEADLINE: 100, LONGEST: 100}) as it, connected(it.port) as raw:
        assert (await asked(raw, "Wait", framed(b"x"), (b"grpc-timeout", b"1H"))).status == DEADLINE_EXCEEDED
        talks = await raw.call(PATH + "Talk", framed(b"x"))
        await asyncio.sleep(0.5)
        it.handlers.go_on.set()
        assert (await raw.answer(talks)).status == 0


@pytest.mark.parametrize("timeout", [b"", b"x", b"5", b"-1S", b"1" * 5000 + b"S", b"99999999H"])
async def test_a_timeout_that_is_none_is_none(it: Served, timeout: bytes) -> None:
    async with connected(it.port) as raw:
        assert (await asked(raw, "Echo", framed(b""), (b"grpc-timeout", timeout))).status == 0


@pytest.mark.parametrize("name", ["Wait", "Talk"])
async def test_a_call_that_is_given_up_cancels_its_handler(it: Served, name: str) -> None:
    async with connected(it.port) as raw:
        number = await raw.call(PATH + name, framed(b""))
        await it.handlers.entered.wait()
        raw.http2.reset_stream(number)
        await raw.flush()
        await asyncio.wait_for(it.handlers.cancelled.wait(), 5)


@pytest.mark.parametrize("name", ["Wait", "Talk"])
async def test_a_call_that_is_given_up_in_the_same_breath_leaves_nothing_behind(it: Served, name: str) -> None:
    async with connected(it.port) as raw:
        number = raw.http2.next_stream_id
        named = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", (PATH + name).encode()))
        raw.http2.send_request((*named, (b":authority", b"test"), (b"content-type", b"application/grpc")))
        raw.http2.send_data(number, framed(b""), end_stream=True)
        together = raw.http2.data_to_send()
        raw.http2.reset_stream(number)
        await raw.raw(together + raw.http2.data_to_send())
        assert (await asked(raw, "Echo", framed(b"x"))).status == 0
        assert not it.handlers.entered.is_set()
        await asyncio.wait_for(it.server.stop(10), 2)  # which waits for what is open


@pytest.mark.parametrize(("name", "method"), [("Nothing", b"POST"), ("Echo", b"GET"), ("Echo", b"POST")])
async def test_an_answer_of_ours_to_a_call_that_is_given_up_in_the_same_breath_is_dropped(
    it: Served, name: str, method: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(it.port) as raw:
        number = raw.http2.next_stream_id
        named = ((b":method", method), (b":scheme", b"http"), (b":path", (PATH + name).encode()))
        raw.http2.send_request((*named, (b":authority", b"test"), (b"content-type", b"application/grpc")))
        raw.http2.send_data(number, b"no message", end_stream=True)
        together = raw.http2.data_to_send()
        raw.http2.reset_stream(number)
        await raw.raw(together + raw.http2.data_to_send())
        assert (await asked(raw, "Echo", framed(b"x"))).status == 0
    assert caplog.text == ""


async def test_beginnings_of_messages_on_many_connections_are_not_kept_without_bound(it: Served) -> None:
    begin = framed(bytes(MESSAGE))[: MESSAGE - 100]
    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(connected(it.port)) for _ in range(HELD_BY_ALL // HELD + 3)]
        for raw in several:
            for _ in range(HELD // MESSAGE - 1):
                await raw.call(PATH + "Echo", begin, end=False)
        await several[-1].until(lambda: any(each.closed for each in several[-1].answers.values()))
        assert sum(each.held for each in it.server._connections) <= HELD_BY_ALL + 2 * MESSAGE
        assert (await asked(several[0], "Echo", framed(b"x"))).status == 0


async def test_who_does_not_take_what_he_asks_for_is_cut_off(it: Served) -> None:
    body = framed(bytes(MESSAGE))
    async with connected(it.port) as other, connected(it.port, auto=False) as raw:
        raw.http2.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
        for _ in range(UNTAKEN // MESSAGE + 8):
            with suppress(ConnectionError, ngh2.NGH2Error):
                await raw.call(PATH + "Echo", body)
        await raw.until(lambda: raw.ended)
        assert (await asked(other, "Echo", framed(b"x"))).status == 0


@pytest.mark.parametrize("name", ["Wait", "Talk", "Flood"])
async def test_a_client_that_is_gone_cancels_its_handlers(it: Served, name: str) -> None:
    async with connected(it.port) as raw:
        number = await raw.call(PATH + name, framed(b""))
        await raw.until(lambda: it.handlers.entered.is_set() or bool(raw.answers[number].body))
    await asyncio.wait_for(it.handlers.cancelled.wait(), 5)


# how much waits


async def test_who_takes_nothing_is_written_to_no_further_and_goes_on_when_it_does(it: Served) -> None:
    async with connected(it.port, auto=False) as raw:
        number = await raw.call(PATH + "Flood", framed(b""))
        before = -1
        while it.handlers.written != before:
            before = it.handlers.written
            await asyncio.sleep(0.1)
        assert before <= 65_535 + QUEUED + 2 * 1005
        taken = len(raw.answers[number].body)
        raw.http2.acknowledge_received_data(taken, number)
        await raw.flush()
        await raw.until(lambda: len(raw.answers[number].body) > taken)


async def test_what_a_handler_does_not_read_is_held_at_the_client(it: Served) -> None:
    async with connected(it.port) as raw:
        number = await raw.call(PATH + "Talk", end=False)
        message = framed(bytes(100_000))
        for _ in range(100):
            await raw.send(number, message)
        await asyncio.sleep(0.2)
        left = raw.http2.queued_body_size(number)
        assert left >= 100 * len(message) - STREAM_WINDOW - 2 * len(message)
        it.handlers.go_on.set()
        await raw.send(number, b"", end=True)
        answer = await raw.answer(number)
    assert (answer.status, len(answer.body)) == (0, 100 * len(message))


# how long a connection lasts


async def test_who_has_gone_silent_is_asked_and_who_does_not_answer_is_left() -> None:
    options = {"grpc.keepalive_time_ms": 100, "grpc.keepalive_timeout_ms": 1000}
    async with served(options=options) as it, connected(it.port) as alive, connected(it.port, greet=False) as silent:
        await silent.until(lambda: silent.ended)
        await alive.heard(ngh2.PingReceived)
        await asyncio.sleep(1.5)
        assert not alive.ended
        assert (await asked(alive, "Echo", framed(b"x"))).status == 0


async def test_a_stop_sends_clients_elsewhere_and_lets_their_calls_end(it: Served) -> None:
    async with connected(it.port) as raw, connected(it.port) as idle:
        number = await raw.call(PATH + "Wait", framed(b"x"))
        await it.handlers.entered.wait()
        stopping = asyncio.create_task(it.server.stop(10))
        assert (await raw.heard(ngh2.GoAwayReceived)).error_code == ngh2.ErrorCode.NO_ERROR
        await idle.until(lambda: idle.ended)
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", it.port)
        assert not stopping.done()
        it.handlers.go_on.set()
        assert (await raw.answer(number)).body == framed(b"x")
        await asyncio.wait_for(stopping, 2)
        await raw.until(lambda: raw.ended)


async def test_a_call_that_was_sent_before_its_client_knew_is_still_served(it: Served) -> None:
    async with connected(it.port) as raw:
        assert (await asked(raw, "Echo", framed(b"x"))).status == 0
        stopping = asyncio.create_task(it.server.stop(10))
        await asyncio.sleep(0)
        number = await raw.call(PATH + "Echo", framed(b"late"))
        assert (await raw.answer(number)).body == framed(b"late")
        await stopping


async def test_a_stop_ends_in_time_whatever_is_still_open(it: Served) -> None:
    async with connected(it.port) as raw, connected(it.port, auto=False) as stalled, connected(it.port, greet=False):
        waits, talks = await raw.call(PATH + "Wait", framed(b"")), await raw.call(PATH + "Talk", end=False)
        begun = await raw.call(PATH + "Echo", b"\0", end=False)
        await stalled.call(PATH + "Flood", framed(b""))
        await it.handlers.entered.wait()
        await asyncio.wait_for(it.server.stop(0.2), 5)
        assert [(await raw.answer(each)).status for each in (waits, talks, begun)] == [UNAVAILABLE] * 3


# where it listens


@pytest.mark.parametrize("host", ["[::]", "[::1]", "127.0.0.1", "0.0.0.0"])
async def test_it_serves_where_it_was_told(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    async with served(f"{host}:0") as it:
        for target in {"[::]": ["[::1]", "127.0.0.1"], "0.0.0.0": ["127.0.0.1"]}.get(host, [host]):
            async with aio.insecure_channel(f"{target}:{it.port}") as channel:
                call: Callable[..., Any] = channel.unary_unary(PATH + "Echo")
                assert await call(b"x") == b"x"
        peers = {peer.rpartition(":")[0] for peer, _ in it.handlers.seen}
        assert peers <= {"ipv4:127.0.0.1", "ipv6:[::1]"}


async def test_a_taken_port_is_refused_unless_both_share_it(it: Served) -> None:
    with pytest.raises(RuntimeError, match=f"{it.port}"):
        Server({}, (*OPTIONS, ("grpc.so_reuseport", 0))).add_insecure_port(f"127.0.0.1:{it.port}")
    async with (
        served(options={"grpc.so_reuseport": 1}) as one,
        served(f"127.0.0.1:{one.port}", {"grpc.so_reuseport": 1}) as other,
    ):
        assert other.port == one.port


# how long a connection lasts


async def test_a_call_with_more_metadata_than_may_be_is_refused(it: Served) -> None:
    async with connected(it.port) as raw:
        within = await asked(raw, "Echo", framed(b"hello"), (b"key", b"v" * (7 * 1024)))
        beyond = await asked(raw, "Echo", framed(b"hello"), (b"key", b"v" * (8 * 1024)))
    assert (within.status, beyond.status) == (0, RESOURCE_EXHAUSTED)
    assert len(it.handlers.seen) == 1


async def test_an_old_connection_sends_its_client_elsewhere_and_ends_what_is_still_open_later() -> None:
    options = {"grpc.max_connection_age_ms": 200, "grpc.max_connection_age_grace_ms": 600}
    async with served(options=options) as it, connected(it.port) as raw:
        waiting = await raw.call(PATH + "Wait", framed(b"hello"))
        await raw.heard(ngh2.GoAwayReceived)
        assert not raw.answers[waiting].closed
        assert (await raw.answer(waiting)).status == UNAVAILABLE
        await raw.until(lambda: raw.ended)
    assert it.handlers.cancelled.is_set()


async def test_a_connection_is_left_when_it_has_had_no_call_for_long_and_never_while_it_has_one() -> None:
    async with served(options={"grpc.max_connection_idle_ms": 200}) as it, connected(it.port) as raw:
        waiting = await raw.call(PATH + "Wait", framed(b"hello"))
        await asyncio.sleep(1)
        assert not any(isinstance(each, ngh2.GoAwayReceived) for each in raw.events)
        it.handlers.go_on.set()
        assert (await raw.answer(waiting)).status == 0
        await raw.until(lambda: raw.ended)
