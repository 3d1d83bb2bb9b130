"""`imctl metrics`: what an instance has measured."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from manager.cli import identity, parse, words
from manager.cli.call import ask
from manager.cli.codes import Exit
from manager.cli.completing import ID
from manager.cli.connection import Connection
from manager.cli.document import document, moment
from manager.cli.output import Shown
from manager.cli.say import say
from manager.cli.table import Column, Document, Sheet, Value
from manager.client import Client, NotFoundError
from manager.pb.fleet_pb2 import (
    METRICS_KIND_GPU,
    METRICS_KIND_LLM,
    METRICS_KIND_PROXY,
    METRICS_KIND_SYSTEM,
    MetricsHistory,
    MetricsHistoryRequest,
    MetricsKind,
)
from manager.pb.instance_manager_pb2 import GpuMetrics, InstanceRequest, LlmMetrics, ProxyMetrics, SystemMetrics

Message = SystemMetrics | ProxyMetrics | GpuMetrics | LlmMetrics
KINDS: dict[str, MetricsKind.ValueType] = {
    "system": METRICS_KIND_SYSTEM,
    "proxy": METRICS_KIND_PROXY,
    "gpu": METRICS_KIND_GPU,
    "llm": METRICS_KIND_LLM,
}
FIELDS = {
    field.name: field
    for kind in (SystemMetrics, ProxyMetrics, GpuMetrics, LlmMetrics)
    for field in kind.DESCRIPTOR.fields
    if field.name not in ("instance_id", "timestamp_ms")
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One message of metrics, and of which kind."""

    kind: str
    message: Message

    def document(self) -> Document:
        """With its kind, since several kinds come in one answer."""
        return {"kind": self.kind} | document(self.message)

    def field(self, name: str) -> Value:
        """A number of it; None where its kind has no such field."""
        return getattr(self.message, name) if name in self.message.DESCRIPTOR.fields_by_name else None

    def summary(self) -> str:
        """All its numbers, for people."""
        return SUMMARY_OF[self.kind](self.message)


def _memory(of: Any) -> str:
    return f"{words.size(of.used_memory_bytes)} of {words.size(of.total_memory_bytes)}"


SUMMARY_OF: dict[str, Callable[[Any], str]] = {
    "system": _memory,
    "proxy": lambda of: (
        f"{of.active_connections} connections of {of.total_connections} so far, "
        f"{words.size(of.bytes_sent)} out, {words.size(of.bytes_received)} in"
    ),
    "gpu": lambda of: f"GPU {of.gpu_index}: {of.utilization_percent:.0f} %, {_memory(of)}",
    "llm": lambda of: f"{of.request_count} requests, {of.tokens_received} tokens in, {of.tokens_sent} out",
}


def _number(name: str) -> Column[Sample]:
    return Column(name, lambda sample: sample.field(name), wide=True)


SAMPLES: Sheet[Sample] = Sheet(
    columns=(
        Column("kind", lambda sample: sample.kind),
        Column("measured", lambda sample: moment(sample.message.timestamp_ms)),
        Column("summary", Sample.summary),
        *map(_number, FIELDS),
    ),
    name=lambda sample: sample.kind,
    document=Sample.document,
)


@dataclass(frozen=True, slots=True)
class _Asked:
    kinds: Sequence[str]
    since: datetime | None
    points: int
    subtree: bool


def metrics(
    at: Connection,
    shown: Shown,
    instance_id: Annotated[str, typer.Argument(help="Whose.", metavar="ID", **ID)],
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="system, proxy, gpu or llm; all otherwise.", metavar="KIND")
    ] = None,
    since: Annotated[
        str, typer.Option("--since", help="What was measured since then, as 15m or a time.", metavar="TIME")
    ] = "",
    points: Annotated[
        int, typer.Option("--points", min=1, max=2000, help="With --since: at most so many of each kind.")
    ] = 60,
    subtree: Annotated[
        bool, typer.Option("--subtree", help="With --since: of all that were ever below it too, added up.")
    ] = False,
) -> None:
    """Tell what an instance measured last; with --since also what it measured before, thinned out, dead or alive.

    With --subtree too, what grows is counted from --since on.

    \b
    Examples:
      imctl metrics 7f3a
      imctl metrics 7f3a --since 1h --kind gpu -o csv > gpu.csv
      imctl metrics 7f3a --since 30d --points 30 --subtree
    """
    printer = shown.of(SAMPLES)
    chosen = [each.lower() for each in kinds or KINDS]
    if not set(chosen) <= set(KINDS):
        raise typer.BadParameter(f"there are only {', '.join(KINDS)}", param_hint="--kind")
    if subtree and not since:
        raise typer.BadParameter("a subtree is told of a time: name its beginning by --since", param_hint="--subtree")
    asked = _Asked(chosen, parse.moment(since) if since else None, points, subtree)

    async def told(client: Client) -> int:
        wanted = await identity.whole_one(client, instance_id, dead=True)
        found = await (history(client, wanted, asked) if asked.since else latest(client, wanted, asked.kinds))
        if not found and not shown.quiet:
            say(f"{wanted} has measured nothing of {', '.join(chosen)}" + (f" since {since}" if since else ""))
        printer.many(found)
        return Exit.OK

    ask(at, told)


async def latest(client: Client, instance_id: str, kinds: Sequence[str]) -> list[Sample]:
    """The last samples of these kinds. Raises NotFoundError for who is not alive."""
    request = InstanceRequest(instance_id=instance_id)
    await client.get.GetInstance(request)
    calls: dict[str, Callable[[InstanceRequest], Awaitable[Any]]] = {
        "system": client.get.GetSystemMetrics,
        "proxy": client.get.GetProxyMetrics,
        "gpu": client.get.GetGpuMetrics,
        "llm": client.get.GetLlmMetrics,
    }
    found: list[Sample] = []
    for kind in kinds:
        try:
            told = await calls[kind](request)
        except NotFoundError:  # nothing of that kind was posted yet
            continue
        found += [Sample(kind, each) for each in (told.metrics if kind == "gpu" else [told])]
    return found


async def history(client: Client, instance_id: str, asked: _Asked) -> list[Sample]:
    """The samples of these kinds since then, ordered by kind and time."""
    found: list[Sample] = []
    since = round(asked.since.timestamp() * 1000) if asked.since else 0
    for kind in asked.kinds:
        request = MetricsHistoryRequest(
            instance_id=instance_id, kind=KINDS[kind], from_ms=since, max_points=asked.points, subtree=asked.subtree
        )
        told: MetricsHistory = await client.fleet.GetMetricsHistory(request)
        found += [Sample(kind, each) for each in getattr(told, kind)]
    return found
