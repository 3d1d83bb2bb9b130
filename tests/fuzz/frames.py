"""HTTP/2 by hand, so that it can be written wrongly: frames, header blocks, and what clients of bad will send."""

import struct
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeAlias

from manager.pb.version import PROTO_VERSION
from tests.fuzz.spoiler import Spoiler
from tests.wire.caller import METHODS, path
from tests.wire.raw import framed

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 1
END_HEADERS, PADDED, PRIORITIZED = 4, 8, 32
INITIAL_WINDOW_SIZE, HEADER_TABLE_SIZE, MAX_FRAME_SIZE, ENABLE_PUSH = 4, 1, 5, 2
MOST = 2**31 - 1
Header: TypeAlias = tuple[bytes, bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack("!I", stream & 0xFFFFFFFF) + payload


def setting(*pairs: tuple[int, int]) -> bytes:
    """A frame of settings."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", *each) for each in pairs))


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """As HPACK writes it, behind the bits of its kind."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    written, value = bytearray([first | most]), value - most
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def literal(name: bytes, value: bytes, *, kept: bool = False) -> bytes:
    """A header, written out; `kept` puts it into the table of the connection."""
    return (b"\x40" if kept else b"\0") + integer(len(name), 7) + name + integer(len(value), 7) + value


def block(*headers: Header) -> bytes:
    """Headers, each written out."""
    return b"".join(literal(*each) for each in headers)


def named(at: str, *more: Header, method: bytes = b"POST") -> tuple[Header, ...]:
    """The headers of a call."""
    usual = ((b":method", method), (b":scheme", b"http"), (b":path", at.encode()), (b":authority", b"test"))
    kind = ((b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"proto_version", PROTO_VERSION.encode()))
    return (*usual, *kind, *more)


def call(stream: int, at: str, body: bytes, *more: Header, end: bool = True) -> bytes:
    """A call in two frames."""
    head = frame(HEADERS, END_HEADERS, stream, block(*named(at, *more)))
    return head + frame(DATA, END_STREAM if end else 0, stream, body)


HELLO = PREFACE + setting()
LIST = "/instance_manager.GetService/GetAllInstances"
CHECK = "/instance_manager.TryService/TryHealthCheck"
WATCH = "/instance_manager.FleetService/WatchInstances"
CHECKS = "/instance_manager.FleetService/HealthChecks"

Script: TypeAlias = list[bytes]  # what is sent, in so many pieces


def noise(random: Random) -> Script:
    """Bytes that are no HTTP/2."""
    some = (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", b"\0" * 100, PREFACE[:-3])
    return [random.choice((*some, random.randbytes(random.randrange(1, 300))))]


def wild(random: Random) -> Script:
    """Frames of any kind, flags, stream and content."""
    return [HELLO, *(any_frame(random) for _ in range(random.randrange(1, 30)))]


def any_frame(random: Random) -> bytes:
    """One of them."""
    stream = random.choice((0, 1, 1, 2, 3, 5, MOST, random.getrandbits(32)))
    size = random.choice((0, 0, 1, 4, 5, 6, 8, 8, 9, random.randrange(200)))
    return frame(random.choice((*range(10), 10, 255)), random.getrandbits(8), stream, random.randbytes(size))


def damaged(random: Random) -> Script:
    """Right calls with something wrong in their bytes."""
    spoiler = Spoiler(random)
    method = random.choice(METHODS)
    calls = [call(number, path(method), framed(spoiler.message(method.input_type))) for number in (1, 3, 5)]
    return [HELLO, *map(spoiler.damaged, calls)]


def cut_off(random: Random) -> Script:
    """A right beginning."""
    whole = HELLO + b"".join(call(1 + 2 * each, CHECK, framed(b"\x0a\x24" + b"0" * 36)) for each in range(3))
    return [whole[: random.randrange(len(whole))]]


def flood(random: Random) -> Script:
    """Many of what costs the sender nothing."""
    one = random.choice(
        (
            setting(),
            setting((HEADER_TABLE_SIZE, 0), (HEADER_TABLE_SIZE, MOST)),
            frame(PING, 0, 0, b"12345678"),
            frame(PRIORITY, 0, 1, b"\0\0\0\3\1"),
            frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
            frame(SETTINGS, ACK, 0),
            frame(99, 0, 0, b"x"),
        )
    )
    return [HELLO, one * 3000]


def empty_data(random: Random) -> Script:
    """A call that comes in frames of nothing."""
    opened = frame(HEADERS, END_HEADERS, 1, block(*named(CHECK)))
    return [HELLO, opened + frame(DATA, 0, 1) * 3000]


def windows(random: Random) -> Script:
    """Windows that grow beyond what there is, or not at all, or shrink below nothing."""
    opened = call(1, CHECK, framed(b""), end=False)
    return [
        HELLO,
        opened,
        random.choice(
            (
                frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", MOST)) * 2,
                frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", MOST)) * 2,
                frame(WINDOW_UPDATE, 0, random.choice((0, 1)), b"\0\0\0\0"),
                setting((INITIAL_WINDOW_SIZE, 2**31)),
                setting((INITIAL_WINDOW_SIZE, MOST)) + setting((INITIAL_WINDOW_SIZE, 0)),
                setting((MAX_FRAME_SIZE, 1)),
                setting((ENABLE_PUSH, 2)),
            )
        ),
    ]


def endless_headers(random: Random) -> Script:
    """Headers that go on and on, in one call that never begins."""
    more = frame(CONTINUATION, 0, 1, block((b"x", b"y" * random.choice((0, 1000)))) * random.randrange(1, 16))
    return [HELLO, frame(HEADERS, 0, 1, block(*named(CHECK))), more * 200]


def header_bomb(random: Random) -> Script:
    """Four kilobytes of a header in the table, named by a byte each, thousands of times."""
    kept = literal(b"x-bomb", b"y" * random.choice((1000, 3900)), kept=True)
    bomb = block(*named(CHECK)) + kept + b"\xbe" * random.choice((8_000, 15_000))
    return [HELLO, *(frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * each, bomb[:16_000]) for each in range(20))]


def bad_block(random: Random) -> Script:
    """Header blocks that are none: unknown places, lengths that lie, tables that grow, coded text that is broken."""
    some = (
        b"\xff" * 20,
        b"\x80",
        b"\xbe",
        b"\0\x7f\xff\xff\xff\xff\xff",
        b"\x3f\xff\xff\xff\xff\x0f",
        b"\0\x81\xff\x81\0",
    )
    wrong = random.choice((*some, random.randbytes(30)))
    right = block(*named(CHECK))
    return [HELLO, frame(HEADERS, END_HEADERS, 1, right + wrong), call(3, CHECK, framed(b""))]


def odd_headers(random: Random) -> Script:
    """Headers that no gRPC client sends."""
    text = random.choice(
        (b"", b"\xff\xfe", b"a" * 9000, b"%00%ff", "\u0660".encode(), b"imt_" + b"\xc3" * 30, b"1" * 5000)
    )
    wrong: Sequence[Header] = (
        (b"grpc-timeout", text),
        (b"grpc-encoding", random.choice((b"gzip", b"identity", text))),
        (b"authorization", b"Bearer " + text),
        (b"proto_version", text),
        (b"cookie", b"im_session=" + text),
        (b"x-bin", text),
        (b":path", b"/"),
        (b"connection", b"close"),
        (b"content-length", random.choice((b"0", b"-1", b"99999999999999999999", text))),
        (b"Upper", b"case"),
        (b"x", b"a\r\nb: c"),
        (b"", b"empty"),
    )
    calls = (
        frame(HEADERS, END_HEADERS, 1 + 2 * each, block(*named(CHECK, random.choice(wrong), random.choice(wrong))))
        + frame(DATA, END_STREAM, 1 + 2 * each, framed(b""))
        for each in range(5)
    )
    return [HELLO, *calls]


def not_grpc(random: Random) -> Script:
    """Other methods, other types and other paths, some given up in the same breath."""
    script = [HELLO]
    for number in range(1, 12, 2):
        at = random.choice((CHECK, "/", "*", "/x" * 500, LIST + "/", "//", "/instance_manager.TryService/Nothing"))
        headers = [*named(at, method=random.choice((b"GET", b"POST", b"CONNECT", b"OPTIONS", b"HEAD", b"X" * 100)))]
        if random.random() < 0.4:
            headers.remove(random.choice(headers))
        head = frame(HEADERS, END_HEADERS | random.choice((0, END_STREAM)), number, block(*headers))
        gone = frame(RST_STREAM, 0, number, struct.pack("!I", random.choice((0, 8, 999))))
        script.append(head + random.choice((b"", gone, frame(DATA, END_STREAM, number, framed(b"")))))
    return script if random.random() < 0.5 else [b"".join(script)]


def rapid_resets(random: Random) -> Script:
    """Calls that are given up as soon as they are made."""
    at = random.choice((CHECK, LIST, WATCH, CHECKS))
    several = b""
    for number in range(1, 2 * random.choice((50, 500)), 2):
        body = framed(b"") if random.random() < 0.7 else b"\0\0"
        several += call(number, at, body, end=random.random() < 0.7) + frame(RST_STREAM, 0, number, b"\0\0\0\x08")
    return [HELLO, several]


def wrong_streams(random: Random) -> Script:
    """Streams that are even, taken, gone or going backwards."""
    numbers = random.sample((2, 0, 7, 5, 3, 1, 1, MOST, 2**31 + 1), 5)
    return [HELLO, *(call(each, CHECK, framed(b""), end=random.random() < 0.5) for each in numbers)]


def bad_messages(random: Random) -> Script:
    """Messages whose lengths lie, that are compressed, several, cut off; gzip that would grow a thousandfold."""
    spoiler = Spoiler(random)
    bomb = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xec\xc1\1\r\0\0\0\xc2\xa0\xf7On\x0e7\xa0" + b"\0" * 3000
    right = framed(b"\x0a\x24" + b"0" * 36)
    bodies = (
        b"\0\xff\xff\xff\xff" + b"x" * 100,
        b"\0\0\x0f\xff\xff" + b"x" * 100,
        framed(b"x", 1),
        b"\7" + right[1:],
        framed(bomb, 1),
        right * 3,
        right[:-1],
        b"\0\0",
        b"",
        spoiler.damaged(right),
    )
    script = [HELLO]
    for number in range(1, 14, 2):
        encoding = random.choice(((b"grpc-encoding", b"gzip"), (b"x", b"y")))
        at = random.choice((CHECK, LIST, CHECKS, WATCH))
        script.append(call(number, at, random.choice(bodies), encoding, end=random.random() < 0.8))
    return script


def goodbye(random: Random) -> Script:
    """Calls behind a goodbye, and a goodbye that is none."""
    last = random.choice((0, 1, MOST))
    away = frame(GOAWAY, 0, random.choice((0, 0, 1)), struct.pack("!II", last, random.choice((0, 11))) + b"x" * 50)
    return [HELLO, call(1, CHECK, framed(b"")), away[: random.choice((len(away), 12))], call(3, LIST, framed(b""))]


def padding(random: Random) -> Script:
    """Padding longer than its frame, frames longer than they may be, priorities of oneself."""
    return [
        HELLO,
        random.choice(
            (
                frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + block(*named(CHECK))),
                frame(HEADERS, END_HEADERS, 1, block(*named(CHECK))) + frame(DATA, PADDED, 1, b"\xff\0"),
                frame(HEADERS, END_HEADERS | PRIORITIZED, 1, b"\0\0\0\1\xff" + block(*named(CHECK))),
                frame(DATA, 0, 1, b"x" * 20_000),
                (2**24 - 1).to_bytes(3, "big") + bytes([DATA, 0]) + b"\0\0\0\1" + b"x" * 5000,
                frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block(*named(CHECK))),
            )
        ),
    ]


def never_read(random: Random) -> Script:
    """Answers that are asked for and never taken: their windows are shut."""
    shut = PREFACE + setting((INITIAL_WINDOW_SIZE, 0))
    return [shut, *(call(1 + 2 * each, random.choice((LIST, WATCH)), framed(b"")) for each in range(30))]


KINDS: Mapping[str, Callable[[Random], Script]] = {
    each.__name__: each
    for each in (
        noise,
        wild,
        damaged,
        cut_off,
        flood,
        empty_data,
        windows,
        endless_headers,
        header_bomb,
        bad_block,
        odd_headers,
        not_grpc,
        rapid_resets,
        wrong_streams,
        bad_messages,
        goodbye,
        padding,
        never_read,
    )
}
