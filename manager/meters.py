"""Meters: what this server does, counted for Prometheus. docs/metrics.md says what each of them means."""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from manager import __version__

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number that somebody else keeps, asked for whenever Prometheus asks; with `total` it only ever grows."""

    name: str
    meaning: str
    read: Callable[[], float]
    total: bool = False
    lane: str = ""
    kind: str = ""


class Readings:
    """The readings, as a collector."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """What they are now; those of one name together."""
        for name in dict.fromkeys(each.name for each in self._readings):
            same = [each for each in self._readings if each.name == name]
            labels = [label for label in ("lane", "kind") if getattr(same[0], label)]
            kind = CounterMetricFamily if same[0].total else GaugeMetricFamily
            family = kind(name, same[0].meaning, labels=labels)
            for each in same:
                family.add_metric([getattr(each, label) for label in labels], each.read())
            yield family


@dataclass(frozen=True)
class Batches:
    """What one lane carries: how many calls share a batch, and how long it takes."""

    calls: Histogram
    seconds: Histogram

    def __call__(self, calls: int, seconds: float) -> None:
        """A batch that has ended."""
        self.calls.observe(calls)
        self.seconds.observe(seconds)


class Method:
    """The calls of one method. Counted here, and shown when Prometheus asks: its own counters, which are made for many
    threads, cost a call five times as much."""

    def __init__(self) -> None:
        self.single = True
        self.ended: Counts[str] = Counts()
        self.within = [0] * (len(SECONDS) + 1)  # so many seconds, or more than all of them
        self.seconds = 0.0

    def unary(self, code: str, seconds: float) -> None:
        """A single call that ended with that status."""
        self.ended[code] += 1
        if self.single:
            self.within[bisect_left(SECONDS, seconds)] += 1
            self.seconds += seconds

    def stream(self, code: str) -> None:
        """A stream that ended with that status, after however long."""
        self.ended[code] += 1


class Methods:
    """All of them, as a collector."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Method] = {}

    def collect(self) -> Iterator[Metric]:
        """How many calls ended how, and how long single ones took."""
        calls = CounterMetricFamily("im_calls", "calls that ended, by status", labels=["service", "method", "code"])
        seconds = HistogramMetricFamily(
            "im_call_duration_seconds", "how long single calls took", labels=["service", "method"]
        )
        bounds = [*map(floatToGoString, SECONDS), "+Inf"]
        for labels, each in self.known.items():
            for code, number in each.ended.items():
                calls.add_metric([*labels, code], number)
            seconds.add_metric(labels, list(zip(bounds, accumulate(each.within), strict=True)), each.seconds)
        yield calls
        yield seconds


@dataclass
class Meters:
    """All that one server counts, and where it is read: `registry`."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self._methods = Methods()
        self.registry.register(self._methods)
        self._batch_calls = Histogram(
            "im_batch_calls", "how many calls shared a batch", ["lane"], buckets=SIZES, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "im_batch_duration_seconds", "how long batches took", ["lane"], buckets=SECONDS, registry=self.registry
        )
        self.sent = Counter("im_events_sent", "events given to subscriptions", registry=self.registry)

    def lane(self, name: str) -> Batches:
        """The meter of a lane."""
        return Batches(self._batch_calls.labels(name), self._batch_seconds.labels(name))

    def method(self, path: str) -> Method:
        """The meter of a method, by the path of its calls."""
        service, name = path.strip("/").split("/")
        return self._methods.known.setdefault((service, name), Method())

    def read(self, about: Mapping[str, str], readings: Sequence[Reading]) -> None:
        """Adds what others keep, and what the process is: the release, and by label what else there is to say."""
        build = Info("im_build", "which release this is", registry=self.registry)
        build.info({"version": __version__, **about})
        self.registry.register(Readings(readings))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
