"""Draws what the benchmarks printed.

.venv/bin/python -m bench.plot bars OUTPUT.svg < what `make bench` printed
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
STYLE = CleanStyle(font_family="sans-serif", label_font_size=11, major_label_font_size=11, legend_font_size=12)


def bars(text: str) -> pygal.Graph:
    """How many times as good as its bar each value is, whether that is a ceiling or a floor."""
    found = [(name, float(value) / float(limit), how == "ok") for name, value, limit, how in JUDGED.findall(text)]
    good = [max(ratio, 1 / ratio) if ok else min(ratio, 1 / ratio) for _, ratio, ok in found]
    chart = pygal.HorizontalBar(
        style=STYLE,
        js=(),
        title="times as good as its bar",
        legend_at_bottom=True,
        logarithmic=True,
        zero=min(good) / 2,
        range=(min(good) / 2, max(*good, 1.1)),
        truncate_label=-1,
        height=120 + 26 * len(found),
    )
    chart.x_labels = [name for name, _, _ in reversed(found)]
    for title, wanted in (("reached", True), ("short", False)):
        pairs = zip(found, good, strict=True)
        chart.add(title, [round(value, 3) if ok is wanted else None for (_, _, ok), value in pairs][::-1])
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


DRAWN: dict[str, Callable[[str], pygal.Graph]] = {"bars": bars, "soak": soak}


def main(arguments: Sequence[str]) -> None:
    """What the arguments name."""
    if len(arguments) != 2 or arguments[0] not in DRAWN:
        sys.exit(f"usage: python -m bench.plot {'|'.join(DRAWN)} OUTPUT.svg < what was printed")
    kind, output = arguments
    Path(output).write_bytes(DRAWN[kind](sys.stdin.read()).render())


if __name__ == "__main__":
    main(sys.argv[1:])
