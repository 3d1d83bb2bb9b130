"""Who calls: a name with a role, and the one instance that it may be bound to."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from manager.domain.instance import InstanceId


class Role(StrEnum):
    """What a caller is for. Which method each of them may call is a table, `manager.wire.rights`."""

    READER = "reader"  # looks
    INSTANCE = "instance"  # acts for itself alone
    REGISTRAR = "registrar"  # registers instances and tells that they live, and looks
    OPERATOR = "operator"  # kills, links and changes, and looks
    ADMIN = "admin"  # everything


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller that is known. `instance`: the only one that it may act for; `token`: the id of what it showed."""

    name: str
    role: Role
    instance: InstanceId | None
    token: UUID
