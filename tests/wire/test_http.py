"""HTTP: the contract for browsers and curl, health, and what stands before every answer."""

import asyncio
import base64
import json
import socket
import time
from contextlib import suppress

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2

from manager.domain.refusals import Refusal
from manager.pb import instance_manager_pb2 as pb
from manager.pb.version import PROTO_VERSION
from manager.presence import new_id
from manager.settings import Settings
from manager.wire import waiting
from manager.wire.connect import CODES
from manager.wire.http import HTTP_STATUS, REPEATED
from manager.wire.status import STATUS_OF
from manager.wire.web import KEPT
from tests.conftest import serving
from tests.wire.asker import VERSION, ask, call
from tests.wire.caller import METHODS, UNARY, path
from tests.wire.fleet import Fleet, complete, description

# JSON, as curl sends it


async def test_curl_registers_reads_and_kills_in_json(fleet: Fleet) -> None:
    at, instance = fleet.serving.http[0], str(new_id())
    sent = {"instance_id": instance, "instance_type": "CHROME_BROWSER", "labels": {"a": "ä"}}
    added = await call(at, "TryService/TryAddInstance", sent)
    assert (added.status, added.json["value"]) == (200, True)
    found = await call(at, "GetService/GetInstance", {"instance_id": instance})
    assert found.json["created_revision"] == added.json["revision"] == str(await fleet.head())
    assert (found.json["labels"], found.json["status"]) == ({"a": "ä"}, "STATUS_HEALTHY")
    killed = await call(at, "TryService/TryKillInstance", {"instanceId": instance, "note": "enough"})
    assert killed.json["value"] is True
    report = (await call(at, "FleetService/DescribeInstance", {"instance_id": instance})).json
    assert (report["note"], report["instance"]["death_cause"]) == ("enough", "CAUSE_KILLED")
    assert report["actor"].startswith("ipv4:127.0.0.1:")


async def test_a_health_check_over_http_brings_its_pause_along(fleet: Fleet) -> None:
    answer = await call(fleet.serving.http[0], "TryService/TryHealthCheck", {"instance_id": await fleet.add()})
    assert answer.json == {"value": True}
    assert int(answer.headers["trailer-next_check_ms"]) > 0


@pytest.mark.parametrize("method", UNARY, ids=path)
async def test_every_single_call_answers_over_http_as_over_grpc(fleet: Fleet, method: MethodDescriptor) -> None:
    """In bytes, with a right request about instances that are not there."""
    sent = complete(method.input_type, str(new_id()), str(new_id())).SerializeToString()
    answer = await ask(fleet.serving.http[0], path(method), sent, content_type="application/proto", **VERSION)
    assert answer.status in (200, 404), answer.text


async def test_a_refusal_has_code_message_and_details(fleet: Fleet) -> None:
    wrong = {"instance_id": "x", "instance_type": "VLLM"}
    answer = await call(fleet.serving.http[0], "TryService/TryAddInstance", wrong)
    assert (answer.status, answer.json["code"]) == (400, "invalid_argument")
    (detail,) = answer.json["details"]
    assert detail["type"] == "google.rpc.BadRequest"
    content = error_details_pb2.BadRequest.FromString(base64.b64decode(detail["value"] + "=="))
    assert content.field_violations[0].field == "instance_id"
    assert answer.json["message"].startswith("instance_id: ")


@pytest.mark.parametrize("version", ["0123", None])
async def test_the_version_is_asked_for_over_http_too(fleet: Fleet, version: str | None) -> None:
    header = {"proto_version": version} if version else {}
    path = "/instance_manager.GetService/GetAllInstances"
    answer = await ask(fleet.serving.http[0], path, b"{}", content_type="application/json", **header)
    assert answer.json["code"] == "failed_precondition"
    assert PROTO_VERSION in answer.json["message"]


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b"[]", b'"x"', b'{"instance_id": 7}', b'{"labels": 7}', b"[" * 10_000, b'{"a": "\\ud800"}']
)
async def test_what_is_no_json_of_the_method_is_refused_in_a_line(fleet: Fleet, body: bytes) -> None:
    path = "/instance_manager.TryService/TryAddInstance"
    answer = await ask(fleet.serving.http[0], path, body, content_type="application/json", **VERSION)
    assert (answer.status, answer.json["code"]) == (400, "invalid_argument")
    assert answer.json["message"].isprintable()
    assert len(answer.json["message"]) < 400


