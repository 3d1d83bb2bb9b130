"""HTTP by hand: requests right and wrong, and what clients of bad will send."""

import json
from collections.abc import Callable, Mapping
from random import Random
from urllib.parse import quote

from manager.pb.version import PROTO_VERSION
from tests.fuzz.frames import Script
from tests.fuzz.spoiler import Spoiler
from tests.wire.caller import METHODS, path
from tests.wire.raw import framed

CALL = "/instance_manager.GetService/GetAllInstances"
ADD = "/instance_manager.TryService/TryAddInstance"
PAGES: tuple[str, ...] = (
    "/",
    "/instances/x",
    "/events",
    "/healthz",
    "/live",
    "/metrics",
    "/sd/prometheus",
    "/session",
    "/nothing",
)
PAGES += ("/console/index.html", "/console/", "/console/app.js", "/console")
ODD = (
    "%00",
    "%ff",
    "%2e%2e/",
    "../../etc/passwd",
    "//",
    "a" * 5000,
    "%",
    "%zz",
    ";x",
    "\\",
    "%c0%ae",
    "%0d%0aset-cookie:x",
)
NAMES = ("hostname", "type", "service_type", "last", "at", "x", "%00", "", "message", "encoding", "connect", "base64")
WORDS = ("", "CHROME_DEBUG_PORT", "VLLM", "a%00b", "%ff%fe", "%ed%a0%80", "'", "a" * 300, "AQ==", "%0a", "json", "1")
KINDS_OF_CONTENT: tuple[str, ...] = (
    "application/json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
)
KINDS_OF_CONTENT += ("application/grpc-web", "application/grpc-web+proto", "application/grpc-web+json", "text/html", "")
KINDS_OF_CONTENT += (
    "application/grpc",
    "application/grpc-web-text",
    "application/GRPC",
    "multipart/form-data; boundary=x",
)
HEADERS = (
    "accept: application/openmetrics-text; version=x",
    "accept: text/plain; version=1.x; escaping=\xff",
    "accept-encoding: gzip, br, zstd",
    "content-encoding: gzip",
    "connect-content-encoding: gzip",
    "grpc-encoding: gzip",
    "connect-protocol-version: 2",
    "connect-timeout-ms: -1",
    "connect-timeout-ms: 99999999999999999999",
    "grpc-timeout: 1x",
    "grpc-timeout: 99999999H",
    "proto_version: \xff",
    'cookie: im_session=imt_\xff; "',
    'cookie: im_session="\\303\\377"',
    "authorization: Bearer \xff",
    "authorization: Basic x",
    "origin: null",
    "last-event-id: \xff",
    "last-event-id: AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
    "range: bytes=-1,0-,5-2,x-y",
    "if-none-match: \xff",
    "if-modified-since: x",
    "expect: 100-continue",
    "upgrade: websocket\r\nconnection: upgrade",
    "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk",
    "transfer-encoding: gzip",
    "x: " + "y" * 60_000,
    "x-forwarded-for: 10.0.0.1",
)


def written(
    line: str, *headers: str, body: bytes = b"", token: str = "", host: str = "127.0.0.1", close: bool = True
) -> bytes:
    """A request."""
    more = [f"host: {host}", *([f"authorization: Bearer {token}"] if token else [])]
    more += [f"content-length: {len(body)}"] if body else []
    more += ["connection: close"] if close else []
    return "\r\n".join([f"{line} HTTP/1.1", *more, *headers, "", ""]).encode("latin-1") + body


