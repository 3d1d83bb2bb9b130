"""How long an instance may be silent, and how often it should speak."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from manager.domain.instance import InstanceType

WARM_POOL = (InstanceType.WARMPOOL_CHROME_BROWSER, InstanceType.WARMPOOL_PROXY)

# The intervals of a growing fleet stretch by a quarter a tick at most, so that one who was told the old interval is
# still in time; they shrink likewise. Small changes are not worth a row.
STEP = 1.25
WORTH = 0.05
LONGEST = 10.0


@dataclass(frozen=True, slots=True)
class Lease:
    """Stale after `timeout` without a health check, dead after `grace` more."""

    timeout: timedelta
    grace: timedelta


Leases = Mapping[InstanceType, Lease]


def leases(general: Lease, vllm: Lease, warm_pool: Lease) -> Leases:
    """The lease of each type: a vLLM server loads for minutes and answers late, a warm pool is missed at once."""
    special = {InstanceType.VLLM: vllm, **dict.fromkeys(WARM_POOL, warm_pool)}
    return {each: special.get(each, general) for each in InstanceType}


def stretched(present: float, demand: float, load: float) -> float:
    """By what all intervals and timeouts are multiplied next, from 1 to LONGEST.

    `demand`: the health checks a second that the fleet would send unstretched; `load`: those that it may.
    """
    wanted = min(max(demand / load, 1.0), LONGEST)
    if abs(wanted - present) <= WORTH * present and wanted != 1.0:
        return present
    return min(max(wanted, present / STEP), present * STEP)
