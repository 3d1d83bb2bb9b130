"""The seam: every transport has a server, and one that is not installed is named with what to do."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.request import urlopen

import grpc
import ngh2
import pytest
from grpc import aio

from manager.settings import Settings, Transport
from manager.wire.listener import OPTIONS
from manager.wire.ports import EVERY_IPV4
from manager.wire.transport import SERVERS, NotInstalled, server, usual
from tests.conftest import serving
from tests.wire.raw import Raw, connected, framed

PATH = "/test.Test/Wait"


def test_every_transport_has_a_server() -> None:
    assert set(SERVERS) == set(Transport)


def test_a_transport_that_is_not_installed_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    _uninstall(monkeypatch)
    with pytest.raises(NotInstalled, match=r"instance-manager\[native\].*--transport grpcio"):
        server(Transport.NATIVE, {}, (*OPTIONS, ("grpc.so_reuseport", 0)))


@pytest.mark.parametrize("bind", ["127.0.0.1", EVERY_IPV4])
async def test_native_serves_any_address_where_it_is_installed_and_none_is_chosen(
    settings: Settings, bind: str
) -> None:
    assert usual() is Transport.NATIVE
    assert await carrier(settings, bind) == "native"


WARNED = re.compile(r"serves 0\.0\.0\.0, .* pip install 'instance-manager\[native\]', .* see docs/security\.md$")


@pytest.mark.parametrize(
    ("bind", "chosen", "warned"),
    [(EVERY_IPV4, None, 1), (EVERY_IPV4, Transport.GRPCIO, 0), ("127.0.0.1", None, 0)],
)
async def test_where_strangers_reach_grpc_s_own_server_and_nobody_chose_it_there_is_a_warning(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bind: str,
    chosen: Transport | None,
    warned: int,
) -> None:
    _uninstall(monkeypatch)
    assert await carrier(settings, bind, chosen) == "grpcio"
    told = [each.getMessage() for each in caplog.records if each.name == "manager.server"]
    assert len(told) == warned
    assert all(map(WARNED.search, told))


async def carrier(settings: Settings, bind: str, chosen: Transport | None = None) -> str:
    """What carries the calls of a manager, by what it says of itself."""
    more = {"bind": (bind,), "transport": chosen, "insecure_i_know": True}
    async with serving(settings.model_copy(update=more)) as started:
        port = started.http[0].rpartition(":")[2]
        with await asyncio.to_thread(urlopen, f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found = re.search(r'im_build_info\{.*transport="(\w+)"', answer.read().decode())
    assert found
    return found[1]


def _uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if libnghttp2 were not there."""
    for name in ("manager.wire.native", "manager.wire.http2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("manager.wire.native", raising=False)
    monkeypatch.setitem(sys.modules, "ngh2", None)


def same(content: bytes) -> bytes:
    """A message is its bytes."""
    return content


@asynccontextmanager
async def served(transport: Transport, handlers: dict[str, Any], options: dict[str, int]) -> AsyncIterator[int]:
    """A server of these, with these options beside the usual ones; its port."""
    serving = server(transport, handlers, [*{**dict(OPTIONS), "grpc.so_reuseport": 0, **options}.items()])
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    try:
        yield port
    finally:
        await serving.stop(0)


@pytest.mark.parametrize("transport", Transport)
async def test_an_old_connection_ends_and_its_client_goes_on_with_another(transport: Transport) -> None:
    async def wait(request: bytes, context: Any) -> bytes:
        if request == b"for ever":
            await asyncio.Event().wait()
        return context.peer().encode()  # type: ignore[no-any-return]

    handlers = {PATH: grpc.unary_unary_rpc_method_handler(wait, same, same)}
    hurry = {"grpc.max_connection_age_ms": 300, "grpc.max_connection_age_grace_ms": 300}
    async with served(transport, handlers, hurry) as port, aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(PATH)
        first = await call(b"")
        with pytest.raises(aio.AioRpcError) as ended:
            await call(b"for ever", timeout=10)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await call(b"", wait_for_ready=True, timeout=10) != first


@pytest.mark.parametrize("transport", Transport)
async def test_a_connection_has_so_many_calls_at_once_and_the_others_wait_for_them(transport: Transport) -> None:
    entered: asyncio.Queue[bytes] = asyncio.Queue()
    go_on = asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        entered.put_nowait(request)
        await go_on.wait()
        return request

    handlers = {PATH: grpc.unary_unary_rpc_method_handler(wait, same, same)}
    limits = {"grpc.max_concurrent_streams": 3}
    async with served(transport, handlers, limits) as port, aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(PATH)
        await asyncio.gather(channel.channel_ready(), asyncio.sleep(0.2))  # its settings have come
        calls = [asyncio.ensure_future(call(b"%d" % number, timeout=10)) for number in range(5)]
        for _ in range(3):
            await entered.get()
        await asyncio.sleep(0.3)
        assert entered.empty()
        go_on.set()
        assert sorted(await asyncio.gather(*calls)) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("transport", Transport)
async def test_whoever_has_more_calls_than_a_connection_may_has_them_all_answered(transport: Transport) -> None:
    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    handlers = {PATH: grpc.unary_unary_rpc_method_handler(echo, same, same)}
    async with served(transport, handlers, {}) as port, aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(PATH)
        for _ in range(3):
            assert set(await asyncio.gather(*(call(b"x", timeout=20) for _ in range(500)))) == {b"x"}


@pytest.mark.parametrize("transport", Transport)
async def test_there_are_so_many_connections_and_room_for_one_more_when_one_ends(transport: Transport) -> None:
    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    handlers = {PATH: grpc.unary_unary_rpc_method_handler(echo, same, same)}
    limits = {"grpc.max_allowed_incoming_connections": 2}

    async def answered(raw: Raw) -> bool:
        number = await raw.call(PATH, framed(b"x"))
        await raw.until(lambda: raw.ended or raw.answers[number].closed)
        return raw.answers[number].status == 0

    async with served(transport, handlers, limits) as port, connected(port) as one:
        assert await answered(one)
        async with connected(port) as other:
            assert await answered(other)
            for _ in range(3):
                async with connected(port) as beyond:
                    with suppress(OSError):
                        assert not await answered(beyond)
            assert await answered(one)
        async with asyncio.timeout(5):
            while True:
                with suppress(OSError):
                    async with connected(port) as again:
                        if await answered(again):
                            break
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("transport", Transport)
async def test_who_pings_too_often_while_nothing_is_said_to_him_is_cut_off(transport: Transport) -> None:
    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    handlers = {PATH: grpc.unary_unary_rpc_method_handler(echo, same, same)}
    async with served(transport, handlers, {}) as port, connected(port) as talks, connected(port) as pings:
        for _ in range(6):
            answer = await talks.answer(await talks.call(PATH, framed(b"x")))
            assert answer.status == 0
            talks.http2.ping()
            await talks.flush()
        for _ in range(4):
            pings.http2.ping()
            await pings.flush()
            await asyncio.sleep(0.01)
        told = await pings.heard(ngh2.GoAwayReceived)
        await pings.until(lambda: pings.ended)
        assert (told.error_code, told.debug_data) == (ngh2.ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")
        assert not talks.ended