async def test_a_message_over_the_limit_is_refused(fleet: Fleet) -> None:
    large = json.dumps({"note": "x" * 2**20}).encode()
    path = "/instance_manager.TryService/TryKillInstance"
    answer = await ask(fleet.serving.http[0], path, large, content_type="application/json", **VERSION)
    assert answer.json["code"] == "resource_exhausted"


async def test_what_is_compressed_is_refused(fleet: Fleet) -> None:
    path = "/instance_manager.GetService/GetAllInstances"
    headers = {"content_type": "application/json", "content_encoding": "gzip", **VERSION}
    answer = await ask(fleet.serving.http[0], path, b"\x1f\x8b", **headers)
    assert answer.json["code"] == "unimplemented"


async def test_plain_grpc_and_unknown_methods_are_told_where_to_go(fleet: Fleet) -> None:
    at = fleet.serving.http[0]
    answer = await ask(at, path(UNARY[0]), b"", content_type="application/grpc+proto", te="trailers")
    assert (answer.status, "gRPC port" in answer.text) == (415, True)
    assert (
        await ask(at, "/instance_manager.TryService/TryNothing", b"{}", content_type="application/json")
    ).status == 404
    assert (await ask(at, "/instance_manager.FleetService/HealthChecks", b"{}")).status == 404
    assert (await ask(at, "/nothing")).status == 404
    # a link may not ask: nothing that is said with GET
    assert (await ask(at, path(UNARY[0]) + "?encoding=json&message={}")).status == 405


def test_every_status_of_a_refusal_has_its_code_here_too() -> None:
    assert set(STATUS_OF.values()) <= CODES.keys()
    assert {each.value for each in CODES.values()} == {
        "canceled" if each.name == "CANCELLED" else each.name.lower() for each in CODES
    }
    assert set(HTTP_STATUS) <= {each.name for each in STATUS_OF.values()}
    assert all(issubclass(each, Refusal) for each in STATUS_OF)


# streams


