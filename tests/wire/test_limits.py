"""Safe by default: the numbers that hold without a word, and what becomes of connections that overstep them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import grpc
import ngh2
import pytest
from grpc import aio

from manager import safety
from manager.settings import Settings, Transport
from manager.wire import native
from manager.wire.limits import Limits
from manager.wire.listener import options
from manager.wire.manners import DEADLINE, LONGEST
from manager.wire.transport import server
from tests.conftest import serving
from tests.fuzz import frames
from tests.wire.raw import Raw, connected, framed

PATH = "/test.Test/Wait"
RESOURCE_EXHAUSTED = 8
SOON = 5.0  # seconds: what would come by itself, by a default, comes after ten


class Number(NamedTuple):
    """A setting, its default (seconds, bytes or pieces), the option of gRPC's server, and what our own calls it."""

    setting: str
    default: int
    option: str
    manner: str


NUMBERS = (
    Number("message_size", 1024 * 1024, "grpc.max_receive_message_length", "message"),
    Number("metadata_size", 8 * 1024, "grpc.max_metadata_size", "metadata"),
    Number("metadata_size", 8 * 1024, "grpc.absolute_max_metadata_size", "metadata"),
    Number("connection_streams", 128, "grpc.max_concurrent_streams", "streams"),
    Number("connections", 10_000, "grpc.max_allowed_incoming_connections", "connections"),
    Number("handshake", 10, "grpc.server_handshake_timeout_ms", "handshake"),
    Number("keepalive", 30, "grpc.keepalive_time_ms", "quiet"),
    Number("keepalive_timeout", 10, "grpc.keepalive_timeout_ms", "patience"),
    Number("keepalive_timeout", 10, "grpc.http2.ping_timeout_ms", "patience"),
    Number("ping_interval", 20, "grpc.http2.min_ping_interval_without_data_ms", "pings"),
    Number("idle", 5 * 60, "grpc.max_connection_idle_ms", "idle"),
    Number("connection_age", 30 * 60, "grpc.max_connection_age_ms", "age"),
    Number("connection_age_grace", 60, "grpc.max_connection_age_grace_ms", "farewell"),
    Number("deadline", 10, DEADLINE, "deadline"),
    Number("deadline_most", 60, LONGEST, "longest"),
)
PLAIN = ("grpc.compression_enabled_algorithms_bitset", 1)  # of compressions: the first, which is none


def number(value: float | timedelta) -> float:
    """As the table has it."""
    return value.total_seconds() if isinstance(value, timedelta) else value


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What servers were made with: the options of gRPC's, the manners of our own."""
    given: list[Any] = []
    of_grpc, of_ours = aio.server, native.server

    def grpcs(**made: Any) -> Any:
        given.append(dict(made["options"]))
        return of_grpc(**made)

    def ours(*made: Any) -> Any:
        one = of_ours(*made)
        given.append(one._manners)
        return one

    monkeypatch.setattr(aio, "server", grpcs)
    monkeypatch.setattr(native, "server", ours)
    return given


@pytest.mark.parametrize("times", [1, 2])
async def test_every_number_is_served_with_as_it_is_promised_or_chosen(
    settings: Settings, transport: Transport, given: list[Any], times: int
) -> None:
    fresh = {each.setting: getattr(Settings(), each.setting) for each in NUMBERS}
    assert {name: number(value) for name, value in fresh.items()} == {each.setting: each.default for each in NUMBERS}
    chosen = {} if times == 1 else {name: times * value for name, value in fresh.items()}
    async with serving(settings.model_copy(update=chosen)):
        pass
    (made,) = given
    if transport is Transport.GRPCIO:
        told = {each.option: made[each.option] / (1000 if each.option.endswith("_ms") else 1) for each in NUMBERS}
        assert made[PLAIN[0]] == PLAIN[1]
    else:
        told = {each.option: getattr(made, each.manner) for each in NUMBERS}
    assert told == {each.option: times * each.default for each in NUMBERS}


def test_without_a_word_the_limits_are_those_of_the_settings() -> None:
    assert Limits.of(Settings()) == Limits()


