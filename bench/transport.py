"""What the transports cost, each in the clear and with TLS: an empty call, and health checks that write their rows, in
rounds that take turns.

.venv/bin/python -m bench.transport [--rounds 7] [--size 10000]
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.arena import BATCH, DAY, FLEET, OPEN, UNARY, VERSION, Arena, Cost, chunks, secured
from bench.empty import PATH
from bench.etcd import Etcd
from bench.load import compiled, load
from bench.operations import Scene, batched_checks, checks
from bench.scene import SERVE, family_cpu, machine, prepared
from manager.embedded import Postgres, start
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.settings import Transport
from tests.processes import imctl, started

NOBODY = Etcd("", 0)


@dataclass(frozen=True)
class Empty:
    """A process that serves an empty method."""

    address: str
    pid: int
    tls: bool

    async def cost(self, size: int) -> Cost:
        """Of one call."""
        message = pb.InstanceRequest(instance_id=str(new_id())).SerializeToString()
        before = family_cpu(self.pid)
        done = await load(self.address, PATH, [message] * size, **VERSION, **UNARY, **secured(self.tls))
        return Cost.of(done, 1, family_cpu(self.pid) - before)


@asynccontextmanager
async def empty(transport: Transport, files: Sequence[Path]) -> AsyncIterator[Empty]:
    """Such a process, with TLS where there are a certificate and a key; it is stopped in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.empty", transport, *map(str, files), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield Empty(f"127.0.0.1:{int(await process.stdout.readline())}", process.pid, bool(files))
    finally:
        process.kill()
        await process.wait()


@dataclass(frozen=True)
class Side:
    """One transport, in the clear or with TLS: an empty server, and a manager."""

    name: str
    empty: Empty
    scene: Scene


@asynccontextmanager
async def sides(postgres: Postgres, size: int) -> AsyncIterator[list[Side]]:
    """Each transport, all on one database and about the same instances."""
    url = await prepared(postgres)
    ids = [str(new_id()) for _ in range(size)]
    async with AsyncExitStack() as stack:
        made: list[Side] = []
        folder = Path(stack.enter_context(TemporaryDirectory()))
        made_certificates = await imctl("certs", "init", str(folder / "tls"), "--host", "127.0.0.1")
        if made_certificates.code:
            raise RuntimeError(made_certificates.err)
        files = (folder / "tls" / "server.pem", folder / "tls" / "server.key")
        variables = dict(zip(("IM_TLS_CERT", "IM_TLS_KEY"), map(str, files), strict=True))
        for each in Transport:
            for tls in (False, True):
                more = OPEN | (variables if tls else {})
                serving = started(*SERVE, "--transport", each, DATABASE_URL=url, **more)
                manager = await stack.enter_async_context(serving)
                arena = Arena(postgres, url, manager.address, manager.process.pid, NOBODY, tls)
                beside = await stack.enter_async_context(empty(each, files if tls else ()))
                made.append(Side(f"{each}, TLS" if tls else str(each), beside, Scene(arena, ids)))
        await _plant(made[0].scene)
        yield made


async def _plant(scene: Scene) -> None:
    described = [
        pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER, hostname="host", timeout_ms=DAY)
        for each in scene.ids
    ]
    batches = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in chunks(described)]
    await scene.arena.ours(f"{FLEET}/AddInstances", batches, BATCH)


@dataclass(frozen=True)
class Round:
    """One transport in one round."""

    empty: Cost
    check: Cost
    batched: Cost


async def measured(side: Side, size: int) -> Round:
    """Each kind of work once."""
    return Round(await side.empty.cost(size), await checks(side.scene), await batched_checks(side.scene))


def row(side: Side, rounds: list[Round]) -> str:
    """Medians; the ratio is that of the pairs."""

    def middle(kind: str, name: str) -> float:
        return float(statistics.median(getattr(getattr(each, kind), name) for each in rounds))

    ratio = statistics.median(each.check.server / each.empty.server for each in rounds)
    spread = [each.empty.server for each in rounds]
    return (
        f"| {side.name} | {middle('empty', 'server'):.1f} ({min(spread):.1f} to {max(spread):.1f})"
        f" | {middle('empty', 'rate'):.0f} | {middle('check', 'server'):.1f} + {middle('check', 'database'):.1f}"
        f" | {middle('check', 'rate'):.0f} | {ratio:.2f}"
        f" | {middle('batched', 'server'):.2f} + {middle('batched', 'database'):.2f} |"
    )


async def main() -> None:
    """A row for each transport."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=10_000, help=f"calls a round, a multiple of {BATCH}")
    asked = parser.parse_args()
    compiled()
    with start(None, ephemeral=True) as postgres:
        print(machine(postgres))
        async with sides(postgres, asked.size) as both:
            told: dict[str, list[Round]] = {each.name: [] for each in both}
            for number in range(asked.rounds + 1):
                for side in both:
                    done = await measured(side, asked.size)
                    if number:  # the first one warms up
                        told[side.name].append(done)
    print("| transport | empty call, µs | a second | health check: manager + PostgreSQL, µs | a second", end=" ")
    print("| manager to empty | of a batch, µs |")
    print("|---|---|---|---|---|---|---|")
    for side in both:
        print(row(side, told[side.name]))


if __name__ == "__main__":
    asyncio.run(main())
