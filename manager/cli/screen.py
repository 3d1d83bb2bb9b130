"""What only a terminal shows: colour, tables cut to its width. Imports rich: not for what a program reads."""

from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from manager.cli.say import say
from manager.cli.table import fitted

# colour follows the sign, and so never says anything alone
COLOUR_OF_SIGN = {"●": "green", "◐": "yellow", "✕": "red", "+": "green", "~": "yellow", "!": "red"}


def lines(grid: Sequence[Sequence[str]], *, headed: bool) -> list[Text]:
    """A line a row, the columns below each other; the first row bold where it is the head."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    made = []
    for number, row in enumerate(grid):
        line = Text("  ").join(coloured(cell, width) for cell, width in zip(row, widths, strict=True))
        line.stylize("bold" if headed and number == 0 else "")
        line.rstrip()
        made.append(line)
    return made


def coloured(cell: str, width: int) -> Text:
    """The cell in the colour of its sign."""
    return Text(cell.ljust(width), style=COLOUR_OF_SIGN.get(cell[:1], "") if cell[1:2] == " " else "")


def show(grid: Sequence[Sequence[str]], *, headed: bool, whole: bool, quiet: bool) -> None:
    """The table on stdout, as this terminal takes it; without colour where NO_COLOR is set.

    Cut to the width unless it is to be `whole`; what had to go is named.
    """
    console = Console(highlight=False)
    rows, gone = (grid, []) if whole else fitted(grid, console.width)
    for line in lines(rows, headed=headed):
        console.print(line, soft_wrap=True)
    if gone and headed and not quiet:
        say(f"there was no room for {', '.join(gone)}", "-o wide shows them, or name what to show with --columns")


class Redrawing:
    """A table on the terminal's other screen, in the place of the one before it; what does not fit is cut off."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def show(self, title: str, grid: Sequence[Sequence[str]], *, headed: bool) -> None:
        """The next picture."""
        rows, _ = fitted(grid, self._console.width)
        self._live.update(Group(Text(title), "", *lines(rows, headed=headed)), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
