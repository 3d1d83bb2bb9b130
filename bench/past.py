"""`python -m bench.past`: the past of 30 days, on a database of its own.

10,000 instances live at any moment and each of them for a day, so that 300,000 have died; each was updated once, a
third is a child, every tenth offers a service. Random moments of the 30 days are asked for over gRPC, by revision and
by time: a page of 1,000, one host of 500, the difference between two moments an hour apart, and the whole fleet.

The bar of 100 ms is that of one call: of a page of 1,000, whose size the asker names, and of the difference of an hour,
some 830 instances, which is one page too. The whole fleet of 10,000 is ten pages, one after the other; what they take
together is told, and judged by no bar.
"""

import asyncio
import random
from argparse import ArgumentParser
from time import perf_counter
from typing import Any

import asyncpg

from bench.scene import NAME, machine, prepared, quantile
from manager.client import Client
from manager.embedded import start
from manager.pb.fleet_pb2 import DiffRequest, InstancesAtRequest
from manager.server import serve
from manager.settings import Settings

LIVING = 10_000
BAR = 100.0  # milliseconds, of a call
JUDGED = {
    "past_revision": "a page of 1,000 by revision",
    "past_time": "a page of 1,000 by time",
    "past_hour": "the difference of an hour",
}

# Instance n is born at revision 2n + 1 and updated at 2n + 2; it dies a day, and so 10,000 others, later.
FILL = """
create function pg_temp.id(n bigint) returns uuid language sql immutable return md5(n::text)::uuid;
create function pg_temp.at(r bigint) returns timestamptz language sql stable return
    date_trunc('hour', now()) - interval '30 days' + r * interval '1 day' / (2 * $living);

insert into instance (id, type, hostname, labels, timeout, digest, created_at, created_revision, updated_revision,
                      died_at, died_revision, death_cause, root_cause)
select pg_temp.id(n), 1 + n % 6, 'host-' || n % 500, jsonb_build_object('team', 'team-' || n % 50), '30 s',
       decode(repeat('00', 32), 'hex'), pg_temp.at(2 * n + 1), 2 * n + 1, 2 * n + 2,
       case when n + $living <= $all then pg_temp.at(2 * (n + $living)) end,
       case when n + $living <= $all then 2 * (n + $living) end,
       case when n + $living <= $all then 1 end, case when n + $living <= $all then pg_temp.id(n) end
from generate_series(0, $all) n;
insert into instance_version (instance_id, from_revision, to_revision, type, hostname, labels, timeout)
select pg_temp.id(n), 2 * n + 1, 2 * n + 2, 2, 'before', '{}', '30 s' from generate_series(0, $all) n;
insert into parent_link (child_id, parent_id, revision, ended_revision)
select pg_temp.id(n), pg_temp.id(n - 1), 2 * n + 1, case when n + $living <= $all then 2 * (n + $living) end
from generate_series(1, $all, 3) n;
insert into service (instance_id, ordinal, type, host, port, revision)
select pg_temp.id(n), 0, 1, '10.0.0.1', 9222, 2 * n + 1 from generate_series(0, $all, 10) n;
insert into heartbeat (instance_id, timeout, last_seen)
select id, '1 day', now() from instance where died_revision is null;
insert into event (revision, ordinal, type, instance_id, after, actor, nonce, at)
select r, 0, 8, pg_temp.id(r / 2), '{}', 'bench', 0, pg_temp.at(r)
from generate_series($kept, 2 * $all + 2) r;
update control set compacted_revision = $kept - 1;
"""


async def fill(url: str, days: int) -> int:
    """The history; its newest revision. Of the events the last seven days are kept, as is usual."""
    everybody = LIVING * days
    kept = max(1, 2 * (everybody - 7 * LIVING))
    script = FILL.replace("$living", str(LIVING)).replace("$all", str(everybody)).replace("$kept", str(kept))
    connection = await asyncpg.connect(url)
    await connection.execute(script)
    await connection.execute("vacuum analyze")
    await connection.close()
    return 2 * everybody + 2


async def asked(client: Client, head: int, days: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each question, by its kind."""
    chance = random.Random(1)
    taken: dict[str, list[float]] = {}
    hour = LIVING * 2 // 24
    for _ in range(rounds):
        revision = chance.randrange(2 * LIVING, head - hour)
        moment = (await client.fleet.GetInstancesAt(InstancesAtRequest(revision=head, page_size=1))).instances[0]
        ago = chance.random() * (days - 1) * 86_400_000
        questions: dict[str, Any] = {
            "a page of 1,000 by revision": InstancesAtRequest(revision=revision, page_size=1_000),
            "a page of 1,000 by time": InstancesAtRequest(time_ms=int(moment.created_at_ms - ago), page_size=1_000),
            "one host of 500": InstancesAtRequest(revision=revision, page_size=1_000, hostnames=["host-7"]),
            "the difference of an hour": DiffRequest(from_revision=revision, to_revision=revision + hour),
        }
        for name, request in questions.items():
            begun = perf_counter()
            call: Any = client.fleet.Diff if isinstance(request, DiffRequest) else client.fleet.GetInstancesAt
            answer = await call(request)
            taken.setdefault(name, []).append((perf_counter() - begun) * 1_000)
            assert isinstance(request, DiffRequest) or answer.instances
        begun = perf_counter()
        assert await fleet(client, revision) >= LIVING - 1
        taken.setdefault("the whole fleet, in ten pages", []).append((perf_counter() - begun) * 1_000)
    return taken


async def fleet(client: Client, revision: int) -> int:
    """Reads all who lived then, a page after the other; how many they were."""
    found, token = 0, b""
    while True:
        page = await client.fleet.GetInstancesAt(
            InstancesAtRequest(revision=revision, page_size=1_000, page_token=token)
        )
        found, token = found + len(page.instances), page.next_page_token
        if not token:
            return found


async def measured(url: str, admin: str, days: int, rounds: int) -> dict[str, list[float]]:
    """A manager in this process, asked by a client."""
    head = await fill(admin, days)
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    settings = Settings(database_url=url, bind=("127.0.0.1",), port=0)
    serving = asyncio.create_task(serve(settings, stop, started.set_result))
    try:
        async with Client((await started).addresses[0]) as client:
            await asked(client, head, days, 3)
            return await asked(client, head, days, rounds)
    finally:
        stop.set()
        await serving


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=100)
    chosen = parser.parse_args()
    with start(ephemeral=True) as postgres:
        url = asyncio.run(prepared(postgres))
        print(machine(postgres))
        taken = asyncio.run(measured(url, postgres.url(database=NAME), chosen.days, chosen.rounds))
    for name, each in taken.items():
        print(f"{name:32} p50 {quantile(each, 0.5):6.1f} ms  p95 {quantile(each, 0.95):6.1f} ms")
    for short, name in JUDGED.items():
        p95 = quantile(taken[name], 0.95)
        print(f"{short}_p95_ms {p95:.1f} {BAR:.0f} {'ok' if p95 <= BAR else 'short'}")


if __name__ == "__main__":
    main()
