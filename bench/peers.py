"""Against etcd, and Redis and ZooKeeper, side by side, in paired rounds; then a line for each bar.

    .venv/bin/python -m bench.peers [--rounds 5] [--transport grpcio] [--only operations --only kills ...]

The rounds take turns (ours, etcd, ours, etcd ...), and the medians are told, and that of the ratios.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from bench import footprint, idle, kills, operations, others, overload, samples, watching
from bench.arena import Arena, arena
from bench.load import compiled
from bench.scene import machine
from manager.embedded import start

SCENARIOS: dict[str, Callable[[Arena, int], Awaitable[list[str]]]] = {
    "operations": operations.judged,
    "others": others.judged,
    "idle": idle.judged,
    "kills": kills.judged,
    "watching": watching.judged,
    "samples": samples.judged,
    "overload": overload.judged,
    "footprint": footprint.judged,
}


async def main() -> None:
    """Those that are asked for, each in an arena of its own; the judgements in the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="may be given more than once")
    parser.add_argument("--transport", default="native", choices=("native", "grpcio"))
    asked = parser.parse_args()
    compiled()
    names = asked.only or list(SCENARIOS)
    if "others" in names:
        others.installed()
    lines: list[str] = []
    for name in names:
        with start(None, ephemeral=True) as postgres:
            print(f"\n{name}, by {asked.transport}: {machine(postgres)}", flush=True)
            async with arena(postgres, asked.transport) as standing:
                lines += await SCENARIOS[name](standing, asked.rounds)
    print("", *lines, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
