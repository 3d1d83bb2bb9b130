"""The seam: every transport has a server, and one that is not installed is named with what to do."""

import sys

import pytest

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
