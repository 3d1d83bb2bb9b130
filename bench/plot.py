"""Draws what the benchmarks printed.

.venv/bin/python -m bench.plot bars OUTPUT.svg < what `make bench` printed
.venv/bin/python -m bench.plot ratios OUTPUT.svg < the same, or bench/RESULTS.md
.venv/bin/python -m bench.plot soak OUTPUT.svg < what `make soak` printed
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pygal
from pygal.style import CleanStyle

JUDGED = re.compile(r"^(\S+) (\S+) (\S+) (ok|short)$", re.MULTILINE)
COMPARED = re.compile(r"^\| work \| ours \|(.+)\|\n\|[-|]+\n((?:\|.+\n)+)", re.MULTILINE)
STYLE = CleanStyle(font_family="sans-serif", label_font_size=11, major_label_font_size=11, legend_font_size=12)


def horizontal(title: str, values: Sequence[float], lines: int, **more: object) -> pygal.HorizontalBar:
    """Bars for ratios, so many lines of them."""
    return pygal.HorizontalBar(
        style=STYLE,
        js=(),
        title=title,
        legend_at_bottom=True,
        logarithmic=True,
        zero=min(values) / 2,
        truncate_label=-1,
        height=120 + 26 * lines,
        **more,
    )


def bars(text: str) -> pygal.Graph:
    """How many times as good as its bar each value is, whether that is a ceiling or a floor."""
    found = [(name, float(value) / float(limit), how == "ok") for name, value, limit, how in JUDGED.findall(text)]
    good = [max(ratio, 1 / ratio) if ok else min(ratio, 1 / ratio) for _, ratio, ok in found]
    chart = horizontal("times as good as its bar", good, len(found), range=(min(good) / 2, max(*good, 1.1)))
    chart.x_labels = [name for name, _, _ in reversed(found)]
    for title, wanted in (("reached", True), ("short", False)):
        pairs = zip(found, good, strict=True)
        chart.add(title, [round(value, 3) if ok is wanted else None for (_, _, ok), value in pairs][::-1])
    return chart


def ratios(text: str) -> pygal.Graph:
    """How much of each peer's CPU ours takes for the same work, from the last table of them."""
    peers, body = COMPARED.findall(text)[-1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]
    found = [[re.search(r"\((.+)\)", cell) for cell in row[2:]] for row in rows]
    values = [[float(each[1]) if each else None for each in row] for row in found]
    known = [value for row in values for value in row if value]
    chart = horizontal("CPU, ours / the peer's, for the same work", known, sum(map(len, values)))
    chart.x_labels = [row[0] for row in reversed(rows)]
    marks = (first * 10.0**power for power in range(-3, 4) for first in (1, 2, 5))
    chart.y_labels = [mark for mark in marks if min(known) / 2 <= mark <= max(known)]
    for peer, column in zip(peers.split("|"), zip(*values, strict=True), strict=True):
        chart.add(peer.strip(), column[::-1])
    return chart


def soak(text: str) -> pygal.Graph:
    """The p99 of each minute."""
    minutes = [json.loads(line) for line in text.splitlines() if line.startswith('{"number"')]
    chart = pygal.Line(
        style=STYLE,
        js=(),
        title="p99 of each minute, ms",
        x_title="minute",
        legend_at_bottom=True,
        logarithmic=True,
        dots_size=1,
        x_labels_major_every=10,
        show_minor_x_labels=False,
        truncate_label=-1,
    )
    chart.x_labels = [str(each["number"]) for each in minutes]
    for name, field in (("health checks", "check_p99"), ("changes", "change_p99"), ("deliveries", "delivery_p99")):
        chart.add(name, [each[field] for each in minutes])
    return chart


DRAWN: dict[str, Callable[[str], pygal.Graph]] = {"bars": bars, "ratios": ratios, "soak": soak}


def main(arguments: Sequence[str]) -> None:
    """What the arguments name."""
    if len(arguments) != 2 or arguments[0] not in DRAWN:
        sys.exit(f"usage: python -m bench.plot {'|'.join(DRAWN)} OUTPUT.svg < what was printed")
    kind, output = arguments
    Path(output).write_bytes(DRAWN[kind](sys.stdin.read()).render())


if __name__ == "__main__":
    main(sys.argv[1:])
