"""Which error ends in which exit code."""

from manager.cli.codes import Exit
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
