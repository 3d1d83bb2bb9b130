"""Rounds of faults: nothing that was acknowledged is lost, nobody who lives expires, and soon all is well again.

The suite runs a few kinds, another choice by each seed; `make faults` runs every kind, IM_FAULT_ROUNDS times. A
failure names its seed (IM_FAULT_SEED) and keeps its history.
"""

import asyncio
import os
import random
import shutil
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.faults.kinds import FAULTS
from tests.faults.server import Missing
from tests.faults.world import World, world_of

ROUNDS = int(os.environ.get("IM_FAULT_ROUNDS", "0"))
# new ones are tried where that is asked for; the suite is the same every time
SEED = int(os.environ.get("IM_FAULT_SEED", random.randrange(10**6) if ROUNDS else 2611))
FEW = 6
WARM_UP = 1.0

CHOSEN = (
    [(name, SEED + number) for number in range(ROUNDS) for name in FAULTS]
    if ROUNDS
    else [(name, SEED) for name in random.Random(SEED).sample(sorted(FAULTS), FEW)]
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "seed"), CHOSEN)
async def test_a_fault_costs_nothing_that_was_promised(
    name: str, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = FAULTS[name]
    async with AsyncExitStack() as stack:
        try:
            ground = stack.enter_context(fault.ground())
            world = await stack.enter_async_context(
                world_of(tmp_path, seed, through=(fault.through, ()), ground=ground)
            )
            stack.push(partial(_keep, world, name))
            await asyncio.sleep(WARM_UP)
            await fault.breaks(world)
        except Missing as missing:
            pytest.skip(str(missing))
        took = await world.lively(fault.within)
        await asyncio.sleep(WARM_UP)
        await world.rest()
        found = await world.judged(clocks=fault.clocks)
        assert not found, "\n".join(found[:20])
    with capsys.disabled():
        if ROUNDS:
            print(f"\n{name}: {len(world.recorder.operations)} operations, well again after {took:.1f} s", end=" ")


def _keep(world: World, name: str, _kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
    """Keeps the history of a round that failed."""
    if isinstance(error, Exception):
        kept = Path(tempfile.mkdtemp(prefix="im-fault-"))
        world.recorder.save(kept / "operations.jsonl")
        shutil.copy(world.recorder.ledger.path, kept / "ledger")
        for number, each in enumerate(world.managers):
            (kept / f"manager-{number}.log").write_text(each.said())
        (kept / "why").write_text(f"{name}, seed {world.seed}: {error!r}\n")
        error.add_note(f"{name}, IM_FAULT_SEED={world.seed}, kept in {kept}")
