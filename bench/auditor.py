"""`python -m bench.auditor`: what a heavy question to the record costs those who are served.

The auditor's process stands back as that of `imctl dev` does: by its niceness, and held to a tenth of a core where the
system lets us, which is said.

Rounds take turns: by itself, beside an auditor who asks a question that reads everything over and over, as the role
im_auditor, and beside a process that stands back as much, and only counts and knows of no database. In each, health
checks and registrations go on at a fixed rate; compared is the p99 of either with that of the round by itself before,
and a latency counts from when its call was due. The bar is a median ratio of 1.25. The client, the manager, the
database and the auditor are processes of one machine; what a process that only counts costs, the third kind tells.
"""

import asyncio
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from statistics import median

import asyncpg

from bench.arena import FLEET, TRY, VERSION, chunks
from bench.load import Loaded, load
from bench.operations import TRUE, described, newcomers
from bench.scene import NAME, SERVE, machine, prepared
from manager.embedded import start
from manager.embedded.niceness import NICE, Allowance, stand_back
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.processes import started

INSTANCES = 2_000
CHECKS, ADDS = 200, 40  # a second
BAR = 1.25
SIDES = ("checks", "registrations")
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


Back = Callable[[int], None]


@asynccontextmanager
async def asking(url: str, back: Back) -> AsyncIterator[None]:
    """Beside an auditor, whose process stands back; what is cut off by the timeout is asked anew."""

    async def ask() -> None:
        while True:
            with suppress(asyncpg.QueryCanceledError):
                await connection.fetch(HEAVY)

    connection = await asyncpg.connect(url)
    back(connection.get_server_pid())
    asked = asyncio.create_task(ask())
    try:
        await asyncio.sleep(0.5)
        yield
        if asked.done():
            raise RuntimeError("the auditor asks no more") from asked.exception()
    finally:
        asked.cancel()
        connection.terminate()


@asynccontextmanager
async def counting(back: Back) -> AsyncIterator[None]:
    """Beside a process that takes a core and asks nobody anything."""
    # a session of its own, as each process of PostgreSQL's is
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass", start_new_session=True)
    try:
        back(process.pid)
        await asyncio.sleep(0.5)
        yield
    finally:
        process.kill()
        await process.wait()


async def measured(url: str, auditor: str, back: Back, chosen: Namespace) -> Mapping[str, list[tuple[float, ...]]]:
    """The ratios of each kind of round to the one by itself before it: of health checks, and of registrations."""
    ratios: dict[str, list[tuple[float, ...]]] = {"audit": [], "counting": []}
    async with started(*SERVE, "--transport", chosen.transport, DATABASE_URL=url) as manager:
        ids = [str(new_id()) for _ in range(INSTANCES)]
        batches = [fleet.AddInstancesRequest(instances=each) for each in chunks(described(ids))]
        await load(manager.address, f"{FLEET}/AddInstances", [each.SerializeToString() for each in batches], **VERSION)
        await round_of(manager.address, ids, 5)
        for _ in range(chosen.rounds):
            alone = await round_of(manager.address, ids, chosen.seconds)
            for kind, company in (("audit", asking(auditor, back)), ("counting", counting(back))):
                async with company:
                    beside = await round_of(manager.address, ids, chosen.seconds)
                for name, before, after in zip(SIDES, alone, beside, strict=True):
                    said = ", ".join(f"{each} {before.ms[each]:.2f} {after.ms[each]:.2f}" for each in ("p50", "p99"))
                    print(f"{kind} {name}: {said} ms", flush=True)
                pairs = zip(alone, beside, strict=True)
                ratios[kind].append(tuple(after.ms["p99"] / before.ms["p99"] for before, after in pairs))
    return ratios


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--nice", type=int, default=NICE, help="how far the auditor's process stands back, up to 19")
    parser.add_argument("--held", action=BooleanOptionalAction, default=True, help="to a tenth of a core")
    parser.add_argument("--transport", default="native", choices=("grpcio", "native"))
    chosen = parser.parse_args()
    with start(ephemeral=True) as postgres:
        url = asyncio.run(prepared(postgres))
        asyncio.run(postgres.grant_login("im_auditor"))
        with closing(Allowance(f"{postgres.name}-im_auditor")) as allowance:

            def back(pid: int) -> None:
                if chosen.nice:
                    stand_back(pid, chosen.nice)
                if chosen.held:
                    allowance.hold(pid)

            held = "a tenth of a core" if chosen.held and allowance.holds else "no bound"
            print(f"by {chosen.transport}, niceness {chosen.nice}, {held}: {machine(postgres)}")
            ratios = asyncio.run(measured(url, postgres.url("im_auditor", NAME), back, chosen))
    for kind, rounds in ratios.items():
        for name, each in zip(SIDES, zip(*rounds, strict=True), strict=True):
            ratio = median(each)
            judged = f" {BAR} {'ok' if ratio <= BAR else 'short'}" if kind == "audit" else ""
            print(f"{kind}_{name}_p99_ratio {ratio:.2f}{judged}")


if __name__ == "__main__":
    main()
