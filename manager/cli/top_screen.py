"""The screen of `imctl top`: who there is, sorted and filtered, with the last measurements of those in sight."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Input, Static

from manager.cli import words
from manager.cli.document import moment
from manager.cli.metrics import Sample, latest
from manager.cli.screen import coloured
from manager.client import Client, Fleet, ManagerError, Member
from manager.pb.instance_manager_pb2 import STATUS_HEALTHY, STATUS_STALE, VLLM, WARMPOOL_PROXY

EVERY = 1.0
MEASURE_EVERY = 2.0
MOST = 500
# what each kind of instance is looked at for, beside its memory
LOOKED_AT = {VLLM: ("gpu", "llm"), WARMPOOL_PROXY: ("proxy",)}


class Row:
    """An instance, and what it measured last."""

    def __init__(self, member: Member, samples: Sequence[Sample]) -> None:
        self.member = member
        self.samples = samples
        self.status = words.status(STATUS_STALE if member.stale else STATUS_HEALTHY)
        used = next((each.field("used_memory_bytes") for each in samples if each.kind == "system"), 0)
        self.memory = used if isinstance(used, int) else 0

    def cells(self) -> list[Text]:
        """In the order of the columns."""
        member = self.member
        told = "   ".join(each.summary() for each in self.samples if each.kind != "system")
        memory = words.size(self.memory) if self.memory else ""
        plain = [words.kind(member.instance_type), member.hostname, memory, words.ago(moment(member.created_at_ms))]
        return [coloured(self.status, 0), *map(Text, plain), Text(member.id), Text(told)]

    def text(self) -> str:
        """What a filter looks into."""
        labels = " ".join(f"{key}={value}" for key, value in self.member.labels.items())
        kind = words.kind(self.member.instance_type)
        return f"{self.member.id} {self.status} {kind} {self.member.hostname} {labels}".lower()


ORDERS: tuple[tuple[str, Callable[[Row], str | int]], ...] = (
    ("STATUS", lambda row: row.status),
    ("TYPE", lambda row: words.kind(row.member.instance_type)),
    ("HOSTNAME", lambda row: row.member.hostname),
    ("MEMORY", lambda row: -row.memory),
    ("CREATED", lambda row: -row.member.created_at_ms),
    ("ID", lambda row: row.member.id),
)


class Top(App[None]):
    """Draws once a second what the fleet is then."""

    CSS = """
    #summary { height: 1; padding: 0 1; background: $panel; }
    #filter { display: none; dock: bottom; height: 3; }
    #filter.asked { display: block; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("s", "order", "Sort by the next column"),
        ("r", "reverse", "Reverse"),
        ("slash", "filter", "Filter"),
        ("escape", "all", "All"),
        ("p", "pause", "Pause"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, client: Client, fleet: Fleet) -> None:
        super().__init__()
        self._client = client
        self._fleet = fleet
        self._order = 0
        self._reversed = False
        self._paused = False
        self._wanted = ""
        self._measured: dict[str, list[Sample]] = {}
        self._in_sight: list[Member] = []

    def compose(self) -> ComposeResult:
        """The parts, from above."""
        yield Static(id="summary")
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Input(id="filter", placeholder="id, type, host, status or key=value")
        yield Footer()

    def on_mount(self) -> None:
        """Begins."""
        self._head()
        self.redraw()
        self.set_interval(EVERY, self._tick)
        self.run_worker(self._measure(), exclusive=True)

    def _tick(self) -> None:
        if not self._paused:
            self.redraw()

    def _head(self) -> None:
        table = self.query_one(DataTable)
        table.clear(columns=True)
        for number, (title, _) in enumerate(ORDERS):
            mark = "" if number != self._order else " ▲" if self._reversed else " ▼"
            table.add_column(title + mark)
        table.add_column("MEASURED")

    def redraw(self) -> None:
        """The fleet as it is now."""
        rows = [Row(each, self._measured.get(each.id, ())) for each in self._fleet.instances(healthy=None)]
        found = [row for row in rows if self._wanted in row.text()]
        found.sort(key=ORDERS[self._order][1], reverse=self._reversed)
        self._in_sight = [row.member for row in found[:MOST]]
        self.query_one("#summary", Static).update(Text(self._summary(rows, found)))
        table = self.query_one(DataTable)
        place, top = table.cursor_coordinate, table.scroll_y
        table.clear()
        for row in found[:MOST]:
            table.add_row(*row.cells(), key=row.member.id)
        table.move_cursor(row=min(place.row, max(0, len(self._in_sight) - 1)), scroll=False)
        table.scroll_to(y=top, animate=False)

    def _summary(self, rows: Sequence[Row], found: Sequence[Row]) -> str:
        states = Counter(row.status for row in rows)
        kinds = Counter(words.kind(row.member.instance_type) for row in rows)
        parts = [f"{state} {number}" for state, number in sorted(states.items(), reverse=True)]
        parts += [f"{kind} {number}" for kind, number in kinds.most_common(4)]
        if self._wanted or len(found) > MOST:
            parts.append(f"{min(len(found), MOST)} of {len(rows)} shown")
        if not self._fleet.fresh:
            parts.append(f"as of {self._fleet.age:.0f} s ago: {self._fleet.trouble}")
        return "   ".join([*parts, *(["PAUSED"] if self._paused else []), f"revision {self._fleet.revision}"])

    async def _measure(self) -> None:
        """For ever: the samples of those that the screen has room for."""
        while True:
            table = self.query_one(DataTable)
            first = round(table.scroll_y)
            seen = self._in_sight[first : first + table.size.height]
            for member, told in zip(seen, await asyncio.gather(*map(self._latest, seen)), strict=True):
                self._measured[member.id] = told
            present = {each.id for each in self._fleet.instances(healthy=None)}
            self._measured = {key: told for key, told in self._measured.items() if key in present}
            await asyncio.sleep(MEASURE_EVERY)

    async def _latest(self, member: Member) -> list[Sample]:
        try:
            return await latest(self._client, member.id, ("system", *LOOKED_AT.get(member.instance_type, ())))
        except ManagerError:  # it is dead by now, or nobody answers, which the summary tells
            return self._measured.get(member.id, [])

    def action_order(self) -> None:
        """The next column."""
        self._order = (self._order + 1) % len(ORDERS)
        self._head()
        self.redraw()

    def action_reverse(self) -> None:
        """The other way round."""
        self._reversed = not self._reversed
        self._head()
        self.redraw()

    def action_filter(self) -> None:
        """Asks what to look for."""
        asked = self.query_one("#filter", Input)
        asked.add_class("asked")
        asked.focus()

    def action_all(self) -> None:
        """Nothing is filtered any more."""
        self.query_one("#filter", Input).value = ""
        self.on_input_submitted()

    def action_pause(self) -> None:
        """Stands still, or goes on."""
        self._paused = not self._paused
        self.redraw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters while it is typed."""
        self._wanted = event.value.strip().lower()
        self.redraw()

    def on_input_submitted(self) -> None:
        """Back to the table."""
        self.query_one("#filter", Input).remove_class("asked")
        self.query_one(DataTable).focus()
