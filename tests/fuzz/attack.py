"""`python -m tests.fuzz.attack SECONDS A_SECOND GRPC HTTP TRANSPORT [CA]`: bad connections to both ports, at one pace.

A process of its own, so that it is the manager that is measured beside it, and not the one who measures.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from manager.settings import Transport
from tests.fuzz.amount import chance
from tests.fuzz.crowd import crowd
from tests.fuzz.judge import Judge
from tests.fuzz.strangers import Stranger, visits


async def attack(seconds: float, a_second: float, crowds: Mapping[int, Mapping[str, Stranger]]) -> None:
    """For so long; to the ports in turns. Afterwards what was answered is judged: it is not to be in the way of those
    who are measured. What the manager must keep to itself only the test knows that began this."""
    random, loop = chance("attack"), asyncio.get_running_loop()
    visiting = []
    end, number = loop.time() + seconds, 0
    async with asyncio.TaskGroup() as group:
        while loop.time() < end:
            port = list(crowds)[number % len(crowds)]
            name = random.choice(list(crowds[port]))
            visiting.append(group.create_task(visits(port, {name: crowds[port][name]}, 1, random)))
            number += 1
            await asyncio.sleep(1 / a_second)
    judge = Judge()
    for each in visiting:
        for name, heard in each.result():
            judge.connection(name, heard)
    assert judge.texts, "nobody was told anything"


if __name__ == "__main__":
    os.nice(10)
    lasting, pace, grpc, http, transport, *ca = sys.argv[1:]
    ports = {int(grpc): "grpc", int(http): "http"}
    crowds = {each: crowd(side, Transport(transport), Path(*ca) if ca else None) for each, side in ports.items()}
    asyncio.run(attack(float(lasting), float(pace), crowds))
