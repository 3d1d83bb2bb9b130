"""TLS by hand is TLS: what is sealed by hand is opened by OpenSSL."""

import ssl
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from manager import certificates
from manager.wire.tls import Tls
from tests.fuzz.seals import CONTENT, HANDSHAKE, Seal, Sealed, telling


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an authority, and a server's certificate."""
    by = certificates.authority("test")
    by.write(tmp_path, "ca")
    certificates.for_server(by, ["127.0.0.1"], timedelta(days=1)).write(tmp_path, "server")
    return tmp_path


def test_what_is_sealed_by_hand_is_opened_and_renegotiation_is_not_taken_up(folder: Path) -> None:
    comes, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = Tls(folder / "server.pem", folder / "server.key").context().wrap_bio(comes, goes, server_side=True)
    with tempfile.NamedTemporaryFile() as told:
        client = Seal(telling(folder / "ca.pem", told.name))
        comes.write(first := client.answer())
        with pytest.raises(ssl.SSLWantReadError):
            server.do_handshake()
        comes.write(client.answer(answered := goes.read()))
        server.do_handshake()
        client.answer(goes.read())
        assert client.agreed
        sealed = Sealed(told.name, first, answered)
    comes.write(sealed.record(CONTENT, b"one") + sealed.record(CONTENT, b"two"))
    assert server.read(100) + server.read(100) == b"onetwo"
    comes.write(sealed.record(HANDSHAKE, first[5:]) + sealed.record(CONTENT, b"three"))
    assert server.read(100) == b"three"
