"""`python -m tests.fuzz.attack SECONDS A_SECOND GRPC HTTP KINDS...`: bad connections to both ports, at a steady pace.

A process of its own, so that it is the manager that is measured beside it, and not the one who measures.
"""

import asyncio
import os
import sys

from tests.fuzz import frames, requests
from tests.fuzz.amount import chance
from tests.fuzz.judge import Judge
from tests.fuzz.strangers import visits


async def attack(seconds: float, a_second: float, ports: tuple[int, int], kinds: list[str]) -> None:
    """For so long; in turns gRPC's port and HTTP's. Afterwards what was answered is judged: it is not to be in the way
    of those who are measured. What the manager must keep to itself only the test knows that began this."""
    random, loop = chance("attack"), asyncio.get_running_loop()
    visiting = []
    end, number = loop.time() + seconds, 0
    async with asyncio.TaskGroup() as group:
        while loop.time() < end:
            known = {name: frames.KINDS[name] for name in kinds} if number % 2 == 0 else requests.KINDS
            name = random.choice(list(known))
            visiting.append(group.create_task(visits(ports[number % 2], {name: known[name]}, 1, random)))
            number += 1
            await asyncio.sleep(1 / a_second)
    judge = Judge()
    for each in visiting:
        for name, heard in each.result():
            judge.connection(name, heard)
    assert judge.texts, "nobody was told anything"


if __name__ == "__main__":
    os.nice(10)
    lasting, pace, grpc, http, *names = sys.argv[1:]
    asyncio.run(attack(float(lasting), float(pace), (int(grpc), int(http)), names))
