"""Sessions of browsers: begun with a token, by a page of ours alone, and ended with it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from http.cookies import SimpleCookie

import pytest

from manager.domain.principal import Role
from manager.domain.token import new_token
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.credentials import granted, revoked
from tests.wire.asker import Reply, ask, call, live


@pytest.fixture
async def at(settings: Settings) -> AsyncIterator[str]:
    """The HTTP side of a manager that asks who calls."""
    async with serving(settings.model_copy(update={"auth": True})) as started:
        yield started.http[0]


async def signed_in(at: str, token: str, **headers: str) -> Reply:
    """What a browser is answered that shows a token."""
    body = json.dumps({"token": token}).encode()
    return await ask(at, "/session", body, content_type="application/json", **headers)


async def test_a_session_is_as_good_as_its_token_and_no_script_can_read_it(at: str, database: Database) -> None:
    answer = await signed_in(at, await granted(database, Role.READER))
    assert answer.status == 204
    cookie = SimpleCookie(answer.headers["set-cookie"])["im_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "strict", "/")
    assert (cookie["max-age"], cookie["expires"], cookie["domain"]) == ("", "", "")
    session = f"im_session={cookie.value}"
    assert (await call(at, "GetService/GetAllInstances", {}, cookie=session)).status == 200
    assert (await call(at, "TryService/TryKillInstance", {}, cookie=session)).status == 403
    async with live(at, cookie=f"other=1; {session}") as frames:
        assert (await anext(frames)).kind == "glimpse"
    ended = await ask(at, "/session", method="DELETE", cookie=session)
    assert SimpleCookie(ended.headers["set-cookie"])["im_session"].value == ""


async def test_a_header_is_stronger_than_a_session(at: str, database: Database) -> None:
    reader, operator = await granted(database, Role.READER), await granted(database, Role.OPERATOR)
    answer = await call(
        at, "TryService/TryKillInstance", {}, cookie=f"im_session={operator}", authorization=f"Bearer {reader}"
    )
    assert answer.status == 403


async def test_a_session_ends_with_its_token(at: str, database: Database) -> None:
    token = await granted(database, Role.READER)
    session = {"cookie": f"im_session={token}"}
    assert (await call(at, "GetService/GetAllInstances", {}, **session)).status == 200
    await revoked(database, token)
    async with asyncio.timeout(5):
        while (await call(at, "GetService/GetAllInstances", {}, **session)).status != 401:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"token": 7}', b'{"token": null}', b"[" * 1_000, b"x" * 5_000]
)
async def test_what_is_no_request_for_one_is_refused_in_a_line(at: str, body: bytes) -> None:
    answer = await ask(at, "/session", body, content_type="application/json")
    assert (answer.status, answer.json["code"]) == (400, "invalid_argument")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("token", ["", "imt_", new_token(), "x; path=/"])
async def test_a_stranger_gets_none(at: str, token: str) -> None:
    answer = await signed_in(at, token)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


async def test_a_page_of_another_origin_can_neither_begin_one_nor_use_it(at: str, database: Database) -> None:
    token = await granted(database, Role.OPERATOR)
    assert (await signed_in(at, token, origin="http://evil.example")).status == 403
    answer = await call(
        at, "TryService/TryKillInstance", {}, cookie=f"im_session={token}", origin="http://evil.example"
    )
    assert answer.status == 403
    # a form can send no JSON, and nothing else is taken
    plain = await ask(
        at, "/instance_manager.TryService/TryKillInstance", b"{}", content_type="text/plain",
        cookie=f"im_session={token}",
    )  # fmt: skip
    assert plain.status == 415


async def test_where_nobody_is_asked_there_are_no_sessions(settings: Settings) -> None:
    async with serving(settings) as started:
        assert (await signed_in(started.http[0], new_token())).status == 404


async def test_a_token_that_is_no_text_is_nobodys(at: str) -> None:
    for token in ("imt_\ud800", "imt_\u00e9" + "a" * 48):
        assert (await signed_in(at, token)).status == 401


async def test_a_token_that_does_not_come_whole_is_no_fault_of_ours(at: str, caplog: pytest.LogCaptureFixture) -> None:
    host, _, port = at.rpartition(":")
    for _ in range(2):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST /session HTTP/1.1\r\nhost: {at}\r\ncontent-length: 99\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
    assert (await signed_in(at, new_token())).status == 401
    await asyncio.sleep(0.1)
    assert "incident" not in caplog.text


async def test_a_stranger_who_would_send_much_is_turned_away_before_he_does(at: str, database: Database) -> None:
    host, _, port = at.rpartition(":")
    good = await granted(database, Role.READER)
    path = "/instance_manager.GetService/GetAllInstances"
    for how in ("content-length: 1000000", "transfer-encoding: chunked"):
        for token, heard in ((new_token(), True), (good, False)):
            lines = [f"POST {path} HTTP/1.1", f"host: {at}", how, f"authorization: Bearer {token}"]
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write("\r\n".join([*lines, "content-type: application/json", "", ""]).encode())
            answer = b""
            with suppress(TimeoutError):
                answer = await asyncio.wait_for(reader.readline(), 10 if heard else 0.3)
            assert (b" 401 " in answer) is heard
            writer.close()
