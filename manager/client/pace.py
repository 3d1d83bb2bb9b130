"""When to check, when to try again, and when to give up: pure decisions. All times are seconds."""

import sys
import time
from dataclasses import dataclass

CALL_DEADLINE = 10.0
CLOCK = time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC
RETRY_BASE = 0.5
RETRY_CAP = 10.0
BRIDGE_BASE = 0.1


def now() -> float:
    """A clock that only goes forward and, where the system has one, goes on while the machine is suspended."""
    return time.clock_gettime(CLOCK)


def retry_delay(failures: int, timeout: float, draw: float, asked: float | None = None) -> float:
    """The time to the next try after so many failures in a row (from 1): full jitter below a bound that doubles.

    Never sooner than the manager `asked` for, and never longer than the pace of the checks.
    """
    bound = min(RETRY_BASE * 2.0 ** min(failures - 1, 10), RETRY_CAP, timeout / 3)
    return min(max(bound * draw, asked or 0.0), timeout / 3)


def bridge_delay(tries: int, draw: float) -> float:
    """The time to the next manager after so many tries of one check (from 1), before anybody is told: full jitter."""
    return float(BRIDGE_BASE * 3.0 ** min(tries - 1, 3) * draw)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an instance goes on while no manager answers, counted from when its last good check was sent.

    `strict`: only for its own `timeout`, to the moment: what it does may be given to another afterwards. Otherwise for
    `orphan_after`: an outage of the manager must not kill what the manager would spare.
    """

    timeout: float
    orphan_after: float = 900.0
    strict: bool = False

    def left(self, good: float, at: float) -> float:
        """What is left of it at this time; 0 when nothing is."""
        return max(0.0, good + (self.timeout if self.strict else self.orphan_after) - at)

    def over(self, good: float, at: float) -> bool:
        """Whether to end after a try that failed."""
        return self.left(good, at) == 0

    def limit(self, good: float, at: float) -> float | None:
        """How long a sleep or a try that begins at this time may last; the strict wake when their time is over."""
        return self.left(good, at) if self.strict else None


def check_delay(patience: Patience, draw: float, told: float | None = None) -> float:
    """The time to the next health check: as `told` by the manager, else a third of the timeout, ±20 % by `draw`.

    `draw` is from 0 to 1. A large fleet is told longer intervals, and its timeouts grow with them; but the strict go
    by their own.
    """
    own = patience.timeout / 3 * (0.8 + 0.4 * draw)
    return own if told is None else min(told, own) if patience.strict else told


def check_deadline(timeout: float) -> float:
    """The deadline of one health check: short enough that two more fit into the timeout."""
    return min(CALL_DEADLINE, timeout / 3)