def envelope(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


def enveloped(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        found.append((body[0], body[5 : 5 + size]))
        body = body[5 + size :]
    return found


async def streamed(address: str, path: str, sent: bytes, kind: str, messages: int) -> list[tuple[int, bytes]]:
    """The first so many messages of a stream that does not end by itself."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: {kind}\r\nproto_version: {PROTO_VERSION}\r\n"
    writer.write(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
    while await reader.readline() != b"\r\n":
        pass
    found: list[tuple[int, bytes]] = []
    try:
        async with asyncio.timeout(10):
            while len(found) < messages:
                flags, *size = await reader.readexactly(5)
                found.append((flags, await reader.readexactly(int.from_bytes(bytes(size), "big"))))
    finally:
        writer.close()
    return found


@pytest.mark.parametrize("kind", ["application/connect+proto", "application/grpc-web+proto"])
async def test_changes_are_streamed_over_http(fleet: Fleet, kind: str) -> None:
    one = await fleet.add()
    sent = pb.SubscribeRequest(ids=[one], send_initial_state=True).SerializeToString()
    at = "/instance_manager.SubscribeService/SubscribeToInstanceUpdates"
    reading = asyncio.ensure_future(streamed(fleet.serving.http[0], at, envelope(sent), kind, 3))
    await asyncio.sleep(0.3)
    await fleet.kill(one)
    updates = [pb.InstanceUpdate.FromString(content) for _, content in await reading]
    assert [each.event_type for each in updates] == [pb.ADDED, pb.SYNCED, pb.REMOVED]


async def test_changes_are_streamed_in_json(fleet: Fleet) -> None:
    one = await fleet.add()
    sent = json.dumps({"ids": [one], "send_initial_state": True}).encode()
    at = "/instance_manager.FleetService/WatchInstances"
    kind = "application/connect+json"
    ((_, first),) = await streamed(fleet.serving.http[0], at, envelope(sent), kind, 1)
    assert json.loads(first)["updates"][0]["instance"]["instance_id"] == one


async def test_a_stream_that_is_refused_ends_with_the_refusal(fleet: Fleet) -> None:
    sent = pb.SubscribeRequest(resume_token=b"x").SerializeToString()
    kind = "application/connect+proto"
    at = "/instance_manager.FleetService/WatchInstances"
    answer = await ask(fleet.serving.http[0], at, envelope(sent), content_type=kind, **VERSION)
    ((flags, content),) = enveloped(answer.body)
    assert (flags, json.loads(content)["error"]["code"]) == (2, "invalid_argument")


async def test_a_stream_that_nobody_reads_any_more_is_closed(fleet: Fleet) -> None:
    async def open_ones() -> float:
        text = (await ask(fleet.serving.http[0], "/metrics")).text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("im_subscriptions "))

    before = await open_ones()
    sent = pb.SubscribeRequest(send_bookmarks=True).SerializeToString()
    at = "/instance_manager.FleetService/WatchInstances"
    await streamed(fleet.serving.http[0], at, envelope(sent), "application/connect+proto", 1)
    async with asyncio.timeout(10):
        while await open_ones() > before:
            await asyncio.sleep(0.05)


# what is no request


@pytest.mark.parametrize(
    ("sent", "field", "problem"),
    [
        (b"null", "", "what is in the body is not this method's message in JSON"),
        (b"5", "", "what is in the body is not this method's message in JSON"),
        (b'"who"', "", "the body must be a JSON object, {...}"),
        (b' ["who"]', "", "the body must be a JSON object, {...}"),
        (b'""', "", "the body must be a JSON object, {...}"),
        (b"[]", "", "the body must be a JSON object, {...}"),
        (b'{"ids": [', "", "the body is not JSON, from its character 9 on"),
        (b"\xff", "", "what is in the body is not this method's message in JSON"),
        (b'{"page_size": "x"}', "page_size", "what is in the body is not this method's message in JSON"),
        (b'{"ids": ["\\ud800"]}', "ids", "what is in the body is not this method's message in JSON"),
        (b"[" * 100_000, "", "what is in the body is not this method's message in JSON"),
    ],
)
async def test_a_body_that_is_no_message_is_refused_in_our_own_words(
    fleet: Fleet, sent: bytes, field: str, problem: str
) -> None:
    at = "/instance_manager.GetService/GetAllInstances"
    answer = await ask(fleet.serving.http[0], at, sent, content_type="application/json", **VERSION)
    assert answer.status == 400
    assert answer.json["message"] == (f"{field}: {problem}" if field else problem)


async def test_headers_that_are_no_text_are_refused_in_our_own_words(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    at = "/instance_manager.GetService/GetAllInstances"
    answer = await ask(fleet.serving.http[0], at, b"{}", content_type="application/json", x="\xff", **VERSION)
    assert (answer.status, answer.text) == (400, "headers must be text in UTF-8\n")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("value", ["a\tb", "/etc", "'", "\N{SNOWMAN}", "x" * 5000])
async def test_of_a_header_that_is_not_as_it_may_be_nothing_is_repeated(fleet: Fleet, name: str, value: str) -> None:
    kind = "application/grpc-web+json" if name.startswith("grpc") else "application/json"
    sent = {"content_type": kind, name: value.encode().decode("latin-1"), **VERSION}
    answer = await ask(fleet.serving.http[0], LIST, b"{}", **sent)
    told = {"code": "invalid_argument", "message": f"{name}: {REPEATED[name][1]}"}
    assert (answer.status, answer.json) == (400, told)


@pytest.mark.parametrize(
    ("name", "value"),
    [("connect-protocol-version", "postgres"), ("connect-timeout-ms", "1" * 11), ("grpc-timeout", "1x")],
)
async def test_what_connect_asks_of_a_header_is_asked_before(fleet: Fleet, name: str, value: str) -> None:
    answer = await ask(
        fleet.serving.http[0], LIST, b"{}", **{"content_type": "application/json", name: value}, **VERSION
    )
    assert (answer.status, answer.json["message"]) == (400, f"{name}: {REPEATED[name][1]}")


LIST = "/instance_manager.GetService/GetAllInstances"
CUT = f"POST {LIST} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    "begun", ["", "G", CUT, CUT + "content-length: 9\r\n\r\n{", CUT + "transfer-encoding: chunked\r\n\r\n"]
)
async def test_a_request_that_does_not_come_whole_in_time_is_not_waited_for(
    fleet: Fleet, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "GLANCE", 0.05)
    monkeypatch.setattr(waiting, "PATIENCE", 0.2)
    host, _, port = fleet.serving.http[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(begun.encode())
    async with asyncio.timeout(10):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


async def test_a_client_that_asks_now_and_again_keeps_its_connection(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "GLANCE", 0.05)
    monkeypatch.setattr(waiting, "PATIENCE", 0.5)
    host, _, port = fleet.serving.http[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(10):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert (await reader.readuntil(b"serving\n")).startswith(b"HTTP/1.1 200 OK")
        await asyncio.sleep(0.1)
    writer.close()


async def test_a_connection_has_its_time_by_the_clock_however_late_it_is_looked_at(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "GLANCE", 0.1)
    monkeypatch.setattr(waiting, "PATIENCE", 1.0)
    host, _, port = fleet.serving.http[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(CUT.encode())
    await asyncio.sleep(0.15)  # it is looked at once
    time.sleep(1.0)  # as if there were thousands
    async with asyncio.timeout(0.4):
        assert await reader.read() == b""
    writer.close()


async def test_an_answer_that_nobody_takes_is_not_kept_and_one_that_is_taken_slowly_is(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        await fleet.register([description(labels={str(n): "x" * 250 for n in range(30)}) for _ in range(75)])
    host, _, port = fleet.serving.http[0].rpartition(":")
    monkeypatch.setattr(waiting, "GLANCE", 0.1)
    monkeypatch.setattr(waiting, "PATIENCE", 1.0)
    monkeypatch.setattr(waiting, "UNTAKEN", 1.0)
    sent = f"{CUT}proto_version: {PROTO_VERSION}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    whole = len((await ask(fleet.serving.http[0], LIST, b"{}", content_type="application/json", **VERSION)).body)
    assert whole > 4 * KEPT

    async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        with socket.socket() as small:
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            small.connect((host, int(port)))
            reader, writer = await asyncio.open_connection(sock=small.dup(), limit=4096)
        writer.write(sent)
        return reader, writer

    async def taken(reader: asyncio.StreamReader) -> int:
        heard = 0
        with suppress(ConnectionError):
            while heard < whole and (piece := await reader.read(65536)):
                heard += len(piece)
                await asyncio.sleep(0.0001)
        return heard

    reader, writer = await opened()
    assert await taken(reader) >= whole
    writer.close()
    reader, writer = await opened()
    await asyncio.sleep(3)
    assert await taken(reader) < whole
    writer.close()


async def test_whoever_asks_anew_before_he_is_answered_has_that_one_answer(fleet: Fleet) -> None:
    host, _, port = fleet.serving.http[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    one = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    writer.write(one)
    assert (await reader.readuntil(b"serving\n")).startswith(b"HTTP/1.1 200 OK")
    writer.write(one * 50)
    async with asyncio.timeout(2):
        assert (await reader.read()).count(b"serving\n") == 1
    writer.close()


# how much comes before the body

MOST = 8 * 1024


def headed(size: int, pieces: int, line: str = "GET /healthz") -> bytes:
    """A request whose headers come to so many bytes, names and values, and are so many beside the host."""
    names = [f"x-{each:04}" for each in range(pieces)]
    left = size - len("host" + "127.0.0.1") - sum(map(len, names))
    values = [left // pieces + (left % pieces if each == 0 else 0) for each in range(pieces)]
    more = [f"{name}: {'v' * value}" for name, value in zip(names, values, strict=True)]
    return "\r\n".join((f"{line} HTTP/1.1", "host: 127.0.0.1", *more, "", "")).encode()


async def told(address: str, *sent: bytes) -> tuple[int, bool]:
    """The status of the answer to what comes in such pieces, and whether the connection is closed with it."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for each in sent:
        writer.write(each)
        await asyncio.sleep(0.05)  # each is read by itself
    try:
        async with asyncio.timeout(5):
            status = int((await reader.readline()).split()[1])
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await reader.read()
                return status, True
        return status, False
    finally:
        writer.close()


@pytest.mark.parametrize("pieces", [1, 400])
async def test_headers_are_taken_up_to_8_kib_together_and_not_a_byte_more(fleet: Fleet, pieces: int) -> None:
    at = fleet.serving.http[0]
    for size, answer in ((MOST, (200, False)), (MOST + 1, (431, True)), (60_000, (431, True))):
        whole = headed(size, pieces)
        assert await told(at, whole) == answer
        assert await told(at, whole[:5000], whole[5000:]) == answer


async def test_what_is_asked_for_may_be_as_long_as_the_headers_together(fleet: Fleet) -> None:
    at = fleet.serving.http[0]
    for size, answer in ((MOST, (200, False)), (MOST + 1, (414, True))):
        line = "GET /healthz?" + "x" * (size - len("/healthz"))
        assert await told(at, headed(MOST, 1, line)) == answer


@pytest.mark.parametrize(
    ("begun", "status"), [(b"GET /" + b"x" * 60_000, 414), (b"GET / HTTP/1.1\r\nx: " + b"y" * 60_000, 431)]
)
async def test_the_end_of_what_is_too_long_already_is_not_waited_for(fleet: Fleet, begun: bytes, status: int) -> None:
    assert await told(fleet.serving.http[0], begun[:9], begun[9:]) == (status, True)


async def test_how_much_metadata_there_may_be_is_a_setting_for_http_too(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"metadata_size": 2048})) as started:
        assert [await told(started.http[0], headed(size, 1)) for size in (2048, 2049)] == [(200, False), (431, True)]


