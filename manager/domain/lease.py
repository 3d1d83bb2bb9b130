"""How long silence is forgiven. The database tells the times; here is only the judgement."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from manager.domain.instance import InstanceType


@dataclass(frozen=True, slots=True)
class Lease:
    """Stale after `timeout` without a health check, dead after `grace` more."""

    timeout: timedelta
    grace: timedelta


Leases = Mapping[InstanceType, Lease]


def leases(general: Lease, vllm: Lease) -> Leases:
    """The lease of each type; a vLLM server may take longer, since it loads for minutes and answers late."""
    return {each: vllm if each is InstanceType.VLLM else general for each in InstanceType}


@dataclass(frozen=True, slots=True)
class Patience:
    """How to treat a gap in which nobody could check health: one of over `outage_after` earns `outage_grace`."""

    outage_after: timedelta
    outage_grace: timedelta
    start_grace: timedelta = timedelta(0)


def grace_after(gap: timedelta, starting: bool, patience: Patience) -> timedelta:
    """How long, from this tick on, those who were alive at the last one are forgiven; zero for not at all.

    `gap` is the time since the last tick that any manager committed, by the database's clock; a clock that was set
    back makes it negative, which says nothing about the silence, and counts as an outage.
    """
    outage = gap > patience.outage_after or gap < timedelta(0)
    return max(patience.outage_grace if outage else timedelta(0), patience.start_grace if starting else timedelta(0))
