"""Servers that break one promise each: the same rounds and checkers as for ours see every one of them."""

import asyncio
from pathlib import Path

import pytest

from manager.pb import instance_manager_pb2 as pb
from tests.faults.world import World, hung_up, world_of
from tests.stream.reader import Story, Taken

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


def torn(story: Story) -> None:
    """As if its connection had been lost within a change: what came later was never taken."""
    while not (
        isinstance(last := story.entries[-1], Taken)
        and last.update.event_type < pb.SYNCED
        and not last.update.end_of_revision
    ):
        story.entries.pop()
    hung_up(story)


async def found(mutant: str, folder: Path) -> list[str]:
    """What is wrong with a server and what it told; with ours where no mutant is named."""
    through = (mutant,) if mutant else ()
    async with asyncio.timeout(LONGEST), world_of(folder, 7, through=(through, through)) as world:
        await provoked(world, mutant)
        await world.rest()
        torn(world.stories[0])
        return await world.judged()


@pytest.mark.timeout(LONGEST + 30)
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_broken_server_is_caught(mutant: str, tmp_path: Path) -> None:
    assert await found(mutant, tmp_path), "nobody noticed"


@pytest.mark.timeout(LONGEST + 30)
async def test_and_ours_is_not(tmp_path: Path) -> None:
    assert await found("", tmp_path) == []