# who may ask


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:50053", "127.0.0.1.evil.example", "", "[::1].evil.example"]
)
async def test_who_comes_by_a_name_that_is_not_ours_is_turned_away(fleet: Fleet, host: str) -> None:
    for where in ("/metrics", "/live", "/healthz", "/instance_manager.GetService/GetAllInstances"):
        answer = await ask(fleet.serving.http[0], where, host=host)
        assert (answer.status, "IM_HTTP_NAMES" in answer.text) == (421, True)


@pytest.mark.parametrize(
    "host", ["localhost:1", "127.0.0.1", "[::1]:50053", "manager", "im.localhost", socket.gethostname()]
)
async def test_addresses_and_names_of_this_network_are_ours(fleet: Fleet, host: str) -> None:
    assert (await ask(fleet.serving.http[0], "/healthz", host=host)).status == 200


async def test_a_name_that_was_given_is_ours_and_a_star_admits_all(settings: Settings) -> None:
    for names, host, expected in ((("im.example",), "IM.example:80", 200), (("im.example",), "x.example", 421)):
        async with serving(settings.model_copy(update={"http_names": names})) as started:
            assert (await ask(started.http[0], "/healthz", host=host)).status == expected
    async with serving(settings.model_copy(update={"http_names": ("*",)})) as started:
        assert (await ask(started.http[0], "/healthz", host="x.example")).status == 200


