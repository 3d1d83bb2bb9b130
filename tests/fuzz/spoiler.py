"""Requests by the million: what the descriptors say, written by hand so that it can be written wrongly, and damage.

Twenty times as fast as Hypothesis, which looks for the smallest example; here the seed brings back the same one.
"""

import base64
import json
import struct
from collections.abc import Callable, Sequence
from random import Random

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.fuzz.strategies import IDS

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
NUMBERS: tuple[int, ...] = (
    0,
    1,
    2,
    5,
    99,
    999,
    1000,
    9222,
    65535,
    65536,
    10_001,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
)
NUMBERS += (2**63, 2**64 - 1, 253402300799999, 253402300800000)
TEXTS = tuple(
    each.encode()
    for each in (
        *IDS,
        IDS[0].upper(),
        IDS[1][:7],
        "",
        "host",
        "\0",
        "a\nb",
        "\x1b[31m",
        "%s%n",
        "'; drop table event; --",
        "x" * 64,
        "x" * 254,
        "x" * 1025,
        "instance-manager/x",
        "\N{GRINNING FACE}" * 70,
        "\u0660",
        "../../../etc/passwd",
        "{0.__class__}",
    )
)
VALUES: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    2**64,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "\0",
    "9" * 5000,
    "NaN",
    "AQ==",
    [],
    {},
    [[[[[]]]]],
    {"a": {"b": {}}},
    {"@type": "type.googleapis.com/x"},
)
NO_TEXTS = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"a\xe2")


