"""The Python client of the Instance Manager: `Client` for calls, `Instance` for being one. Needs asyncio and grpcio."""

from manager.client.connection import Client
from manager.client.errors import (
    DeadlineError,
    DeniedError,
    EpochChangedError,
    ExhaustedError,
    HistoryTooOldError,
    InvalidRequestError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    ProtoVersionError,
    RefusedError,
    UnavailableError,
    Violation,
)
from manager.client.ids import new_id
from manager.client.instance import Instance, Memory, Owner, Policy
from manager.client.notices import (
    BackInReach,
    End,
    Ending,
    MetricsFailed,
    Notice,
    NotLinked,
    OutOfReach,
    RegisteredAgain,
)

__all__ = [
    "BackInReach",
    "Client",
    "DeadlineError",
    "DeniedError",
    "End",
    "Ending",
    "EpochChangedError",
    "ExhaustedError",
    "HistoryTooOldError",
    "Instance",
    "InvalidRequestError",
    "ManagerError",
    "Memory",
    "MetricsFailed",
    "NotFoundError",
    "NotLinked",
    "Notice",
    "OutOfReach",
    "Owner",
    "Policy",
    "PreconditionError",
    "ProtoVersionError",
    "RefusedError",
    "RegisteredAgain",
    "UnavailableError",
    "Violation",
    "new_id",
]
