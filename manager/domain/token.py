"""Tokens: 256 random bits, in a form that a scanner for secrets knows, and that a slip of the pen does not pass.

    imt_  43 characters of base62: the bits  6 characters of base62: the CRC-32 of all before

Whoever holds one may do what its role may. The database has its SHA-256 alone: of 256 random bits nobody finds them
from it, so it needs neither salt nor slowness.
"""

from hashlib import sha256
from re import compile as pattern
from secrets import randbits
from string import ascii_lowercase, ascii_uppercase, digits
from zlib import crc32

PREFIX = "imt_"
ALPHABET = digits + ascii_uppercase + ascii_lowercase
BITS, LENGTH, CHECK = 256, 43, 6
FORM = pattern(rf"{PREFIX}[0-9A-Za-z]{{{LENGTH + CHECK}}}")


def new_token() -> str:
    """A fresh one."""
    body = PREFIX + _base62(randbits(BITS), LENGTH)
    return body + _checksum(body)


def well_formed(token: str) -> bool:
    """Whether it may be one: what is cut off, mistyped or of another service is told so without a look-up."""
    return bool(FORM.fullmatch(token)) and _checksum(token[:-CHECK]) == token[-CHECK:]


def digest(credential: str) -> bytes:
    """What the database has in its place."""
    return sha256(credential.encode()).digest()


def _checksum(body: str) -> str:
    return _base62(crc32(body.encode()), CHECK)


def _base62(number: int, length: int) -> str:
    written = []
    for _ in range(length):
        number, place = divmod(number, len(ALPHABET))
        written.append(ALPHABET[place])
    return "".join(reversed(written))
