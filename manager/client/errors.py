"""What a call may raise: one class a kind of answer, decoded from the `google.rpc.Status` that the manager sends along.

All of them are `grpc.aio.AioRpcError` too, with its `code()` and `details()`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata

from manager.pb.fleet_pb2 import Failure
from manager.pb.instance_manager_pb2 import Bool, Reason

DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of the request that the manager refuses, and why."""

    field: str
    description: str


class ManagerError(AioRpcError):
    """A call that ended in a gRPC status. `str()` is one line for people.

    `reason` is the ErrorInfo's (empty without one), `violations` the fields refused, `retry_after` the seconds after
    which a repeat may help (None where the manager names none).
    """

    def __init__(self, error: AioRpcError) -> None:
        super().__init__(
            error.code(),
            error.initial_metadata(),
            error.trailing_metadata(),
            error.details(),
            error.debug_error_string(),
        )
        details = list(details_of(error))
        self.reason = reason_in(details)
        self.violations = violations_in(details)
        self.retry_after = retry_after_in(details)

    def __str__(self) -> str:
        text = self.details() or self.code().name
        fields = "; ".join(f"{each.field}: {each.description}" for each in self.violations)
        return f"{text} ({fields})" if fields and fields not in text else text


class InvalidRequestError(ManagerError):
    """The request is malformed; `violations` names the fields."""


class NotFoundError(ManagerError):
    """The instance is unknown, stale or dead, or nothing was posted yet."""


class PreconditionError(ManagerError):
    """The call does not fit the manager's state; `reason` says how."""


class ProtoVersionError(PreconditionError):
    """Client and manager were built from contracts that do not fit; the message names both hashes."""


class EpochChangedError(PreconditionError):
    """The manager's database has another history now: register again, or list again before subscribing."""


class HistoryTooOldError(ManagerError):
    """The resume token is older than the kept history: list again."""


class ExhaustedError(ManagerError):
    """A queue, quota or size limit is full."""


class DeniedError(ManagerError):
    """The manager does not know the caller, or does not allow it the call."""


class UnavailableError(ManagerError):
    """The manager or its database is out of reach, or the outcome is unknown: `Try*` and `Get*` may be repeated."""


class DeadlineError(UnavailableError):
    """No answer in time; the outcome is unknown."""


class RefusedError(Exception):
    """The manager answered false to something that this process cannot go on without; `reason` says why."""

    def __init__(self, action: str, answer: Bool) -> None:
        super().__init__(f"{action} was refused: {Reason.Name(answer.reason).removeprefix('REASON_')}")
        self.reason = answer.reason


ERROR_OF: dict[grpc.StatusCode, type[ManagerError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: HistoryTooOldError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExhaustedError,
    grpc.StatusCode.UNAUTHENTICATED: DeniedError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}
CODE_OF = {code.value[0]: code for code in grpc.StatusCode}
PRECONDITION_OF: dict[str, type[PreconditionError]] = {
    "PROTO_VERSION": ProtoVersionError,
    "EPOCH_CHANGED": EpochChangedError,
}


def typed(error: AioRpcError) -> ManagerError:
    """The error of this library that says the same; statuses outside the contract become a plain `ManagerError`."""
    if isinstance(error, ManagerError):
        return error
    kind = ERROR_OF.get(error.code(), ManagerError)
    if kind is PreconditionError:
        kind = PRECONDITION_OF.get(reason_in(list(details_of(error))), PreconditionError)
    return kind(error)


def of_item(failure: Failure) -> ManagerError:
    """The error that the single call would have ended in, for one item of a batch."""
    details: list[Message] = []
    if failure.reason:
        details.append(error_details_pb2.ErrorInfo(reason=failure.reason))
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=failure.field, description=failure.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if failure.retry_after_ms:
        pause = Duration()
        pause.FromMilliseconds(failure.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=pause))
    status = status_pb2.Status(code=failure.code, message=failure.message)
    for each in details:
        status.details.add().Pack(each)
    return typed(_error(CODE_OF.get(failure.code, grpc.StatusCode.UNKNOWN), failure.message, status))


def broken_off(message: str) -> ManagerError:
    """A stream came to an end that is none."""
    return typed(_error(grpc.StatusCode.UNAVAILABLE, message))


def unanswered(message: str) -> ManagerError:
    """The client's own time for a call is over."""
    return typed(_error(grpc.StatusCode.DEADLINE_EXCEEDED, message))


def _error(code: grpc.StatusCode, message: str, status: status_pb2.Status | None = None) -> AioRpcError:
    trailers = Metadata((DETAILS, status.SerializeToString())) if status else Metadata()
    return AioRpcError(code, Metadata(), trailers, message)


def details_of(error: AioRpcError) -> Iterator[Message]:
    """The messages of the error's `google.rpc.Status`; nothing where there is none, or none that can be read."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
            yield from unpacked(value)


def unpacked(status: bytes) -> Iterator[Message]:
    """The known details inside an encoded `google.rpc.Status`."""
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    try:
        for packed in status_pb2.Status.FromString(status).details:
            for kind in kinds:
                detail = kind()
                if packed.Unpack(detail):
                    yield detail
    except DecodeError:
        return  # a proxy's, not the manager's: the code alone must do


def reason_in(details: list[Message]) -> str:
    """The reason of the first ErrorInfo, or nothing."""
    return next((str(each.reason) for each in details if isinstance(each, error_details_pb2.ErrorInfo)), "")


def violations_in(details: list[Message]) -> tuple[Violation, ...]:
    """The fields that all BadRequests name."""
    requests = (each for each in details if isinstance(each, error_details_pb2.BadRequest))
    return tuple(Violation(v.field, v.description) for each in requests for v in each.field_violations)


def retry_after_in(details: list[Message]) -> float | None:
    """The seconds of the first RetryInfo, or None."""
    infos = (each for each in details if isinstance(each, error_details_pb2.RetryInfo))
    return next((each.retry_delay.ToTimedelta().total_seconds() for each in infos), None)
