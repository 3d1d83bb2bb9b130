"""How gRPC is written in HTTP/2: what precedes a message, what goes before and after the messages."""

import re
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

import grpc

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

FIELD = 32  # bytes that HTTP/2 counts for a header beside its name and value
PREFIX = struct.Struct(">BI")  # whether the message is compressed, and its length
CONTENT = re.compile(rb"application/grpc([+;].*)?")
HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity"))
STATUS = {code: (b"grpc-status", str(code.value[0]).encode()) for code in grpc.StatusCode}
TIMEOUT = re.compile(rb"[0-9]{1,8}[HMSmun]")
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# all that is printed, but for the sign of the encoding itself
PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
# what is no metadata of the caller's
OURS = frozenset({b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"})


def framed(content: bytes) -> bytes:
    """A message as it travels."""
    return PREFIX.pack(0, len(content)) + content


def trailers(code: grpc.StatusCode, message: str, trailing: Metadata) -> Headers:
    """How a call ended."""
    told = ((b"grpc-message", quote(message, safe=PLAIN).encode()),) if message else ()
    return (STATUS[code], *told, *written(trailing))


def written(given: Metadata) -> Headers:
    """Metadata of ours, as it travels."""
    return tuple([_encoded(key, value) for key, value in given])


def _encoded(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    if isinstance(value, bytes):
        return key.encode(), b64encode(value).rstrip(b"=") if key.endswith("-bin") else value
    return key.encode(), value.encode()


class Asked(NamedTuple):
    """What the headers of a request say: `timeout` in seconds, `size` in bytes, as HTTP/2 counts them."""

    path: str
    is_grpc: bool
    encoding: bytes
    timeout: float | None
    size: int
    metadata: tuple[tuple[str, str | bytes], ...]


@lru_cache(128)
def asked(headers: Headers) -> Asked:
    """Most calls of a client bring the headers that its last one did."""
    named = dict(headers)
    return Asked(
        path=named.get(b":path", b"").decode(errors="replace"),
        is_grpc=named[b":method"] == b"POST" and CONTENT.fullmatch(named.get(b"content-type", b"")) is not None,
        encoding=named.get(b"grpc-encoding", b"identity"),
        timeout=seconds(named.get(b"grpc-timeout")),
        size=sum(map(len, chain.from_iterable(headers))) + FIELD * len(headers),
        metadata=tuple(filter(None, map(_decoded, headers))),
    )


@lru_cache(256)
def _decoded(header: tuple[bytes, bytes]) -> tuple[str, str | bytes] | None:
    """What the caller sent beside the request; nothing for what is not the caller's. A deadline differs from call to
    call, and the rest does not."""
    name, value = header
    if name in OURS or name.startswith(b":"):
        return None
    if name.endswith(b"-bin"):
        with suppress(ValueError):
            return name.decode(), b64decode(value + b"=" * (-len(value) % 4))
    return name.decode(), value.decode(errors="replace")


def seconds(timeout: bytes | None) -> float | None:
    """A timeout such as `100m`; none where it is none."""
    if timeout is None or not TIMEOUT.fullmatch(timeout):
        return None
    return int(timeout[:-1]) * UNITS[timeout[-1:]]


def address(peer: Sequence[str | int] | None) -> str:
    """A client's address, as gRPC writes it; none where it is gone already."""
    if peer is None:
        return "unknown"
    host = str(peer[0]).removeprefix("::ffff:")  # of IPv4, by a socket for both
    return f"ipv6:[{host}]:{peer[1]}" if ":" in host else f"ipv4:{host}:{peer[1]}"