async def test_a_page_of_another_origin_may_not_ask(fleet: Fleet) -> None:
    at = fleet.serving.http[0]
    for origin, expected in (("http://evil.example", 403), ("null", 403), (f"http://{at}", 200)):
        answer = await call(at, "GetService/GetAllInstances", {}, origin=origin)
        assert answer.status == expected
        assert "access-control-allow-origin" not in answer.headers


async def test_every_answer_forbids_what_no_page_of_ours_needs(fleet: Fleet) -> None:
    for where in ("/healthz", "/metrics", "/nothing"):
        headers = (await ask(fleet.serving.http[0], where)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


# the port


async def test_both_ports_are_served_on_every_address_and_a_taken_one_stops_the_start(settings: Settings) -> None:
    both = settings.model_copy(update={"bind": ("127.0.0.1", "[::1]")})
    async with serving(both) as started:
        assert len(started.http) == len(started.addresses)
        for each in started.http:
            assert (await ask(each, "/healthz")).text == "serving\n"
        port = int(started.http[0].rpartition(":")[2])
        with pytest.raises(Refusal, match=f"port {port} is taken: choose another with --http-port"):
            async with serving(settings.model_copy(update={"http_port": port})):
                pass


async def test_without_http_there_is_none(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"http": False})) as started:
        assert started.http == ()


def test_the_port_is_the_usual_one_unless_any_will_do() -> None:
    assert Settings().http_at == 50053
    assert Settings(port=0).http_at == 0
    assert Settings(port=7).http_at == 50053
    assert Settings(port=0, http_port=8).http_at == 8


def test_no_method_is_left_out_but_two_way_streams() -> None:
    left = [each.name for each in METHODS if each.client_streaming]
    assert left == ["HealthChecks"]
