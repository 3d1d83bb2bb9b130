"""The Python client of the Instance Manager: `Client` for calls, `Instance` for being one, `Fleet` for knowing all.

Needs asyncio and grpcio.
"""

from manager.client.access import Access
from manager.client.change import (
    Added,
    BecameStale,
    Change,
    Linked,
    Recovered,
    Removed,
    Resynced,
    ServiceAdded,
    Updated,
)
from manager.client.changes import Changes
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
from manager.client.fleet import Fleet, Wanted
from manager.client.ids import new_id
from manager.client.instance import Instance, Memory, Owner, Policy
from manager.client.member import Endpoint, Member
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
    "Access",
    "Added",
    "BackInReach",
    "BecameStale",
    "Change",
    "Changes",
    "Client",
    "DeadlineError",
    "DeniedError",
    "End",
    "Ending",
    "Endpoint",
    "EpochChangedError",
    "ExhaustedError",
    "Fleet",
    "HistoryTooOldError",
    "Instance",
    "InvalidRequestError",
    "Linked",
    "ManagerError",
    "Member",
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
    "Recovered",
    "RefusedError",
    "RegisteredAgain",
    "Removed",
    "Resynced",
    "ServiceAdded",
    "UnavailableError",
    "Updated",
    "Violation",
    "Wanted",
    "new_id",
]
