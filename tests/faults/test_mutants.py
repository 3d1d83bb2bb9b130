"""Servers that break one promise each: the same rounds and checkers as for ours see every one of them."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.world import World, world_of

MUTANTS = ("sequence", "reply_before_commit", "skipped_lock", "local_clock", "resume_off_by_one", "split_revision")
LONGEST = 60.0


async def provoked(world: World, mutant: str) -> None:
    """Traffic, and what brings this one's fault to light."""
    if mutant == "reply_before_commit":
        await asyncio.sleep(2)
        for each in world.managers:
            await each.kill()
        for number in range(len(world.managers)):
            await world.restart(number)
    await asyncio.sleep(4)


@pytest.mark.timeout(LONGEST + 30)
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_broken_server_is_caught(mutant: str, tmp_path: Path) -> None:
    async with asyncio.timeout(LONGEST), world_of(tmp_path, 7, through=((mutant,), (mutant,))) as world:
        world.ids += [each.id for each in world.faithful[:2]]
        world.recorder.operations.clear()
        await provoked(world, mutant)
        await world.rest()
        assert await world.judged(), "nobody noticed"
