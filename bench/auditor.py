"""`python -m bench.auditor`: what a heavy question to the record costs those who are served.

Rounds take turns, with and without an auditor who asks a question that reads everything over and over, as the role
im_auditor. In each, health checks and registrations go on at a fixed rate; compared is the p99 of either, each round
with the one before it, and a latency counts from when its call was due. The bar is a median ratio of 1.25. The client,
the manager, the database and the auditor are processes of one machine, of which the auditor takes a core.
"""

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from statistics import median

import asyncpg

from bench.arena import FLEET, TRY, VERSION, chunks
from bench.load import Loaded, load
from bench.operations import TRUE, described, newcomers
from bench.scene import NAME, SERVE, machine, prepared
from manager.embedded import start
from manager.embedded.niceness import NICE, stand_back
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.processes import started

INSTANCES = 2_000
CHECKS, ADDS = 200, 40  # a second
BAR = 1.25
HEAVY = """
select count(*), max(length(e.before::text)), sum(length(e.after::text))
from events e join instances i on i.id = e.instance_id cross join generate_series(1, 200)
"""


async def round_of(address: str, ids: Sequence[str], seconds: int) -> tuple[Loaded, Loaded]:
    """Health checks, and registrations."""
    checks = [pb.InstanceRequest(instance_id=ids[each % len(ids)]) for each in range(CHECKS * seconds)]
    sides = (("TryHealthCheck", CHECKS, checks), ("TryAddInstance", ADDS, newcomers(ADDS * seconds)))
    done = await asyncio.gather(
        *(
            load(
                address,
                f"{TRY}/{name}",
                [each.SerializeToString() for each in messages],
                **VERSION,
                rate=rate,
                connections=4,
                streams=16,
                expect=TRUE,
            )
            for name, rate, messages in sides
        )
    )
    for each in done:
        if each.ok != each.sent or each.unanswered:
            raise RuntimeError(f"{each.sent - each.ok} of {each.sent} calls failed: {dict(each.failures)}")
    return done[0], done[1]


@asynccontextmanager
async def asking(url: str, niceness: int) -> AsyncIterator[None]:
    """Beside an auditor, who is served by a process of that niceness; what is cut off by the timeout is asked anew."""

    async def ask() -> None:
        while True:
            with suppress(asyncpg.QueryCanceledError):
                await connection.fetch(HEAVY)

    connection = await asyncpg.connect(url)
    if niceness:
        stand_back(connection.get_server_pid(), niceness)
    asked = asyncio.create_task(ask())
    try:
        await asyncio.sleep(0.5)
        yield
        if asked.done():
            raise RuntimeError("the auditor asks no more") from asked.exception()
    finally:
        asked.cancel()
        connection.terminate()


async def measured(url: str, auditor: str, chosen: Namespace) -> list[tuple[float, float]]:
    """The ratios of each pair of rounds: of health checks, and of registrations."""
    ratios = []
    async with started(*SERVE, "--transport", chosen.transport, DATABASE_URL=url) as manager:
        ids = [str(new_id()) for _ in range(INSTANCES)]
        batches = [fleet.AddInstancesRequest(instances=each) for each in chunks(described(ids))]
        await load(manager.address, f"{FLEET}/AddInstances", [each.SerializeToString() for each in batches], **VERSION)
        await round_of(manager.address, ids, 5)
        for _ in range(chosen.rounds):
            alone = await round_of(manager.address, ids, chosen.seconds)
            async with asking(auditor, chosen.nice):
                beside = await round_of(manager.address, ids, chosen.seconds)
            for name, before, after in zip(("checks", "registrations"), alone, beside, strict=True):
                said = ", ".join(f"{each} {before.ms[each]:.2f} {after.ms[each]:.2f}" for each in ("p50", "p99"))
                print(f"{name}: {said} ms", flush=True)
            ratios.append((beside[0].ms["p99"] / alone[0].ms["p99"], beside[1].ms["p99"] / alone[1].ms["p99"]))
    return ratios


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--nice", type=int, default=NICE, help="how far the auditor's process stands back, up to 19")
    parser.add_argument("--transport", default="native", choices=("grpcio", "native"))
    chosen = parser.parse_args()
    with start(ephemeral=True) as postgres:
        url = asyncio.run(prepared(postgres))
        asyncio.run(postgres.grant_login("im_auditor"))
        print(f"by {chosen.transport}, niceness {chosen.nice}: {machine(postgres)}")
        ratios = asyncio.run(measured(url, postgres.url("im_auditor", NAME), chosen))
    for name, each in zip(("checks", "registrations"), zip(*ratios, strict=True), strict=True):
        ratio = median(each)
        print(f"audit_{name}_p99_ratio {ratio:.2f} {BAR} {'ok' if ratio <= BAR else 'short'}")


if __name__ == "__main__":
    main()
