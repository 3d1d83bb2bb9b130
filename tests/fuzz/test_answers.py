"""What the judge of bad connections reads: header blocks in HPACK's code and without it, goodbyes, refusals of HTTP."""

import base64
import struct

import pytest

from tests.fuzz.answers import texts
from tests.fuzz.frames import END_HEADERS, GOAWAY, HEADERS, block, frame, literal
from tests.fuzz.judge import Judge

SQL = b"asyncpg: relation token does not exist"
# the example of RFC 7541, C.6.1
FIRST = bytes.fromhex(
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"
)
LONG = b"x-padding" + b"y" * 400


def test_a_header_block_is_read_as_the_rfc_has_it() -> None:
    heard = frame(HEADERS, END_HEADERS, 1, FIRST)
    assert [each.partition(": ")[2] for each in texts(heard)] == [
        "302", "private", "Mon, 21 Oct 2013 20:13:21 GMT", "https://www.example.com",
    ]  # fmt: skip


def test_a_long_text_and_what_comes_behind_it_are_read_too() -> None:
    heard = frame(HEADERS, END_HEADERS, 1, literal(b"x", LONG) + b"\x88" + literal(b"grpc-message", b"a%20b"))
    assert texts(heard) == [f"x: {LONG.decode()}", "grpc-message: a b"]


SAID = {
    "a message": frame(HEADERS, END_HEADERS, 1, block((b"grpc-message", SQL))),
    "a message in percents": frame(HEADERS, END_HEADERS, 1, block((b"grpc-message", SQL.replace(b" ", b"%20")))),
    "details": frame(HEADERS, END_HEADERS, 1, block((b"grpc-status-details-bin", base64.b64encode(SQL).rstrip(b"=")))),
    "details by a name of the table": frame(
        HEADERS, END_HEADERS, 1, literal(b"grpc-status-details-bin", b"AAAA", kept=True)
    )
    + frame(HEADERS, END_HEADERS, 3, b"\x7e" + bytes([len(base64.b64encode(SQL))]) + base64.b64encode(SQL)),
    "a goodbye": frame(GOAWAY, 0, 0, struct.pack("!II", 0, 1) + SQL),
    "a refusal": b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\nHTTP/1.1 500 x\r\ncontent-length: 38\r\n\r\n"
    + SQL,
    "a refusal that is cut off": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 99\r\n\r\n" + SQL,
    "a header of a refusal": b"HTTP/1.1 400 Bad Request\r\nx: " + SQL,
}


@pytest.mark.parametrize("heard", SAID.values(), ids=SAID)
def test_whatever_shows_our_inside_is_found(heard: bytes) -> None:
    with pytest.raises(AssertionError, match="asyncpg"):
        Judge().connection("somebody", heard)


def test_what_somebody_may_see_is_none_of_it() -> None:
    judge = Judge()
    judge.connection("somebody", b"HTTP/1.1 200 OK\r\ncontent-length: 38\r\n\r\n" + SQL)
    judge.connection("somebody", frame(0, 0, 1, SQL))
    assert judge.texts == 0
