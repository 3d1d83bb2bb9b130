"""TLS by hand, so that it can be done wrongly: what is sent in the place of a handshake, half of one, or after it.

What TLS draws by chance is not of the seed: the same is tried in every run, and not the same bytes.
"""

import asyncio
import hmac
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.fuzz import frames, requests
from tests.fuzz.frames import Script
from tests.fuzz.spoiler import Spoiler
from tests.fuzz.strangers import Opening, Stranger, Streams, in_the_clear

CHANGE_CIPHER, ALERT, HANDSHAKE, CONTENT = range(20, 24)  # kinds of records
HELLO_REQUEST, CLIENT_HELLO = 0, 1  # and of messages of a handshake
WARNING, FATAL = 1, 2
MOST = 1 << 14  # bytes of a record


def record(kind: int, content: bytes, version: bytes = b"\3\3") -> bytes:
    """One record."""
    return bytes([kind]) + version + len(content).to_bytes(2, "big") + content


@cache
def trusting(ca: Path, *alpn: str, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client's side, which offers these protocols."""
    context = ssl.create_default_context(cafile=ca)
    context.maximum_version = newest
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Seal:
    """The client's side of TLS, without a socket."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._comes, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.agreed = False
        self.tls = context.wrap_bio(self._comes, self._goes, server_hostname="127.0.0.1")

    def answer(self, heard: bytes = b"") -> bytes:
        """What is to be sent upon what was heard; at first the hello."""
        self._comes.write(heard)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.agreed = True
        return self._goes.read()

    def sealed(self, content: bytes) -> bytes:
        """What is to be sent for that content, once both have agreed."""
        self.tls.write(content)
        return self._goes.read()


def hello(random: Random) -> bytes:
    """A right beginning of TLS, that offers one thing or another."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(random.choice((["h2"], ["http/1.1"], ["x" * 255] * 20)))
    return Seal(context).answer()


# in the place of a handshake


def no_tls(random: Random) -> Script:
    """What would be right, or wrong, without TLS."""
    plain = random.choice((*frames.KINDS.values(), *requests.KINDS.values()))
    return plain(random)


def hello_cut_off(random: Random) -> Script:
    """The beginning of a beginning."""
    whole = hello(random)
    return [whole[: random.randrange(len(whole))]]


def hello_damaged(random: Random) -> Script:
    """A beginning with something wrong in its bytes, and what would come after it."""
    return [Spoiler(random).damaged(hello(random)), random.randbytes(random.randrange(100))]


def hello_in_crumbs(random: Random) -> Script:
    """A beginning of a record for each byte, or several beginnings in one."""
    whole = hello(random)[5:]
    if random.random() < 0.5:
        return [b"".join(record(HANDSHAKE, whole[each : each + 1]) for each in range(len(whole)))]
    return [record(HANDSHAKE, (whole * random.choice((2, 30)))[:MOST])]


def endless_hello(random: Random) -> Script:
    """A beginning that says that it is long, and is."""
    length = random.choice((0xFFFFFF, 200_000, 131_000, 16_384))
    head = bytes([CLIENT_HELLO]) + length.to_bytes(3, "big") + b"\3\3" + random.randbytes(32)
    return [record(HANDSHAKE, head), *(record(HANDSHAKE, bytes(MOST)) for _ in range(random.choice((2, 20))))]


def records(random: Random) -> Script:
    """Records of any kind, version, length and content, with a right beginning or without."""
    script = [hello(random)] if random.random() < 0.5 else []
    for _ in range(random.randrange(1, 20)):
        version = random.choice((b"\3\3", b"\3\1", b"\3\0", b"\2\0", random.randbytes(2)))
        kind = random.choice((CHANGE_CIPHER, ALERT, HANDSHAKE, CONTENT, 24, random.getrandbits(8)))
        one = record(kind, random.randbytes(random.choice((0, 1, 2, 2, random.randrange(300)))), version)
        script.append(one if random.random() < 0.9 else one[:3] + b"\xff\xff" + one[5:])
    return script


def flood_of_records(random: Random) -> Script:
    """Many that cost the sender nothing, in the midst of a handshake."""
    empty = (record(each, b"") for each in (HANDSHAKE, CONTENT, ALERT, CHANGE_CIPHER))
    some = (*empty, record(CHANGE_CIPHER, b"\1"), record(ALERT, bytes([WARNING, 90])), record(HANDSHAKE, bytes(4)))
    one = random.choice(some) * 3000
    return random.choice(([one], [hello(random), one]))


RAW: Mapping[str, Callable[[Random], Script]] = {
    each.__name__: each
    for each in (
        no_tls,
        hello_cut_off,
        hello_damaged,
        hello_in_crumbs,
        endless_hello,
        records,
        flood_of_records,
    )
}


# half of one, or all


def within(*alpn: str, ca: Path, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Opening:
    """Agrees on TLS rightly, with that much offered."""

    async def opened(port: int, _random: Random) -> Streams:
        return await asyncio.open_connection("127.0.0.1", port, ssl=trusting(ca, *alpn, newest=newest))

    return opened


@asynccontextmanager
async def by_hand(port: int, random: Random) -> AsyncIterator[Streams]:
    """A connection for the bytes of TLS themselves; it is closed only where that fails."""
    reader, writer = await in_the_clear(port, random)
    try:
        yield reader, writer
    except BaseException:
        writer.transport.abort()
        raise


def half_way(ca: Path) -> Opening:
    """Says the first word, hears the answer, and then says something else, or nothing, or what is right and more."""

    async def opened(port: int, random: Random) -> Streams:
        newest = random.choice((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))
        seal = Seal(trusting(ca, "h2", newest=newest))
        async with by_hand(port, random) as (reader, writer):
            writer.write(seal.answer())
            right = b""
            while not right:
                right = seal.answer(await heard(reader))
            spoiled = Spoiler(random).damaged(right)
            writer.write(random.choice((b"", right * 2, right[: random.randrange(len(right))], spoiled, spoiled)))
        return reader, writer

    return opened


async def heard(reader: asyncio.StreamReader) -> bytes:
    """A piece. Raises ConnectionResetError where there are no more."""
    if piece := await reader.read(65536):
        return piece
    raise ConnectionResetError


def behind(ca: Path) -> Opening:
    """Agrees on TLS 1.2, and goes on with sealed records that are wrong: the handshake again and again, alerts, nothing
    at all, what is no record, seals that do not fit."""

    async def opened(port: int, random: Random) -> Streams:
        with tempfile.NamedTemporaryFile() as told:
            seal = Seal(telling(ca, told.name))
            async with by_hand(port, random) as (reader, writer):
                writer.write(first := seal.answer())
                answered = b""
                while not seal.agreed:
                    answered += (piece := await heard(reader))
                    writer.write(seal.answer(piece))
                sealed = Sealed(told.name, first, answered)
                writer.writelines(wrong(sealed, first[5:], random))
        return reader, writer

    return opened


def telling(ca: Path, place: str) -> ssl.SSLContext:
    """TLS 1.2 by one suite, whose secret goes into a file."""
    context = ssl.create_default_context(cafile=ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    context.set_alpn_protocols(["h2"])
    context.keylog_filename = place
    return context


class Sealed:
    """The client's records of TLS 1.2 after its handshake, by AES-128-GCM.

    `told`: the file with the secret; `ours`, `theirs`: the first bytes of client and server.
    """

    def __init__(self, told: str, ours: bytes, theirs: bytes) -> None:
        secret = bytes.fromhex(Path(told).read_text().split()[-1])
        keys = _expanded(secret, b"key expansion" + theirs[11:43] + ours[11:43], 40)  # what each drew by chance
        self._key, self._fixed = AESGCM(keys[:16]), keys[32:36]
        self._number = 1  # the first was the end of the handshake

    def record(self, kind: int, content: bytes) -> bytes:
        """One."""
        number = self._number.to_bytes(8, "big")
        self._number += 1
        beside = number + bytes([kind]) + b"\3\3" + len(content).to_bytes(2, "big")
        return record(kind, number + self._key.encrypt(self._fixed + number, content, beside))


def _expanded(secret: bytes, seed: bytes, size: int) -> bytes:
    """As TLS 1.2 makes many bytes out of a secret."""
    made, each = b"", seed
    while len(made) < size:
        each = hmac.digest(secret, each, "sha256")
        made += hmac.digest(secret, each + seed, "sha256")
    return made[:size]


def wrong(sealed: Sealed, first: bytes, random: Random) -> Script:
    """Records for a client who has agreed, and who began with `first`."""
    times = random.choice((1, 3, 300))
    greeting = sealed.record(CONTENT, frames.HELLO)
    return random.choice(
        (
            lambda: [greeting, *(sealed.record(HANDSHAKE, first) for _ in range(times))],  # once more, please
            lambda: [sealed.record(HANDSHAKE, first[: len(first) // 2]), greeting],
            lambda: [sealed.record(HANDSHAKE, bytes([HELLO_REQUEST, 0, 0, 0])) for _ in range(times)],
            lambda: [greeting, *(sealed.record(ALERT, bytes([WARNING, 100])) for _ in range(times))],
            lambda: [sealed.record(ALERT, bytes([FATAL, random.getrandbits(8)])), greeting],
            lambda: [sealed.record(ALERT, bytes([WARNING, 0])), greeting],  # a goodbye, and more
            lambda: [greeting, *(sealed.record(CONTENT, b"") for _ in range(times))],
            lambda: [greeting, *(sealed.record(CONTENT, b"x") for _ in range(times))],
            lambda: [sealed.record(random.getrandbits(8), random.randbytes(20)) for _ in range(times)],
            lambda: [sealed.record(CHANGE_CIPHER, b"\1"), greeting],
            lambda: [record(CHANGE_CIPHER, b"\1"), greeting],
            lambda: [greeting, record(CONTENT, random.randbytes(60))],  # a seal that does not fit
            lambda: [greeting, Spoiler(random).damaged(greeting)],
            lambda: [record(HANDSHAKE, first), greeting],  # no seal at all
            lambda: [sealed.record(CONTENT, bytes(MOST + 1))],
        )
    )()


def nothing(_random: Random) -> Script:
    """No word more."""
    return []


def a_word(random: Random) -> Script:
    """The beginning of what is right, or what is right elsewhere."""
    whole = frames.HELLO + frames.call(1, frames.CHECK, b"")
    other = requests.written("GET /healthz")
    return random.choice(([whole[: random.randrange(len(whole))]], [whole], [other], [other[:10]]))


def strangers(ca: Path, kinds: Mapping[str, Callable[[Random], Script]], alpn: str) -> Mapping[str, Stranger]:
    """Whoever comes in the clear, within TLS; and who does TLS itself wrongly."""
    other = "http/1.1" if alpn == "h2" else "h2"
    old = ssl.TLSVersion.TLSv1_2
    return {
        **{f"{name}, sealed": Stranger(each, within(alpn, ca=ca)) for name, each in kinds.items()},
        **{name: Stranger(each) for name, each in RAW.items()},
        "half way": Stranger(nothing, half_way(ca)),
        "half way, and more": Stranger(no_tls, half_way(ca)),
        "agreed, and gone": Stranger(nothing, within(alpn, ca=ca)),
        "agreed by TLS 1.2": Stranger(a_word, within(alpn, ca=ca, newest=old)),
        "agreed on something else": Stranger(a_word, within(other, ca=ca)),
        "agreed on nothing": Stranger(a_word, within("x" * 255, "y", ca=ca)),
        "offers nothing": Stranger(a_word, within(ca=ca)),
        "behind the handshake": Stranger(nothing, behind(ca)),
    }
