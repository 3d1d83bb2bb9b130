"""What bad connections are answered, as text: of HTTP/2 what stands in header blocks and in goodbyes, of HTTP/1.1 the
refusals. Answers that are none, and contents that somebody may see, are left out."""

import base64
import re
from collections.abc import Iterator
from urllib.parse import unquote

from tests.fuzz.frames import CONTINUATION, END_HEADERS, GOAWAY, HEADERS, PADDED, PRIORITIZED
from tests.wire.caller import DETAILS

STATIC = 61
# How many bits a character has in HPACK's code, the usual ones: all other codes are longer, and of a length they are in
# the order of the characters.
BITS = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\0$@[]~",
    14: "^}",
    15: "<`{",
}


def _codes() -> dict[tuple[int, int], str]:
    codes, code, before = dict[tuple[int, int], str](), 0, 0
    for bits, characters in BITS.items():
        code <<= bits - before
        for each in characters:
            codes[bits, code] = each
            code += 1
        before = bits
    return codes


CODES = _codes()


class Block:
    """A header block, gone through from its beginning. `names`: those that the connection has in its table."""

    def __init__(self, content: bytes, names: list[str]) -> None:
        self._content = content
        self._at = 0
        self._names = names

    def literals(self) -> Iterator[tuple[str, str]]:
        """The headers that are written out; each text is, when it comes first."""
        while self._at < len(self._content):
            first = self._content[self._at]
            if first & 0x80:
                self._integer(7)
            elif first & 0xE0 == 0x20:
                self._integer(5)
            else:
                kept = bool(first & 0x40)
                name = self._name(self._integer(6 if kept else 4))
                if kept:
                    self._names.insert(0, name)
                yield name, self._text()

    def _name(self, place: int) -> str:
        if place == 0:
            return self._text()
        known = place - STATIC - 1
        return self._names[known] if 0 <= known < len(self._names) else ""

    def _integer(self, bits: int) -> int:
        most = (1 << bits) - 1
        value, shift, more = self._content[self._at] & most, 0, True
        self._at += 1
        if value < most:
            return value
        while more:
            byte = self._content[self._at]
            value, shift, more = value + ((byte & 127) << shift), shift + 7, byte >= 128
            self._at += 1
        return value

    def _text(self) -> str:
        coded = self._content[self._at] & 0x80
        length = self._integer(7)
        raw = self._content[self._at : self._at + length]
        self._at += length
        return _plain(raw) if coded else raw.decode("latin-1")


def _plain(coded: bytes) -> str:
    """What is written in HPACK's code, up to a character that is none of the usual ones."""
    text, bits, code = "", 0, 0
    for byte in coded:
        for place in range(7, -1, -1):
            bits, code = bits + 1, code << 1 | byte >> place & 1
            if (bits, code) in CODES:
                text += CODES[bits, code]
                bits = code = 0
            elif bits > max(BITS):
                return text
    return text


def _of_grpc(heard: bytes) -> Iterator[str]:
    names: list[str] = []
    block = b""
    for kind, flags, payload in _frames(heard):
        if kind == GOAWAY:
            yield payload[8:].decode("latin-1")
        if kind not in (HEADERS, CONTINUATION):
            continue
        if kind == HEADERS:
            assert not flags & (PADDED | PRIORITIZED), "a server has no need of either"
            block = b""
        block += payload
        if flags & END_HEADERS:
            for name, value in Block(block, names).literals():
                yield f"{name}: {_spelled(name, value)}"


def _frames(heard: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(heard) >= 9 and len(heard) >= 9 + (length := int.from_bytes(heard[:3])):
        yield heard[3], heard[4], heard[9 : 9 + length]
        heard = heard[9 + length :]


def _spelled(name: str, value: str) -> str:
    if name == DETAILS:
        return base64.b64decode(value + "=" * (-len(value) % 4)).decode(errors="replace")
    return unquote(value)


LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def _of_http(heard: bytes) -> Iterator[str]:
    while heard:
        head, _, rest = heard.partition(b"\r\n\r\n")
        found = LENGTH.search(head)
        length = int(found[1]) if found else len(rest)
        if rest.startswith(b"HTTP/1.1 "):  # of a HEAD, or a 100
            length = 0
        status = head.split(b" ", 2)[1:2]
        if not status or not status[0].isdigit() or int(status[0]) >= 400:
            yield (head + b"\n" + rest[:length]).decode("latin-1")
        heard = rest[length:]


def texts(heard: bytes) -> list[str]:
    """All that was said in one connection, or in as much of it as came."""
    return [*(_of_http(heard) if heard.startswith(b"HTTP/") else _of_grpc(heard))]
