"""What is refused by an exception: bad input, and what a correct client cannot help. Messages are for clients."""

from datetime import timedelta


class Refusal(Exception):
    """A call that is not answered; the text says what to do about it."""


class InvalidRequest(Refusal):
    """Malformed input; `field` is its path in the request, as the proto names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class ChildOfManager(InvalidRequest):
    """A manager's death must not take a part of the fleet along: only managers may be its children."""

    def __init__(self) -> None:
        super().__init__("parent_id", "is a manager of this service, which has no children in the fleet")


class NotFound(Refusal):
    """What was asked about is not among the living, or was never posted."""


class Exhausted(Refusal):
    """A queue, a message or a statement is full; `retry` where waiting helps."""

    def __init__(self, message: str, retry: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry = retry


class Unavailable(Refusal):
    """The database cannot be reached, or nobody knows whether the commit arrived. Never to be read as a false."""

    def __init__(self, message: str = "the database cannot be reached; retry", retry: timedelta = timedelta(seconds=1)):
        super().__init__(message)
        self.retry = retry


class Unreplicated(Unavailable):
    """Committed, but on no synchronous standby: nobody knows whether a failover would keep it."""

    def __init__(self) -> None:
        super().__init__("the change is on no standby yet, and may be lost with the primary; retry")


class TooLate(Refusal):
    """The time for a call is over; what became of it is not known. Never to be read as a false."""


class EpochChanged(Refusal):
    """The token is of another history of the database: list again."""


class HistoryGone(Refusal):
    """The token is older than what is kept of the history."""


class Stalled(Exhausted):
    """A subscriber took nothing for too long; `token` is where it can go on."""

    def __init__(self, message: str, token: bytes) -> None:
        super().__init__(message)
        self.token = token


class Unauthenticated(Refusal):
    """Nobody known calls: without a credential, or with one that is unknown, expired or revoked."""


class PermissionDenied(Refusal):
    """The caller is known, and may not do this, whatever it is about."""
