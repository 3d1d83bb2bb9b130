"""What a fleet of any size asks of managers and database: a simulation with the policy's own decisions.

    .venv/bin/python -m bench.scaling [--load 2000] [--timeout 30]

Nothing runs here. A fleet joins all at once and checks its health as it is told, tick by tick, until the intervals
rest; what that costs follows from the costs of one operation, which were measured (RESULTS.md).
"""

import argparse
from dataclasses import dataclass

from manager.domain.lease import stretched

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
TICK = 2.0  # seconds

# Microseconds of CPU, manager and PostgreSQL, measured on the machine of RESULTS.md.
UNARY, BATCHED = (50.0, 11.0), (8.0, 4.0)
# A tick's pass over the heartbeats: blocks of 8 KiB, and microseconds for each.
ROWS_A_BLOCK, BLOCK = 142, 6.2


@dataclass(frozen=True)
class Load:
    """A second of a fleet at rest. CPU in shares of a core."""

    size: int
    ticks: int  # until the intervals rest
    interval: float
    timeout: float
    checks: float
    unary: float
    batched: float
    ticking: float

    @property
    def row(self) -> str:
        """As a line of the table."""
        return (
            f"| {self.size:,} | {self.ticks * TICK:.0f} | {self.interval:.0f} | {self.timeout:.0f} | {self.checks:,.0f}"
            f" | {self.unary:.2f} | {self.batched:.2f} | {self.ticking:.2f} |"
        )


def at_rest(size: int, load: float, timeout: float) -> Load:
    """A fleet of that size, once its intervals have come to rest."""
    stretch, ticks = 1.0, 0
    while (following := stretched(stretch, size / (timeout / 3), load)) != stretch:
        stretch, ticks = following, ticks + 1
    checks = size / (timeout / 3 * stretch)
    return Load(
        size=size,
        ticks=ticks,
        interval=timeout / 3 * stretch,
        timeout=timeout * stretch,
        checks=checks,
        unary=checks * sum(UNARY) / 1e6,
        batched=checks * sum(BATCHED) / 1e6,
        ticking=size / ROWS_A_BLOCK * BLOCK / 1e6 / TICK,
    )


def main() -> None:
    """A table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--load", type=float, default=2_000, help="the setting check_load")
    parser.add_argument("--timeout", type=float, default=30)
    asked = parser.parse_args()
    print("| instances | at rest after, s | interval, s | timeout, s | checks/s | cores, unary | batched | tick |")
    print("|---|---|---|---|---|---|---|---|")
    for size in SIZES:
        print(at_rest(size, asked.load, asked.timeout).row)


if __name__ == "__main__":
    main()
