"""What others notice of an attack: how long their calls take with and without it, in pairs of one machine and one hour.

In the suite one short pair, which judges nothing but that they are answered; by `make fuzz` seven, whose median is held
to twice.
"""

import asyncio
import sys
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.fuzz.amount import LONG
from tests.fuzz.target import Target
from tests.fuzz.test_connections import somebody_else

ROOT = Path(__file__).parents[2]
PAIRS = 7 if LONG else 1
SECONDS = 5.0 if LONG else 0.5
A_SECOND = 20  # bad connections
STARTS = 1.5  # seconds that the other process takes to begin


async def quiet(it: Target) -> None:
    """Nothing for a while."""
    await asyncio.sleep(SECONDS)


async def attack(it: Target) -> None:
    """Bad connections to both ports."""
    ports = (str(it.port(http=each)) for each in (False, True))
    lasting, pace = str(SECONDS + STARTS), str(A_SECOND)
    where = (*ports, it.transport, *([str(it.ca)] if it.ca else []))
    command = (sys.executable, "-m", "tests.fuzz.attack", lasting, pace, *where)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


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
