"""Who the client is to a manager: on a TLS server that asks for a certificate, and with a token."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc import aio

from manager.client import Access, Client, UnavailableError
from manager.client.access import bearing
from manager.pb.instance_manager_pb2 import InstanceRequest
from tests.client.standin import StandIn, batches, handlers

OPENSSL = shutil.which("openssl")
REQUEST = InstanceRequest(instance_id="0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A certificate that is its own authority, for 127.0.0.1, and its key."""
    if OPENSSL is None:
        pytest.skip("there is no openssl on this machine: apt-get install openssl")
    place: Path = tmp_path_factory.mktemp("tls")
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(place / "key"), "-out", str(place / "certificate")]
    subprocess.run([OPENSSL, "req", *made, *named, *files], check=True, capture_output=True)
    return (place / "certificate").read_bytes(), (place / "key").read_bytes()


@pytest.fixture
async def secure(pair: tuple[bytes, bytes]) -> AsyncIterator[StandIn]:
    """A stand-in that talks to nobody without a certificate of its authority."""
    certificate, key = pair
    standin = StandIn()
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([*handlers(standin), batches(standin)])
    credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    standin.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    yield standin
    await server.stop(None)


async def test_calls_and_health_checks_go_over_tls_with_certificate_and_token(
    secure: StandIn, pair: tuple[bytes, bytes]
) -> None:
    certificate, key = pair
    access = Access(token="secret", ca=certificate, certificate=certificate, key=key)
    async with Client(secure.address, access=access) as client:
        assert (await client.try_.TryHealthCheck(REQUEST)).value
        assert (await client.lifeline.check(REQUEST.instance_id, 5)).answer.value
    assert [each["authorization"] for each in secure.metadata] == ["Bearer secret"] * 2


async def test_who_has_no_certificate_or_is_in_the_clear_is_not_heard(
    secure: StandIn, pair: tuple[bytes, bytes]
) -> None:
    for access in (Access(ca=pair[0]), Access(secure=True), Access()):
        async with Client(secure.address, access=access) as client:
            with pytest.raises(UnavailableError):
                async with asyncio.timeout(20):
                    await client.try_.TryHealthCheck(REQUEST)
    assert not secure.asked


def test_secrets_are_not_in_what_is_printed() -> None:
    assert "secret" not in repr(Access(token="secret", key=b"secret"))


def test_what_the_environment_says_is_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    (tmp_path / "ca").write_bytes(b"ca")
    files = {"IM_TOKEN_FILE": str(tmp_path / "token"), "IM_TLS_CA": str(tmp_path / "ca")}
    assert Access.of_environment({}) == Access()
    assert Access.of_environment(files) == Access(token="of-the-file", ca=b"ca")
    assert Access.of_environment(files | {"IM_TOKEN": "stronger"}).token == "stronger"
    with pytest.raises(FileNotFoundError):
        Access.of_environment({"IM_TOKEN_FILE": str(tmp_path / "nothing")})


async def test_a_call_may_show_another_token_than_the_client_s(standin: StandIn) -> None:
    async with Client(standin.address, access=Access(token="client")) as client:
        await client.try_.TryHealthCheck(REQUEST)
        await client.try_.TryHealthCheck(REQUEST, metadata=bearing("own"))
    assert [each["authorization"] for each in standin.metadata] == ["Bearer client", "Bearer own"]
