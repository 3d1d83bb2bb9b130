"""The seam: every transport has a server, and one that is not installed is named with what to do."""

import asyncio
import sys
from typing import Any

import grpc
import pytest
from grpc import aio

from manager.settings import Transport
from manager.wire.listener import OPTIONS
from manager.wire.transport import SERVERS, NotInstalled, server


def test_every_transport_has_a_server() -> None:
    assert set(SERVERS) == set(Transport)


def test_a_transport_that_is_not_installed_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("manager.wire.native", "manager.wire.http2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("manager.wire.native", raising=False)
    monkeypatch.setitem(sys.modules, "ngh2", None)
    with pytest.raises(NotInstalled, match=r"instance-manager\[native\].*--transport grpcio"):
        server(Transport.NATIVE, {}, (*OPTIONS, ("grpc.so_reuseport", 0)))


@pytest.mark.parametrize("transport", Transport)
async def test_an_old_connection_ends_and_its_client_goes_on_with_another(transport: Transport) -> None:
    async def wait(request: bytes, context: Any) -> bytes:
        if request == b"for ever":
            await asyncio.Event().wait()
        return context.peer().encode()  # type: ignore[no-any-return]

    def same(content: bytes) -> bytes:
        return content

    hurry = {**dict(OPTIONS), "grpc.max_connection_age_ms": 300, "grpc.max_connection_age_grace_ms": 300}
    handlers = {"/test.Test/Wait": grpc.unary_unary_rpc_method_handler(wait, same, same)}
    serving = server(transport, handlers, (*hurry.items(), ("grpc.so_reuseport", 0)))
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/test.Test/Wait")
        first = await call(b"")
        with pytest.raises(aio.AioRpcError) as ended:
            await call(b"for ever", timeout=10)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await call(b"", wait_for_ready=True, timeout=10) != first
    await serving.stop(0)
