"""Ids of managers: of a light module, since a supervisor has one and needs nothing else of a manager."""

from secrets import token_bytes
from time import time_ns
from uuid import UUID

from manager.domain.instance import InstanceId


def new_id() -> InstanceId:
    """A UUID of version 7 (RFC 9562): ordered by the time at which it was made."""
    milliseconds = time_ns() // 1_000_000
    number = int.from_bytes(milliseconds.to_bytes(6) + token_bytes(10))
    number = (number & ~(0xF << 76)) | (7 << 76)
    return InstanceId(UUID(int=(number & ~(0x3 << 62)) | (2 << 62)))
