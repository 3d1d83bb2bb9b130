"""What each caller may ask for: which class a method is of, how much of each class there is for one, and for all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from manager.meters import Reading
from manager.quota import Buckets, Open
from manager.settings import Settings
from manager.wire.rights import FLEET, GET, POST, REFLECTION, STATS, SUBSCRIBE, TRY


class Kind(StrEnum):
    """A class of calls. What keeps the living alive, and what ends them, shares nothing with the rest."""

    CHECKS = "checks"
    KILLS = "kills"
    REGISTRATIONS = "registrations"
    CHANGES = "changes"
    READS = "reads"  # of one instance, or of a few
    LISTS = "lists"  # of as many as there are
    SAMPLES = "samples"
    STREAMS = "streams"  # counted while they are open


KIND_OF: Mapping[str, Kind] = {
    f"{TRY}/TryAddInstance": Kind.REGISTRATIONS,
    f"{TRY}/TryUpdateInstance": Kind.CHANGES,
    f"{TRY}/TryKillInstance": Kind.KILLS,
    f"{TRY}/TryHealthCheck": Kind.CHECKS,
    f"{TRY}/TryAddChild": Kind.CHANGES,
    f"{TRY}/TryAddService": Kind.CHANGES,
    f"{POST}/PostProxyMetrics": Kind.SAMPLES,
    f"{POST}/PostSystemMetrics": Kind.SAMPLES,
    f"{POST}/PostGpuMetrics": Kind.SAMPLES,
    f"{POST}/PostLlmMetrics": Kind.SAMPLES,
    f"{GET}/GetAllInstances": Kind.LISTS,
    f"{GET}/GetInstance": Kind.READS,
    f"{GET}/GetHealthCheck": Kind.READS,
    f"{GET}/GetParent": Kind.READS,
    f"{GET}/GetChildren": Kind.READS,
    f"{GET}/GetProxyMetrics": Kind.READS,
    f"{GET}/GetSystemMetrics": Kind.READS,
    f"{GET}/GetGpuMetrics": Kind.READS,
    f"{GET}/GetLlmMetrics": Kind.READS,
    f"{SUBSCRIBE}/SubscribeToInstanceUpdates": Kind.STREAMS,
    f"{FLEET}/HealthChecks": Kind.CHECKS,  # by what is asked on it
    f"{FLEET}/AddInstances": Kind.REGISTRATIONS,
    f"{FLEET}/KillInstances": Kind.KILLS,
    f"{FLEET}/PostMetrics": Kind.SAMPLES,
    f"{FLEET}/WatchInstances": Kind.STREAMS,
    f"{FLEET}/DescribeInstance": Kind.READS,
    f"{FLEET}/ListEvents": Kind.LISTS,
    f"{FLEET}/GetMetricsHistory": Kind.LISTS,
    f"{FLEET}/GetInstancesAt": Kind.LISTS,
    f"{FLEET}/Diff": Kind.LISTS,
    f"{STATS}/UploadStats": Kind.SAMPLES,
    f"{STATS}/GetStats": Kind.READS,
    f"{REFLECTION}/ServerReflectionInfo": Kind.STREAMS,
    "/live": Kind.STREAMS,
    "/metrics": Kind.READS,
    "/sd/prometheus": Kind.LISTS,
}

# how many a message is about
ITEMS: Mapping[str, Callable[[Any], int]] = {
    f"{FLEET}/HealthChecks": lambda request: len(request.instance_ids),
    f"{FLEET}/AddInstances": lambda request: len(request.instances),
    f"{FLEET}/KillInstances": lambda request: len(request.kills),
    f"{FLEET}/PostMetrics": lambda request: (
        len(request.proxy) + len(request.system) + len(request.gpu) + len(request.llm)
    ),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one method. `buckets` and `streams` are for each caller, `crowd` for all together."""

    buckets: Buckets | None = None
    items: Callable[[Any], int] | None = None
    streams: Open | None = None
    crowd: Open | None = None

    def take(self, who: str, request: Any) -> None:
        """Charges a caller with a request; raises Exhausted where he has nothing left."""
        if self.buckets:
            self.buckets.take(who, self.items(request) if self.items else 1)

    def stream(self, who: str) -> AbstractContextManager[None]:
        """While in here, a caller has a stream open; raises Exhausted where he has as many as he may."""
        return self.streams.one_more(who) if self.streams else nullcontext()

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """While in here, one more is under way; raises Exhausted where there are too many."""
        if self.crowd is None:
            yield
            return
        with self.crowd.one_more("everybody"):
            yield


NONE = Quota()


class Quotas:
    """As the settings have them; what they set to 0 has no bound. Callers are known by their names, so that where
    nobody is asked who calls there are none but that of all lists together."""

    def __init__(self, settings: Settings) -> None:
        burst, most = settings.quota_burst.total_seconds(), settings.tokens_known
        rates = {
            Kind.CHECKS: settings.quota_checks,
            Kind.KILLS: settings.quota_kills,
            Kind.REGISTRATIONS: settings.quota_registrations,
            Kind.CHANGES: settings.quota_changes,
            Kind.READS: settings.quota_reads,
            Kind.LISTS: settings.quota_lists,
            Kind.SAMPLES: settings.quota_samples,
        }
        self._buckets = {kind: Buckets(kind, rate, burst, most) for kind, rate in rates.items() if rate}
        self._streams = Open("streams", settings.quota_streams) if settings.quota_streams else None
        self._crowd = Open("lists", settings.lists_at_once) if settings.lists_at_once else None

    def of(self, path: str) -> Quota:
        """That of a method or path; of what is nobody's, such as health, none."""
        kind = KIND_OF.get(path)
        return Quota(
            self._buckets.get(kind) if kind else None,
            ITEMS.get(path),
            self._streams if kind is Kind.STREAMS else None,
            self._crowd if kind is Kind.LISTS else None,
        )

    def readings(self) -> Iterator[Reading]:
        """What is to be seen of them."""
        for kind in Kind:
            yield from _readings(kind, self._streams if kind is Kind.STREAMS else self._buckets.get(kind))
        crowd = self._crowd
        yield Reading("im_lists_under_way", "large reads at once", lambda: crowd.total if crowd else 0)
        yield Reading("im_lists_refused", "large reads beyond those", lambda: crowd.refused if crowd else 0, total=True)


def _readings(kind: Kind, kept: Buckets | Open | None) -> Sequence[Reading]:
    callers, refused = "callers of whom it is kept what they have left", "calls beyond the quota of their caller"
    return (
        Reading("im_quota_callers", callers, lambda: kept.callers if kept else 0, kind=kind),
        Reading("im_quota_refused", refused, lambda: kept.refused if kept else 0, total=True, kind=kind),
    )
