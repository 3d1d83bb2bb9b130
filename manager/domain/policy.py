"""What the operations of a turn go by."""

from dataclasses import dataclass, field
from datetime import timedelta

from manager.domain.grace import Patience
from manager.domain.lease import Leases
from manager.domain.preservation import Limits


@dataclass(frozen=True, slots=True)
class Policy:
    """Leases by type; patience after outages; limits of dying at once.

    `pace`: a tick that comes sooner after another manager's is not needed. `interval`: between two of this process.
    `check_load`: the health checks a second that the fleet may send before all intervals stretch.
    """

    leases: Leases
    patience: Patience
    pace: timedelta
    interval: timedelta
    limits: Limits = field(default_factory=Limits)
    check_load: float = 2_000.0
    notify: bool = True
