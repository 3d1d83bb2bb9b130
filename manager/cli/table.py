"""Things as rows: which columns a kind of thing has, in which order rows stand, and how they are aligned."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from manager.cli.encoding import unicode

T = TypeVar("T")

Value = str | int | float | bool | datetime | None
Document = Mapping[str, object]
NOTHING = "-"
NARROW = 14
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A property of things of a kind.

    `value` is what csv has and what rows are sorted by, `text` what people see instead. `wide`: only where there is
    room. `width`: of the column in an endless list, which cannot know its longest cell.
    """

    name: str
    value: Callable[[T], Value]
    text: Callable[[T], str] | None = None
    wide: bool = False
    width: int = 0

    @property
    def title(self) -> str:
        """Its name at the head of a table."""
        return self.name.upper().replace("_", " ")

    def words(self, row: T) -> str:
        """What people see."""
        return (plain(self.value(row)) if self.text is None else self.text(row)) or NOTHING


@dataclass(frozen=True, slots=True)
class Sheet(Generic[T]):
    """How things of a kind are shown: as columns, by their `name` alone, as a `document` for json and yaml."""

    columns: tuple[Column[T], ...]
    name: Callable[[T], str]
    document: Callable[[T], Document]


def plain(value: Value) -> str:
    """A value for programs: times are RFC 3339 in UTC, nothing is empty."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return rfc3339(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def rfc3339(moment: datetime) -> str:
    """To the millisecond, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ordered(rows: Iterable[T], column: Column[T], descending: bool) -> list[T]:
    """The rows by that column; those without a value come last."""
    valued = [(column.value(row), row) for row in rows]
    known = [(value, row) for value, row in valued if value is not None]
    known.sort(key=lambda pair: pair[0], reverse=descending)
    return [row for _, row in known] + [row for value, row in valued if value is None]


def aligned(grid: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, in full, the columns below each other."""
    if not grid:
        return []
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid]


def fitted(grid: Sequence[Sequence[str]], width: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """The grid cut to a width, and the heads of the columns that had to go.

    Long cells are cut first, the longest of all; then columns go, the last ones first. The first column stays as it is:
    it is there to be copied. Of an id the end is kept, by which it is known as well as by the whole.
    """
    natural = [max(map(len, column)) for column in zip(*grid, strict=True)]
    kept = next((each for each in range(len(natural), 1, -1) if room_for(natural[:each], width)), 1)
    widths = room_for(natural[:kept], width) or natural[:1]
    rows = [tuple(cut(cell, room) for cell, room in zip(row, widths, strict=False)) for row in grid]
    return rows, list(grid[0][kept:]) if grid else []


def room_for(widths: Sequence[int], width: int) -> list[int]:
    """The columns' widths, the longest but the first made smaller until all have room; none where they cannot have."""
    made = list(widths)
    while (excess := sum(made) + 2 * (len(made) - 1) - width) > 0:
        longest = max(range(1, len(made)), key=lambda each: made[each], default=0)
        if not longest or made[longest] <= NARROW:
            return []
        made[longest] = max(NARROW, made[longest] - excess)
    return made


def cut(cell: str, width: int) -> str:
    """As much of a cell as there is room for."""
    if len(cell) <= width:
        return cell
    mark = "…" if unicode() else "~"
    return mark + cell[1 - width :] if ID.fullmatch(cell) else cell[: width - 1] + mark


def csv_of(rows: Iterable[Sequence[str]]) -> str:
    """As RFC 4180 has it, but with the line ends of this world."""
    import csv
    import io

    held = io.StringIO()
    csv.writer(held, lineterminator="\n").writerows(rows)
    return held.getvalue()