def varint(value: int) -> bytes:
    """As protobuf writes it."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


class Spoiler:
    """All of one source of chance."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._damages: Sequence[Callable[[bytes], bytes]] = (
            self._cut,
            self._flip,
            self._insert,
            self._repeat,
            self._drop,
            self._interesting,
        )

    def request(self, kind: Descriptor) -> bytes:
        """A message of that kind: right, nearly right, or damaged."""
        content = self.message(kind)
        return self.damaged(content) if self._random.random() < 0.25 else content

    def message(self, kind: Descriptor, depth: int = 0) -> bytes:
        """Its fields, each there or not, now and then twice, or of another type than theirs."""
        chance, parts = self._random.random, []
        for field in kind.fields:
            if field.name in ("instance_id", "parent_id", "child_id", "instance_type") and chance() < 0.8:
                parts.append(self._field(field, depth))
                continue
            while chance() < 0.3:
                parts.append(self._field(field, depth))
        if chance() < 0.03:
            parts.append(self._unknown())
        if chance() < 0.1:
            self._random.shuffle(parts)
        return b"".join(parts)

    def _field(self, field: FieldDescriptor, depth: int) -> bytes:
        random = self._random
        if random.random() < 0.02:
            return varint(field.number << 3 | random.randrange(8)) + random.randbytes(random.randrange(12))
        if field.message_type is not None:
            return self._with_length(field.number, self.message(field.message_type, depth + 1))
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._with_length(field.number, self._text(field))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._with_length(field.number, self.token())
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return varint(field.number << 3 | FIXED64) + self._double()
        if field.is_repeated:  # packed
            numbers = b"".join(self._number(field) for _ in range(random.randrange(4)))
            return self._with_length(field.number, numbers)
        return varint(field.number << 3 | VARINT) + self._number(field)

    def _with_length(self, number: int, content: bytes) -> bytes:
        return varint(number << 3 | LENGTH) + varint(len(content)) + content

    def _text(self, field: FieldDescriptor) -> bytes:
        random = self._random
        if random.random() < 0.02:
            return random.choice(NO_TEXTS)
        if (field.name.endswith("_id") or field.name in ("ids", "subtree_of")) and random.random() < 0.8:
            return random.choice(TEXTS[: len(IDS)])
        if random.random() < 0.7:
            return random.choice(TEXTS)
        return "".join(chr(random.choice((random.randrange(256), random.randrange(0xD800)))) for _ in "12345").encode()

    def _number(self, field: FieldDescriptor) -> bytes:
        random = self._random
        if field.enum_type is not None and random.random() < 0.9:
            return varint(random.randrange(12))
        if random.random() < 0.5:
            return varint(random.choice(NUMBERS))
        return varint(random.getrandbits(random.randrange(1, 65)))

    def _double(self) -> bytes:
        random = self._random
        some = random.choice((0.0, 50.0, 100.0, 100.1, -0.1, float("nan"), float("inf"), 1e308))
        return struct.pack("<d", some) if random.random() < 0.7 else random.randbytes(8)

    def _unknown(self) -> bytes:
        random = self._random
        return varint(random.randrange(1, 2**29) << 3 | random.randrange(8)) + random.randbytes(random.randrange(20))

    def token(self) -> bytes:
        """What may be a place in a list or in the history: of each length that one has, versions and numbers at the
        edges of what they can be."""
        random = self._random
        if random.random() < 0.3:
            return random.randbytes(random.choice((0, 1, 16, 36, 37, 38, 49, 61, 62, 100)))
        words = (b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, struct.pack("!q", random.randrange(1000)))
        content = bytes([random.choice((0, 1, 1, 1, 2))]) + b"".join(random.choice(words) for _ in range(8))
        return content[: random.choice((33, 36, 37, 38, 49, 61, 62))]

    # damage

    def damaged(self, content: bytes) -> bytes:
        """The same with something wrong, once or several times."""
        for _ in range(self._random.choice((1, 1, 1, 2, 5))):
            content = self._random.choice(self._damages)(content)
        return content

    def _place(self, content: bytes) -> int:
        return self._random.randrange(len(content) + 1)

    def _cut(self, content: bytes) -> bytes:
        return content[: self._place(content)]

    def _flip(self, content: bytes) -> bytes:
        at = self._place(content)
        return (
            content[:at]
            + bytes(each ^ 1 << self._random.randrange(8) for each in content[at : at + 1])
            + content[at + 1 :]
        )

    def _insert(self, content: bytes) -> bytes:
        at = self._place(content)
        return content[:at] + self._random.randbytes(self._random.randrange(1, 9)) + content[at:]

    def _repeat(self, content: bytes) -> bytes:
        one, other = sorted((self._place(content), self._place(content)))
        return content[:other] + content[one:other] * self._random.choice((1, 1, 2, 20)) + content[other:]

    def _drop(self, content: bytes) -> bytes:
        at = self._place(content)
        return content[:at] + content[at + self._random.randrange(1, 9) :]

    def _interesting(self, content: bytes) -> bytes:
        at = self._place(content)
        some = self._random.choice(
            (b"\xff" * 10, b"\0" * 4, b"\x80" * 11, b"\x7f\xff\xff\xff", b"\xed\xa0\x80", b"%00")
        )
        return content[:at] + some + content[at + len(some) :]

    # JSON

    def json(self, kind: Descriptor) -> bytes:
        """A message of that kind in JSON, likewise."""
        content = json.dumps(self._document(kind), ensure_ascii=self._random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
        return self.damaged(content) if self._random.random() < 0.25 else content

    def _document(self, kind: Descriptor) -> object:
        random = self._random
        if random.random() < 0.02:
            return random.choice(VALUES)
        document: dict[str, object] = {}
        for field in kind.fields:
            if random.random() < (0.8 if field.name == "instance_id" else 0.3):
                name = field.name if random.random() < 0.5 else field.json_name
                value = self._json_value(field)
                document[name] = [value] * random.randrange(3) if field.is_repeated else value
        if random.random() < 0.05:
            document[random.choice(("x", "", "__class__", "\ud800"))] = random.choice(VALUES)
        return document

    def _json_value(self, field: FieldDescriptor) -> object:
        random = self._random
        if random.random() < 0.1:
            return random.choice(VALUES)
        if field.message_type is not None:
            return self._document(field.message_type)
        if field.enum_type is not None:
            return random.choice([*field.enum_type.values_by_name, 0, 1, 99, "X"])
        if field.type == FieldDescriptor.TYPE_STRING:
            return random.choice(TEXTS).decode()
        if field.type == FieldDescriptor.TYPE_BYTES:
            return base64.b64encode(self.token()).decode()
        return random.choice((str, float, int))(random.choice(NUMBERS))

    # many

    def plain(self, field: FieldDescriptor, *, empty: bool = False) -> bytes:
        """The field once, as small as it can be and right as far as that goes; or with nothing in it."""
        if empty:
            return self._with_length(field.number, b"")
        if field.message_type is not None:
            return self._with_length(field.number, b"".join(map(self._smallest, field.message_type.fields)))
        return self._smallest(field)

    def _smallest(self, field: FieldDescriptor) -> bytes:
        if field.name.endswith("_id") or field.name in ("ids", "instance_ids"):
            return self._with_length(field.number, IDS[0].encode()) if field.name != "root_cause_id" else b""
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._with_length(field.number, b"a")
        if field.message_type is not None or field.type in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_DOUBLE):
            return b""
        return self._with_length(field.number, b"\1") if field.is_repeated else varint(field.number << 3) + b"\1"

    def not_utf8(self, kind: Descriptor) -> bytes:
        """The first text of a message, which is none."""
        for field in kind.fields:
            if field.type == FieldDescriptor.TYPE_STRING:
                return self._with_length(field.number, b"\xff")
        return b"\xff"
