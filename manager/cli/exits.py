"""The exit codes of `imctl`, and which error ends in which."""

from enum import IntEnum

from manager.client.errors import (
    DeniedError,
    ExhaustedError,
    HistoryTooOldError,
    InvalidRequestError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    ProtoVersionError,
    UnavailableError,
)
from manager.client.notices import Ending


class Exit(IntEnum):
    """Why `imctl` ended. From 10 on: why it ended a command."""

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
    CANNOT_START = 126
    NO_COMMAND = 127
    INTERRUPTED = 130


# the first that fits
EXIT_OF_ERROR: dict[type[ManagerError], Exit] = {
    UnavailableError: Exit.UNREACHABLE,
    DeniedError: Exit.DENIED,
    ProtoVersionError: Exit.PROTO_VERSION,
    NotFoundError: Exit.NOT_FOUND,
    InvalidRequestError: Exit.USAGE,
    PreconditionError: Exit.CONDITION,
    HistoryTooOldError: Exit.CONDITION,
    ExhaustedError: Exit.FAILED,
}
EXIT_OF_ENDING = {
    Ending.DEAD: Exit.DEAD,
    Ending.UNKNOWN: Exit.UNKNOWN,
    Ending.LOST: Exit.LOST,
    Ending.ORPHANED: Exit.ORPHANED,
}


def exit_of(error: ManagerError) -> Exit:
    """The exit code for a call that failed."""
    return next((code for kind, code in EXIT_OF_ERROR.items() if isinstance(error, kind)), Exit.FAILED)
