"""TLS: what a manager shows, whom it asks for a certificate, and whose name is good for what."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import grpc
import pytest

from manager import certificates
from manager.certificates import Pair
from manager.client import Access, Client, DeniedError, UnavailableError
from manager.domain.principal import Role
from manager.domain.token import digest
from manager.pb import instance_manager_pb2 as pb
from manager.repository import tokens
from manager.repository.database import Session, engine_of
from manager.repository.tokens import Grant
from manager.server import Serving
from manager.settings import Settings, Transport
from manager.wire import ports, waiting
from manager.wire.listener import OPTIONS
from manager.wire.native import Server
from manager.wire.tls import Tls
from tests.conftest import Database, serving
from tests.credentials import granted
from tests.faults.managers import resident
from tests.fuzz import frames
from tests.fuzz.seals import Seal, trusting
from tests.wire.raw import framed

DAY = timedelta(days=1)
ROUTER = "spiffe://example.org/router"
OURS = pytest.mark.parametrize("settings", [Transport.NATIVE], indirect=True)


@dataclass(frozen=True)
class Authority:
    """One of a test's own, and a manager's certificate by it."""

    pair: Pair
    folder: Path

    @property
    def ca(self) -> bytes:
        """What clients trust."""
        return (self.folder / "ca.pem").read_bytes()

    def client(self, uri: str = "", *, token: str = "", by: Pair | None = None) -> Access:
        """A client's access, with a certificate of that name where one is given."""
        if not uri:
            return Access(token=token, ca=self.ca)
        folder = self.folder / uri.replace("/", "_").replace(":", "") / str(id(by))
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "client.key").exists():
            certificates.for_client(by or self.pair, uri, DAY).write(folder, "client")
        certificate, key = (folder / "client.pem").read_bytes(), (folder / "client.key").read_bytes()
        return Access(token=token, ca=self.ca, certificate=certificate, key=key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Files as `imctl certs` writes them."""
    pair = certificates.authority("test")
    pair.write(tmp_path, "ca")
    certificates.for_server(pair, ["127.0.0.1", "localhost"], DAY).write(tmp_path, "server")
    return Authority(pair, tmp_path)


@pytest.fixture(params=Transport)
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """By either transport."""
    return settings.model_copy(update={"transport": request.param})


@asynccontextmanager
async def secured(settings: Settings, authority: Authority, **more: Any) -> AsyncIterator[Serving]:
    """A manager with TLS that asks who calls."""
    files = {"tls_cert": authority.folder / "server.pem", "tls_key": authority.folder / "server.key"}
    async with serving(settings.model_copy(update={"auth": True, **files, **more})) as started:
        yield started


async def look(started: Serving, access: Access) -> pb.InstanceList:
    """What a client is told."""
    async with asyncio.timeout(20), Client(started.addresses[0], access=access) as client:
        return await client.get.GetAllInstances(pb.InstanceFilter(), timeout=5)


async def entered(database: Database, uri: str, role: Role) -> None:
    """Gives a name in certificates a role."""
    session = Session(engine_of(database.url, name="test"))
    async with session.use() as connection:
        assert await tokens.create(connection, Grant("router", role, digest(uri), uri))
    await session.close()


async def test_calls_go_over_tls_and_tokens_with_them(
    settings: Settings, database: Database, authority: Authority
) -> None:
    token = await granted(database, Role.READER)
    async with secured(settings, authority) as started:
        assert isinstance(await look(started, authority.client(token=token)), pb.InstanceList)
        with pytest.raises(DeniedError):
            await look(started, authority.client())
        for stranger in (Access(token=token), Access(token=token, secure=True)):
            with pytest.raises(UnavailableError):  # in the clear, and by whoever does not trust its authority
                await look(started, stranger)


async def test_nobody_waits_long_for_a_handshake(settings: Settings, authority: Authority) -> None:
    async with secured(settings, authority, handshake=timedelta(seconds=0.2)) as started:
        for place in (urlsplit(started.pages[0]).netloc, started.addresses[0]):
            host, _, port = place.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"\x16\x03\x01")
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()


async def test_http_has_tls_as_well_and_sessions_are_secure(
    settings: Settings, database: Database, authority: Authority
) -> None:
    token = await granted(database, Role.READER)
    trusting = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))

    def ask(path: str, context: ssl.SSLContext, body: bytes | None = None) -> Any:
        sent = Request(f"{started.pages[0]}{path}", body, {"authorization": f"Bearer {token}"})
        with urlopen(sent, context=context, timeout=10) as answer:
            return answer.headers

    async with secured(settings, authority) as started:
        assert started.pages[0].startswith("https://")
        assert await asyncio.to_thread(ask, "/metrics", trusting)
        headers = await asyncio.to_thread(ask, "/session", trusting, b'{"token": "%s"}' % token.encode())
        assert {"Secure", "HttpOnly"} <= {each.strip() for each in headers["set-cookie"].split(";")}
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(ask, "/metrics", ssl.create_default_context())


async def test_who_has_no_certificate_of_the_authority_is_not_heard_though_he_has_a_token(
    settings: Settings, database: Database, authority: Authority
) -> None:
    token, stranger = await granted(database, Role.ADMIN), certificates.authority("stranger")
    async with secured(settings, authority, tls_client_ca=authority.folder / "ca.pem") as started:
        for access in (authority.client(token=token), authority.client(ROUTER, token=token, by=stranger)):
            with pytest.raises(UnavailableError):
                await look(started, access)
        assert await look(started, authority.client(ROUTER, token=token))


async def test_a_spiffe_name_may_do_what_its_role_may_and_others_nothing(
    settings: Settings, database: Database, authority: Authority
) -> None:
    await entered(database, ROUTER, Role.READER)
    async with secured(settings, authority, tls_client_ca=authority.folder / "ca.pem") as started:
        assert await look(started, authority.client(ROUTER))
        async with Client(started.addresses[0], access=authority.client(ROUTER)) as client:
            with pytest.raises(DeniedError) as denied:
                await client.try_.TryKillInstance(pb.KillRequest(instance_id=started.instance_id))
            assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(DeniedError) as unknown:
            await look(started, authority.client("spiffe://example.org/other"))
        assert unknown.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await database.run("update token set revoked_at = clock_timestamp()")
        async with asyncio.timeout(5):
            while True:
                try:
                    await look(started, authority.client(ROUTER))
                except DeniedError:
                    break


async def test_the_token_of_a_certificate_s_name_is_none(
    settings: Settings, database: Database, authority: Authority
) -> None:
    """Its hash is that of a name, which is no secret."""
    await entered(database, ROUTER, Role.ADMIN)
    async with secured(settings, authority) as started:
        with pytest.raises(DeniedError):
            await look(started, authority.client(token=ROUTER))


@OURS
@pytest.mark.parametrize(("offered", "heard"), [(["h2"], True), (["http/1.1"], False), ([], False)])
async def test_over_tls_our_own_server_speaks_with_those_who_have_agreed_on_http_2(
    settings: Settings, authority: Authority, offered: list[str], heard: bool
) -> None:
    trusting = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))
    if offered:
        trusting.set_alpn_protocols(offered)
    async with secured(settings, authority) as started:
        host, _, port = started.addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting)
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert bool(await reader.read(9)) is heard  # its settings come first
        writer.close()


@OURS
async def test_connections_that_never_say_a_word_cost_our_own_server_little(
    settings: Settings, authority: Authority
) -> None:
    """asyncio by itself keeps a quarter of a mebibyte ready for each."""
    async with secured(settings, authority) as started:
        host, _, port = started.addresses[0].rpartition(":")
        before = resident(os.getpid())
        open_ones = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        await asyncio.sleep(0.2)
        assert resident(os.getpid()) - before < 200 * (128 << 10)
        for _, writer in open_ones:
            writer.close()


@OURS
@pytest.mark.parametrize("side", ["grpc", "http"])
async def test_of_many_who_never_end_their_handshakes_the_first_make_room_for_others(
    settings: Settings, database: Database, authority: Authority, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """Nothing else bounds them: connections are counted when they are made."""
    monkeypatch.setattr(ports, "HANDSHAKES", 3)
    token = await granted(database, Role.READER)
    async with secured(settings, authority) as started, AsyncExitStack() as stack:
        place = urlsplit(started.pages[0]).netloc if side == "http" else started.addresses[0]
        host, _, port = place.rpartition(":")
        loop, ends = asyncio.get_running_loop(), []
        for _ in range(5):
            one = stack.enter_context(socket.create_connection((host, int(port))))
            one.setblocking(False)
            await loop.sock_sendall(one, b"\x16\x03\x01")
            ends.append(asyncio.create_task(loop.sock_recv(one, 1)))
        async with asyncio.timeout(5):
            ended = await asyncio.gather(*ends[:2], return_exceptions=True)
        assert all(each == b"" or isinstance(each, ConnectionError) for each in ended)
        assert await look(started, authority.client(token=token))
        assert not ends[-1].done()
        for each in ends:
            each.cancel()
        await asyncio.wait(ends)


@pytest.mark.parametrize(("offered", "heard"), [(["h2"], True), (["http/1.1"], False), ([], False)])
async def test_a_call_that_comes_with_the_handshake_s_end_is_heard_of_those_alone_who_have_agreed_on_http_2(
    authority: Authority, offered: list[str], heard: bool
) -> None:
    called = asyncio.Event()

    async def hears(request: bytes, _context: Any) -> bytes:
        called.set()
        return request

    handlers = {frames.CHECK: grpc.unary_unary_rpc_method_handler(hears, bytes, bytes)}
    server = Server(handlers, [*OPTIONS, ("grpc.so_reuseport", 0)])
    port = server.add_secure_port("127.0.0.1:0", Tls(authority.folder / "server.pem", authority.folder / "server.key"))
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seal = Seal(trusting(authority.folder / "ca.pem", *offered))
    writer.write(seal.answer())
    end = seal.answer(await reader.read(65536))
    writer.write(end + seal.sealed(frames.HELLO + frames.call(1, frames.CHECK, framed(b""))))
    async with asyncio.timeout(5):
        if heard:
            await called.wait()
        else:
            with suppress(ConnectionError):
                await reader.read()
    assert called.is_set() is heard
    writer.close()
    await server.stop(0)


async def test_a_connection_of_http_that_is_closed_twice_is_looked_at_without_a_fault(
    settings: Settings, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a stop: by the end of its answer, upon which the client says no goodbye, and by the server's own."""
    monkeypatch.setattr(waiting, "GLANCE", 0.02)
    wrong: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: wrong.append(context))
    seal = Seal(trusting(authority.folder / "ca.pem"))
    async with secured(settings, authority) as started:
        host, _, port = urlsplit(started.pages[0]).netloc.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(seal.answer())
        end = seal.answer(await reader.read(65536))
        writer.write(end + seal.sealed(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
        assert await reader.read(65536)
    asyncio.get_running_loop().set_exception_handler(None)
    writer.close()
    assert not wrong