def any_request(random: Random, token: str) -> bytes:
    """One that may be right: of the contract, in JSON or in bytes, or for a page; by somebody known, or nobody."""
    spoiler = Spoiler(random)
    known = token if random.random() < 0.8 else ""
    headers = random.sample(HEADERS, random.choice((0, 0, 0, 1, 2)))
    if random.random() < 0.3:
        at = random.choice(PAGES) + (random.choice(ODD) if random.random() < 0.3 else "")
        query = "&".join(f"{random.choice(NAMES)}={random.choice(WORDS)}" for _ in range(random.randrange(3)))
        verb = random.choice(("GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "X"))
        body = _session(random) if at == "/session" else b""
        return written(f"{verb} {at}{'?' + query if query else ''}", *headers, body=body, token=known)
    method = random.choice(METHODS)
    kind = random.choice(KINDS_OF_CONTENT[:2] if random.random() < 0.7 else KINDS_OF_CONTENT)
    body = spoiler.json(method.input_type) if "json" in kind else spoiler.request(method.input_type)
    if "connect" in kind or "grpc" in kind:
        body = spoiler.damaged(framed(body)) if random.random() < 0.3 else framed(body)
    line = f"POST {path(method)}"
    if random.random() < 0.05:
        line = f"GET {path(method)}?encoding=json&connect=v1&message={quote(body[:2000])}"
    version = f"proto_version: {PROTO_VERSION}" if random.random() < 0.95 else "x: y"
    return written(line, f"content-type: {kind}", version, *headers, body=body, token=known)


def _session(random: Random) -> bytes:
    tokens: tuple[object, ...] = ("imt_" + "a" * 49, "imt_\ud800", "", 1, None, "x" * 900, ["a"], {})
    some = (b"", b"null", b"[]", b"{", b"\xff", b"[" * 1000, b'{"token":' * 100)
    return random.choice((*some, json.dumps({"token": random.choice(tokens)}).encode()))


# bad connections


def noise(random: Random) -> Script:
    """Bytes that are no HTTP."""
    some = (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", b"\0" * 100, b"\r\n" * 500)
    return [random.choice((*some, random.randbytes(random.randrange(1, 300))))]


def damaged(random: Random) -> Script:
    """A right request with something wrong in its bytes."""
    return [Spoiler(random).damaged(any_request(random, ""))]


def cut_off(random: Random) -> Script:
    """The beginning of a request."""
    whole = written(f"POST {CALL}", "content-type: application/json", body=b'{"ids": ["' + b"0" * 300 + b'"]}')
    return [whole[: random.randrange(len(whole))]]


def unfinished(random: Random) -> Script:
    """A body that never comes whole."""
    at = random.choice((CALL, ADD, "/session", "/metrics", "/live", "/healthz", "/console/app.js"))
    head = written(
        f"POST {at}", "content-type: application/json", f"proto_version: {PROTO_VERSION}", "content-length: 99"
    )
    return [head, b'{"id', b"_prefix"][: random.randrange(1, 4)]


def lengths(random: Random) -> Script:
    """Lengths that lie, contradict each other, or are none."""
    wrong = random.choice(
        (
            "content-length: -1",
            "content-length: 5\r\ncontent-length: 6",
            "content-length: 99999999999999999999999",
            "content-length: 5\r\ntransfer-encoding: chunked",
            "content-length: \xb2",
            "transfer-encoding: chunked, identity",
            "transfer-encoding: chunked",
        )
    )
    body = random.choice(
        (b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffffffff\r\nx", b"-1\r\n", b"5;" + b"x" * 20_000, b"0\r\n")
    )
    return [written(f"POST {CALL}", "content-type: application/json", wrong), body]


def endless_head(random: Random) -> Script:
    """Headers that go on and on, or a line that does."""
    if random.random() < 0.5:
        return [b"GET /", *(b"a" * 10_000 for _ in range(20))]
    return [b"GET / HTTP/1.1\r\n", *(b"x: " + b"y" * 5000 + b"\r\n" for _ in range(30))]


def pipelined(random: Random) -> Script:
    """Many requests in one breath, and gone."""
    one = written(f"GET {random.choice(PAGES)}", close=False)
    return [one * random.choice((20, 200))]


def bombs(random: Random) -> Script:
    """What a few bytes would grow to, were they inflated or read as deeply as they go."""
    body, headers = random.choice(
        (
            (
                b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\0" * 5000,
                ("content-type: application/proto", "content-encoding: gzip"),
            ),
            (
                framed(b"\x1f\x8b" * 500, 1),
                ("content-type: application/connect+proto", "connect-content-encoding: gzip"),
            ),
            (b"[" * 100_000, ("content-type: application/json",)),
            (b'{"labels":' * 50_000, ("content-type: application/json",)),
            (b'{"ids":[' + b'"",' * 100_000 + b'""]}', ("content-type: application/json",)),
            (b'{"page_size":' + b"9" * 500_000 + b"}", ("content-type: application/json",)),
            (b"\0" + b"\xff" * 4 + b"x", ("content-type: application/connect+json",)),
        )
    )
    return [written(f"POST {CALL}", f"proto_version: {PROTO_VERSION}", *headers, body=body)]


def never_read(random: Random) -> Script:
    """Answers that are asked for and never taken."""
    return [written(f"GET {random.choice(('/console/app.js', '/', '/metrics', '/live'))}", close=False) * 50]


KINDS: Mapping[str, Callable[[Random], Script]] = {
    each.__name__: each
    for each in (noise, damaged, cut_off, unfinished, lengths, endless_head, pipelined, bombs, never_read)
}
