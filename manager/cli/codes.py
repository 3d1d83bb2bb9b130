"""The exit codes of `imctl`."""

from enum import IntEnum


class Exit(IntEnum):
    """Why `imctl` ended; docs/imctl.md explains each. From 10 to 127: why it ended a command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    DENIED = 5
    PROTO_VERSION = 6
    CONFLICT = 7
    CONDITION = 8
    DEAD = 10
    UNKNOWN = 11
    LOST = 12
    ORPHANED = 13
    INSECURE = 78
    CANNOT_START = 126
    NO_COMMAND = 127
    INTERRUPTED = 130
    BROKEN_PIPE = 141
