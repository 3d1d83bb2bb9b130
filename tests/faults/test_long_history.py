"""Many operations at full speed, while managers are killed and connections torn: every answer has its moment.

Without proxies and without waiting for a disk. A few thousand operations in the suite; IM_OPERATIONS=1000000 by
`make faults`, in rounds on a fresh database each.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest
from grpc import aio

from tests.conftest import Database
from tests.faults import invariants, linear, replay
from tests.faults.managers import Manager
from tests.faults.postgres import migrated, started, terminate_backends
from tests.faults.record import Client, Ledger, Operation, Recorder
from tests.faults.server import Server
from tests.faults.world import LOCAL, drawn
from tests.stream.plain import facts

OPERATIONS = int(os.environ.get("IM_OPERATIONS", "3000"))
A_ROUND = 20_000
CLIENTS = 24
SEED = int(os.environ.get("IM_FAULT_SEED", random.randrange(10**6) if OPERATIONS > A_ROUND else 2611))


class Unwritten(Ledger):
    """Nothing on disk: the process that keeps the operations is not the one that is killed."""

    async def write(self, operation: Operation) -> None:
        """Nothing to wait for."""


async def work(number: int, managers: list[Manager], recorder: Recorder, ids: list[str], upto: int) -> None:
    """One client, until all together have made so many calls; at another manager after each unanswered one."""
    chance = random.Random(f"{SEED} {number}")
    while len(recorder.operations) < upto:
        async with aio.insecure_channel(chance.choice(managers).address, LOCAL) as channel:
            client, answered = Client(number, channel, recorder), True
            while answered and len(recorder.operations) < upto:
                operation = await client.ask(drawn(chance, ids))
                answered = operation.returned is not None
            await asyncio.sleep(0.05)


async def breaking(server: Server, managers: list[Manager], chance: random.Random) -> None:
    """For ever: a manager is killed, or backends are."""
    while True:
        await asyncio.sleep(chance.uniform(1, 3))
        if chance.random() < 0.5:
            one = chance.choice(managers)
            await one.kill()
            await one.start()
        else:
            await terminate_backends(server, rate=10, seconds=1, seed=chance.randrange(1000))


async def round_of(operations: int, folder: Path, seed: int) -> tuple[list[Operation], list[str]]:
    """What was asked in one round, and all that was wrong with it."""
    chance, recorder, ids = random.Random(seed), Recorder(Unwritten(folder / "ledger")), list[str]()
    async with started(settings={"fsync": "off"}) as server:
        database = await migrated(server)
        managers = [Manager(database.url) for _ in range(2)]
        try:
            for each in managers:
                await each.start()
            faults = asyncio.create_task(breaking(server, managers, chance))
            await asyncio.gather(*(work(number, managers, recorder, ids, operations) for number in range(CLIENTS)))
            faults.cancel()
            await asyncio.wait([faults])
            if not faults.cancelled():
                await faults
            return recorder.operations, await judged(recorder, database)
        finally:
            recorder.ledger.close()
            for each in managers:
                await each.kill()
                each.log.close()


async def judged(recorder: Recorder, database: Database) -> list[str]:
    """All that was wrong."""
    history = await facts(database)
    return [
        *recorder.faults,
        *await invariants.violations(database),
        *replay.violations(recorder.operations, history),
        *linear.violations(recorder.operations, history),
    ]


@pytest.mark.timeout(90 + OPERATIONS / 100)
async def test_every_answer_was_true_at_a_moment_of_its_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = answered = 0
    while done < OPERATIONS:
        operations, found = await round_of(min(A_ROUND, OPERATIONS - done), tmp_path, SEED + done)
        assert not found, f"IM_FAULT_SEED={SEED}, after {done}:\n" + "\n".join(found[:20])
        done += len(operations)
        answered += sum(each.returned is not None for each in operations)
        if OPERATIONS > A_ROUND:
            with capsys.disabled():
                print(f"\n{done} operations, {answered} of them answered", end=" ", flush=True)
    assert answered > 0.8 * done
