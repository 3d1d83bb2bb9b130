"""One call in flight on an idle system: a registration, against a bare commit and an empty call."""

import statistics
import time

import asyncpg

from bench.arena import TRY, VERSION, Arena, at_most
from bench.load import load
from bench.operations import TRUE, newcomers
from bench.scene import NAME, quantile

CALLS = 500
HEALTH = "/grpc.health.v1.Health/Check"


async def registering(arena: Arena) -> float:
    """The p50 in ms."""
    messages = [each.SerializeToString() for each in newcomers(CALLS)]
    return (await load(arena.manager, f"{TRY}/TryAddInstance", messages, **VERSION, expect=TRUE)).ms["p50"]


async def empty(arena: Arena) -> float:
    """The p50 in ms of a call that asks nothing of the database."""
    return (await load(arena.manager, HEALTH, [b""] * CALLS, **VERSION)).ms["p50"]


async def committing(connection: asyncpg.Connection) -> float:
    """The p50 in ms of one row, committed and flushed."""
    taken = []
    for number in range(CALLS):
        before = time.perf_counter()
        await connection.execute("insert into bare values ($1)", number)
        taken.append(time.perf_counter() - before)
    return quantile(taken, 0.5) * 1000


async def judged(arena: Arena, rounds: int) -> list[str]:
    """The rounds, in turns; a line, and that of the bar."""
    connection = await asyncpg.connect(arena.postgres.url(database=NAME))
    await connection.execute("create table bare (number int)")
    taken = [(await registering(arena), await committing(connection), await empty(arena)) for _ in range(rounds + 1)]
    await connection.close()
    add, commit, call = (statistics.median(each) for each in zip(*taken[1:], strict=True))
    ratio = statistics.median(add / (commit + call) for add, commit, call in taken[1:])
    print(f"p50: registering {add:.2f} ms, a bare commit {commit:.2f} ms, an empty call {call:.2f} ms", flush=True)
    return [at_most("idle-registering-to-commit-and-call", ratio, 2.0)]
