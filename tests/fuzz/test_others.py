"""What others notice of an attack: how long their calls take with and without it, in pairs of one machine and one hour.

In the suite one short pair, which judges nothing but that they are answered; by `make fuzz` seven, whose median is held
to twice.
"""

import asyncio
from statistics import median, quantiles

import pytest

from tests.fuzz.amount import LONG, chance
from tests.fuzz.strangers import visits
from tests.fuzz.target import Target
from tests.fuzz.test_connections import kinds_for, somebody_else

PAIRS = 7 if LONG else 1
SECONDS = 5.0 if LONG else 0.5
A_SECOND = 100  # bad connections


async def quiet(it: Target) -> None:
    """Nothing for a while."""
    await asyncio.sleep(SECONDS)


async def attack(it: Target) -> None:
    """Bad connections to both ports, at a steady pace, so that it is not this machine that is measured."""
    random, loop = chance("others", asyncio.get_running_loop().time()), asyncio.get_running_loop()
    end, number = loop.time() + SECONDS, 0
    async with asyncio.TaskGroup() as group:
        while loop.time() < end:
            http = number % 2 == 1
            kinds = kinds_for(it, "http" if http else "grpc")
            name = random.choice(list(kinds))
            group.create_task(visits(it.port(http=http), {name: kinds[name]}, 1, random))
            number += 1
            await asyncio.sleep(1 / A_SECOND)


@pytest.mark.timeout(1200)
async def test_others_wait_no_longer_than_twice_while_strangers_attack(
    it: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = []
    for number in range(PAIRS):
        took = []
        for part in (quiet, attack) if number % 2 else (attack, quiet):
            async with somebody_else(it) as times:
                await part(it)
            took.append((part, quantiles(times, n=100)[98]))
        late = dict(took)
        ratios.append(late[attack] / late[quiet])
        if LONG:
            with capsys.disabled():
                print(f"\np99 {late[quiet] * 1000:.1f} ms alone, {late[attack] * 1000:.1f} ms beside", end=" ")
    it.check()
    if LONG:
        assert median(ratios) <= 2, ratios
