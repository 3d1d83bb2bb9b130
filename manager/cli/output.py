"""What every verb that answers shares: its options, and its answer on stdout in the format that was asked for."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Generic, TypeVar

import typer

from manager.cli import table
from manager.cli.codes import Exit
from manager.cli.encoding import unicode
from manager.cli.table import Column, Sheet

T = TypeVar("T")


class Format(StrEnum):
    """How an answer is written. `table` and `wide` are for people and may change; the others are for programs."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    CSV = "csv"


DRAWN = (Format.TABLE, Format.WIDE)


@dataclass(frozen=True, slots=True)
class Shown:
    """The options of the answer."""

    output: Annotated[
        Format, typer.Option("--output", "-o", help="How to write the answer.", metavar="|".join(Format))
    ] = Format.TABLE
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Without the line of names.")] = False
    columns: Annotated[
        str, typer.Option("--columns", help="Only these, with commas between: table, wide, csv.", metavar="NAMES")
    ] = ""
    sort_by: Annotated[
        str, typer.Option("--sort-by", help="The column to sort by; --sort-by=-NAME: the largest first.")
    ] = ""
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr as long as all is well.")] = False

    def of(self, sheet: Sheet[T]) -> "Printer[T]":
        """What writes things of this kind. Raises BadParameter for columns that it does not have."""
        return Printer(self, sheet)


class Printer(Generic[T]):
    """Writes things of one kind to stdout. Made before any call, so that a misspelt column costs nothing."""

    def __init__(self, shown: Shown, sheet: Sheet[T]) -> None:
        self.shown = shown
        self.format = shown.output
        self._sheet = sheet
        self._columns = chosen(shown, sheet)
        self._order = ordering(shown, sheet)
        self._begun = False

    def sorted(self, rows: Iterable[T]) -> list[T]:
        """The rows in the order that was asked for; as they came without a wish."""
        return list(rows) if self._order is None else table.ordered(rows, *self._order)

    @property
    def headed(self) -> bool:
        """Whether a table has its line of names."""
        return not self.shown.no_headers

    def unsorted(self) -> None:
        """Raises BadParameter where an order was asked for that an endless list cannot have."""
        if self._order is not None:
            raise typer.BadParameter("what has no end has no order to be sorted by", param_hint="--sort-by")

    def many(self, rows: Iterable[T], *, arranged: bool = False) -> None:
        """A list: all at once, sorted as was asked unless it is arranged already."""
        listed = list(rows) if arranged else self.sorted(rows)
        if self.format is Format.JSON:
            write(json_of([self._sheet.document(each) for each in listed]) + "\n")
        elif self.format is Format.YAML:
            write(yaml_of([self._sheet.document(each) for each in listed]))
        else:
            self._lines(listed)

    def one(self, row: T) -> None:
        """One thing: by itself in json and yaml, and a column a line in a table."""
        if self.format is Format.JSON:
            write(json_of(self._sheet.document(row)) + "\n")
        elif self.format is Format.YAML:
            write(yaml_of(self._sheet.document(row)))
        elif self.format in DRAWN:
            lines = [(column.title, column.words(row)) for column in self._columns]
            if self.format is Format.TABLE and not self.shown.columns:
                lines = [line for line in lines if line[1] != table.NOTHING]
            self._draw([line[1:] for line in lines] if self.shown.no_headers else lines, headed=False)
        else:
            self._lines([row])

    def next(self, row: T) -> None:
        """One more of an endless list: a line, or a document of yaml, that is out at once."""
        if self.format is Format.JSON:
            write(json_of(self._sheet.document(row), indent=None) + "\n")
        elif self.format is Format.YAML:
            write("---\n" + yaml_of(self._sheet.document(row)))
        elif self.format is Format.CSV:
            self._csv([row], headed=not self._begun)
        elif self.format is Format.NAME:
            write(self._sheet.name(row) + "\n")
        else:
            cells = [column.words(row).ljust(column.width) for column in self._columns]
            head = [column.title.ljust(column.width) for column in self._columns]
            lines = [cells] if self._begun or self.shown.no_headers else [head, cells]
            write("".join("  ".join(line).rstrip() + "\n" for line in lines))
        self._begun = True

    def _lines(self, rows: Sequence[T]) -> None:
        if self.format is Format.NAME:
            write("".join(self._sheet.name(each) + "\n" for each in rows))
        elif self.format is Format.CSV:
            self._csv(rows, headed=True)
        else:
            self._draw(self.grid(rows), headed=self.headed)

    def grid(self, rows: Sequence[T]) -> list[tuple[str, ...]]:
        """What a table of these rows shows, its head first where it has one."""
        head = [] if self.shown.no_headers else [tuple(column.title for column in self._columns)]
        return [*head, *(tuple(column.words(row) for column in self._columns) for row in rows)]

    def _draw(self, grid: Sequence[Sequence[str]], *, headed: bool) -> None:
        """A table: coloured and cut to the width on a terminal, in full otherwise."""
        if sys.stdout.isatty() and grid:
            from manager.cli.screen import show

            # what describes one thing is as wide as its longest word, and what was asked for by name is wanted
            whole = not headed or self.format is Format.WIDE or bool(self.shown.columns)
            show(grid, headed=headed, whole=whole, quiet=self.shown.quiet)
        else:
            write("".join(line + "\n" for line in table.aligned(grid)))

    def _csv(self, rows: Sequence[T], *, headed: bool) -> None:
        head = [] if self.shown.no_headers or not headed else [[column.name for column in self._columns]]
        write(table.csv_of([*head, *([table.plain(column.value(row)) for column in self._columns] for row in rows)]))


def chosen(shown: Shown, sheet: Sheet[T]) -> tuple[Column[T], ...]:
    """The columns that are shown: those named, else all in wide and csv, else the narrow ones."""
    if not shown.columns:
        everything = shown.output in (Format.WIDE, Format.CSV)
        return tuple(each for each in sheet.columns if everything or not each.wide)
    if shown.output not in (*DRAWN, Format.CSV):
        raise typer.BadParameter(
            f"-o {shown.output} has no columns: leave it out, or take table, wide or csv", param_hint="--columns"
        )
    return tuple(named(each.strip(), sheet, "--columns") for each in shown.columns.split(","))


def ordering(shown: Shown, sheet: Sheet[T]) -> tuple[Column[T], bool] | None:
    """The column to sort by, and whether the largest comes first."""
    if not shown.sort_by:
        return None
    return named(shown.sort_by.removeprefix("-"), sheet, "--sort-by"), shown.sort_by.startswith("-")


def named(name: str, sheet: Sheet[T], option: str) -> Column[T]:
    """The column of this name, in whatever case."""
    found = next((each for each in sheet.columns if each.name == name.lower().replace(" ", "_")), None)
    if found is None:
        names = ", ".join(each.name for each in sheet.columns)
        raise typer.BadParameter(f"there is no column {name!r}, but {names}", param_hint=option)
    return found


def write(text: str) -> None:
    """Data, to stdout, at once. Ends quietly when nobody reads on, as `head` does, with the code of SIGPIPE."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still held must go somewhere
        raise typer.Exit(Exit.BROKEN_PIPE) from None


def json_of(document: object, indent: int | None = 2) -> str:
    """As JSON, readable by people too."""
    import json

    return json.dumps(document, indent=indent, ensure_ascii=not unicode())


def yaml_of(document: object) -> str:
    """As YAML, with the keys in their order."""
    import yaml

    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=unicode()))