def test_without_a_word_every_class_of_calls_has_a_quota_and_reflection_is_for_development() -> None:
    fresh = Settings()
    quotas = {name: getattr(fresh, name) for name in Settings.model_fields if name.startswith("quota_")}
    assert len(quotas) == 9
    assert all(quotas.values())
    assert fresh.lists_at_once == 100
    assert not safety.reflects(fresh)
    assert safety.reflects(Settings(bind=("127.0.0.1",)))


# what becomes of connections


@asynccontextmanager
async def served(transport: Transport, **limits: float) -> AsyncIterator[int]:
    """A server within such limits, whose one method waits for ever where it is asked to; its port."""

    async def wait(request: bytes, _context: Any) -> bytes:
        if request:
            await asyncio.Event().wait()
        return request

    def same(content: bytes) -> bytes:
        return content

    handlers: dict[str, Any] = {PATH: grpc.unary_unary_rpc_method_handler(wait, same, same)}
    bounds: Any = limits
    serving = server(transport, handlers, (*options(Limits(**bounds)), ("grpc.so_reuseport", 0)))
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    try:
        yield port
    finally:
        await serving.stop(0)


async def answered(raw: Raw, *more: tuple[bytes, bytes]) -> int | None:
    """The status of a call."""
    return (await raw.answer(await raw.call(PATH, framed(b""), *more))).status


async def hung_up(port: int, *said: bytes) -> bool:
    """Whether somebody who says this, and nothing more whatever he is told, is soon hung up on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(said))
    try:
        async with asyncio.timeout(SOON):
            with suppress(ConnectionError):
                await reader.read()
            return True
    except TimeoutError:
        return False
    finally:
        writer.close()


async def test_a_connection_without_calls_is_ended_and_never_one_that_has_any(transport: Transport) -> None:
    async with served(transport, idle=0.3) as port, connected(port) as idle, connected(port) as busy:
        waiting = await busy.call(PATH, framed(b"for ever"))
        assert await answered(idle) == 0
        await idle.until(lambda: idle.ended)
        assert await idle.heard(ngh2.GoAwayReceived)  # so that its client makes another
        assert (busy.ended, busy.answers[waiting].closed) == (False, False)


@pytest.mark.parametrize("said", [b"", frames.PREFACE[:-3], frames.PREFACE])
async def test_who_does_not_come_so_far_as_to_speak_is_not_waited_for(transport: Transport, said: bytes) -> None:
    async with served(transport, handshake=0.3) as port, connected(port) as speaks:
        assert await answered(speaks) == 0
        assert await hung_up(port, said)
        assert await answered(speaks) == 0


async def test_who_gives_no_sign_when_he_is_asked_for_one_is_gone(transport: Transport) -> None:
    begun = frames.HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, frames.block(*frames.named(PATH)))
    waiting = frames.frame(frames.DATA, frames.END_STREAM, 1, framed(b"for ever"))
    async with served(transport, keepalive=0.3, keepalive_timeout=0.3) as port, connected(port) as alive:
        number = await alive.call(PATH, framed(b"for ever"))
        assert await hung_up(port, begun, waiting)
        assert (alive.ended, alive.answers[number].closed) == (False, False)


@pytest.mark.parametrize("pieces", [1, 20])
async def test_metadata_is_taken_up_to_the_bound_and_not_a_byte_more(transport: Transport, pieces: int) -> None:
    bound = 2048
    async with served(transport, metadata=bound) as port, connected(port) as raw:
        for size, status in ((bound, 0), (bound + 1, RESOURCE_EXHAUSTED), (8 * bound, RESOURCE_EXHAUSTED)):
            assert await answered(raw, *metadata(size, pieces)) == status
        assert await answered(raw) == 0


# the headers of every call of `Raw`, counted as HTTP/2 does: 32 bytes for each beside its name and value
FIELD = 32
USUAL = {":method": "POST", ":scheme": "http", ":path": PATH, ":authority": "test", "te": "trailers"}
USUAL |= {"content-type": "application/grpc"}


def metadata(size: int, pieces: int) -> list[tuple[bytes, bytes]]:
    """So many headers with which a call comes to so many bytes."""
    left = size - sum(len(name) + len(value) + FIELD for name, value in USUAL.items())
    names = [b"key-%03d" % each for each in range(pieces)]
    values = [left // pieces - FIELD - len(names[0])] * pieces
    values[0] += left % pieces
    return [(name, b"v" * value) for name, value in zip(names, values, strict=True)]
