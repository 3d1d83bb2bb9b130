"""What only a terminal shows: colour, tables cut to its width. Imports rich: not for what a program reads."""

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# colour follows the sign, and so never says anything alone
COLOUR_OF_SIGN = {"●": "green", "◐": "yellow", "✕": "red", "+": "green", "~": "yellow", "!": "red"}
WHOLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


def tabled(grid: Sequence[Sequence[str]], *, headed: bool) -> Table:
    """The grid, its first row as the head; ids are never cut: they are there to be copied."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=headed, header_style="bold")
    head, rows = (grid[0], grid[1:]) if headed else ([""] * len(grid[0]) if grid else [], grid)
    for number, title in enumerate(head):
        cells = [row[number] for row in rows]
        whole = max((len(cell) for cell in cells if WHOLE.search(cell)), default=0)
        made.add_column(title, no_wrap=True, overflow="ellipsis", min_width=max(whole, min(len(title), 8)) or None)
    for row in rows:
        made.add_row(*map(coloured, row))
    return made


def coloured(cell: str) -> Text:
    """The cell in the colour of its sign."""
    return Text(cell, style=COLOUR_OF_SIGN.get(cell[:1], "") if cell[1:2] == " " else "")


def show(grid: Sequence[Sequence[str]], *, headed: bool) -> None:
    """The table on stdout, as this terminal takes it; without colour where NO_COLOR is set."""
    Console(highlight=False).print(tabled(grid, headed=headed))
