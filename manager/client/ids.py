"""Identifiers for new instances."""

import secrets
import time


def new_id() -> str:
    """A fresh UUID of version 7 (RFC 9562) in canonical text: ids made later sort later, to the millisecond."""
    return uuid7_text(time.time_ns() // 1_000_000, secrets.randbits(74))


def uuid7_text(unix_ms: int, random_bits: int) -> str:
    """The UUID of version 7 with this time (48 bits of milliseconds) and these 74 random bits."""
    high = (unix_ms & (1 << 48) - 1) << 16 | 0x7000 | random_bits >> 62 & 0xFFF
    low = 0b10 << 62 | random_bits & (1 << 62) - 1
    digits = f"{high:016x}{low:016x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
