"""Refusals to gRPC statuses: one table, and the details that tell a client what to do."""

import base64
import logging
import secrets
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details_pb
from google.rpc import status_pb2

from manager.domain.refusals import (
    ChildOfManager,
    EpochChanged,
    Exhausted,
    HistoryGone,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Refusal,
    Stalled,
    TooLate,
    Unauthenticated,
    Unavailable,
    Unreplicated,
)
from manager.pb import fleet_pb2 as fleet_pb
from manager.repository.database import refusal_of, why
from manager.repository.versions import SchemaMismatch

log = logging.getLogger(__name__)

DOMAIN = "instance_manager"


class VersionMismatch(Refusal):
    """The caller speaks another version of the contract."""


STATUS_OF: dict[type[Refusal], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ChildOfManager: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Stalled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    TooLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unreplicated: grpc.StatusCode.UNAVAILABLE,
    HistoryGone: grpc.StatusCode.OUT_OF_RANGE,
    EpochChanged: grpc.StatusCode.FAILED_PRECONDITION,
    VersionMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    SchemaMismatch: grpc.StatusCode.UNAVAILABLE,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
}


def _details(refusal: Refusal) -> list[Any]:
    match refusal:
        case InvalidRequest(field=field, problem=problem):
            violation = details_pb.BadRequest.FieldViolation(field=field, description=problem)
            return [details_pb.BadRequest(field_violations=[violation])]
        case EpochChanged():
            return [details_pb.ErrorInfo(reason="EPOCH_CHANGED", domain=DOMAIN)]
        case VersionMismatch():
            return [details_pb.ErrorInfo(reason="PROTO_VERSION", domain=DOMAIN)]
        case Stalled(token=token):
            last = base64.b64encode(token).decode()
            return [details_pb.ErrorInfo(reason="STALLED", domain=DOMAIN, metadata={"resume_token": last})]
        case HistoryGone():
            return [details_pb.ErrorInfo(reason="HISTORY_GONE", domain=DOMAIN)]
        case Unavailable(retry=retry) | Exhausted(retry=retry) if retry is not None:
            pause = Duration()
            pause.FromTimedelta(retry)
            return [details_pb.RetryInfo(retry_delay=pause)]
    return []


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, bytes]:
    """Code, message and serialized google.rpc.Status of what a handler raised.

    What is no refusal is a fault of ours: logged under an incident id, which is all that the client learns.
    """
    refusal = refusal_of(error)
    if refusal is None:
        incident = secrets.token_hex(6)
        log.error("incident %s", incident, exc_info=error)
        code, message, details = grpc.StatusCode.INTERNAL, f"a fault of the server's: incident {incident}", []
    else:
        if refusal is not error:
            log.warning("answered %s: %s", type(refusal).__name__, why(error))
        code, message, details = STATUS_OF[type(refusal)], str(refusal), _details(refusal)
    return code, message, _packed(code, message, details)


def _packed(code: grpc.StatusCode, message: str, details: list[Any]) -> bytes:
    packed = []
    for each in details:
        packed.append(AnyMessage())
        packed[-1].Pack(each)
    return bytes(status_pb2.Status(code=code.value[0], message=message, details=packed).SerializeToString())


def failure_of(error: Exception) -> fleet_pb.Failure:
    """The same for one item of a batch."""
    code, message, _ = status_of(error)
    failure = fleet_pb.Failure(code=code.value[0], message=message)
    refusal = refusal_of(error)
    if isinstance(refusal, InvalidRequest):
        failure.field = refusal.field
    for each in _details(refusal) if refusal else ():
        if isinstance(each, details_pb.ErrorInfo):
            failure.reason = each.reason
        elif isinstance(each, details_pb.RetryInfo):
            failure.retry_after_ms = each.retry_delay.ToMilliseconds()
    return failure
