"""The checkers bite: of every promise a history that breaks it, and real ones that are found to be good."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import pytest
from grpc import aio

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.server import Serving
from tests.conftest import Database
from tests.faults import invariants, linear, replay
from tests.faults.record import Call, Client, Entry, Ledger, Operation, Recorder, loaded
from tests.stream.plain import Fact, facts

A, B, C = "a", "b", "c"


def did(call: Call, called: float, returned: float | None, value: bool = True, **more: int) -> Operation:
    return Operation(call, 0, called, called, returned, value, more.get("reason", 0), more.get("revision", 0))


def added(revision: int, instance: str, ordinal: int = 0) -> Fact:
    return Fact(revision, ordinal, pb.ADDED, instance, after={"services": []})


def removed(revision: int, instance: str, cause: int = pb.CAUSE_KILLED, ordinal: int = 0) -> Fact:
    return Fact(revision, ordinal, pb.REMOVED, instance, cause=cause, root=instance)


def linked(revision: int, parent: str, child: str) -> list[Fact]:
    return [
        Fact(revision, 0, pb.CHILD_ADDED, parent, related=child),
        Fact(revision, 1, pb.PARENT_ADDED, child, related=parent),
    ]


ADD_A = did(Call("add", A), 0, 1, revision=1)
ADD_B = did(Call("add", B), 2, 3, revision=2)
GOOD: list[Operation] = [
    ADD_A,
    ADD_B,
    did(Call("link", A, B), 4, 5, revision=3),
    did(Call("check", B), 6, 7),
    did(Call("offer", B, "9222"), 8, 9, revision=4),
    did(Call("kill", A), 10, 11, revision=5),
    did(Call("check", B), 12, 13, value=False, reason=pb.REASON_DEAD),
    did(Call("kill", B), 14, 15, value=False, reason=pb.REASON_DEAD),
    did(Call("add", C, A), 16, 17, value=False, reason=pb.REASON_PARENT_DEAD),
    did(Call("get", B), 18, 19, value=False),
]
SERVICE = (int(pb.CHROME_DEBUG_PORT), "10.0.0.1", 9222, "")
HISTORY: list[Fact] = [
    added(1, A),
    added(2, B),
    *linked(3, A, B),
    Fact(4, 0, pb.SERVICE_ADDED, B, service=SERVICE),
    removed(5, A),
    removed(5, B, pb.CAUSE_PARENT_DIED, 1),
]


def judged(operations: Sequence[Operation], history: Sequence[Fact]) -> set[str]:
    """Which checkers object."""
    found = {"replay": replay.violations(operations, history), "linear": linear.violations(operations, history)}
    return {name for name, some in found.items() if list(some)}


def test_a_good_history_is_good() -> None:
    assert judged(GOOD, HISTORY) == set()


def test_the_repeat_of_a_call_that_nobody_answered_says_nothing_of_what_was_new() -> None:
    """Its revision is of the first try, which was carried out though nobody heard of it."""
    lost = did(Call("offer", A, "9222"), 1.5, None)
    repeat = replace(lost, called=8, returned=9, value=True, revision=2)
    others = [ADD_A, lost, replace(ADD_B, revision=3), did(Call("get", B), 6, 7), repeat]
    assert judged(others, [added(1, A), Fact(2, 0, pb.SERVICE_ADDED, A, service=SERVICE), added(3, B)]) == set()


def instead(number: int, **changed: object) -> list[Operation]:
    """The good history, with one operation changed."""
    return [replace(each, **changed) if n == number else each for n, each in enumerate(GOOD)]  # type: ignore[arg-type]


LATE_CHECK = did(Call("check", B), 20, 21)
BAD: dict[str, tuple[list[Operation], list[Fact]]] = {
    "an acknowledged add that is nowhere": (GOOD[:2], HISTORY[:1]),
    "an acknowledged kill that is nowhere": ([*GOOD[:2], did(Call("kill", A), 10, 11, revision=3)], HISTORY[:2]),
    "a true health check after an answered kill": ([*GOOD, LATE_CHECK], HISTORY),
    "a health check answered dead before the death": (instead(3, value=False, reason=pb.REASON_DEAD), HISTORY),
    "a health check answered unknown after the registration": (
        instead(3, value=False, reason=pb.REASON_UNKNOWN_INSTANCE),
        HISTORY,
    ),
    "a second life": ([*GOOD, did(Call("add", A), 20, 21, revision=6)], [*HISTORY, added(6, A)]),
    "revisions against the order of time": (
        [replace(ADD_A, revision=2), replace(ADD_B, revision=1)],
        [added(1, B), added(2, A)],
    ),
    "a kill of another revision than its event": (instead(5, revision=4), HISTORY),
    "a second parent": (
        [*GOOD[:3], did(Call("add", C), 5.1, 5.2, revision=4), did(Call("link", C, B), 5.3, 5.4, revision=5)],
        [*HISTORY[:4], added(4, C)],
    ),
    "has a parent, and had none": (instead(2, value=False, reason=pb.REASON_HAS_PARENT, revision=0), HISTORY[:2]),
    "a ring, and there was none": (instead(2, value=False, reason=pb.REASON_CYCLE, revision=0), HISTORY[:2]),
    "a read that found the dead": (instead(9, value=True), HISTORY),
    "a read that did not find the living": ([*GOOD[:2], did(Call("get", A), 4, 5, value=False)], HISTORY[:2]),
    "a dead parent that was alive": (
        [*GOOD[:1], did(Call("add", C, A), 4, 5, value=False, reason=pb.REASON_PARENT_DEAD)],
        HISTORY[:1],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_caught(name: str) -> None:
    assert judged(*BAD[name])


def test_both_see_a_dead_instance_that_goes_on() -> None:
    """The one that looks at no revision sees it too."""
    assert judged(*BAD["a true health check after an answered kill"]) == {"replay", "linear"}
    assert judged(*BAD["a second life"]) >= {"linear"}


def test_what_nobody_knows_may_have_happened_or_not() -> None:
    maybe = did(Call("kill", A), 4, None, value=False)
    later = did(Call("check", A), 6, 7)
    dead = did(Call("check", A), 8, 9, value=False, reason=pb.REASON_DEAD)
    assert judged([ADD_A, maybe, later], HISTORY[:1]) == set()
    assert judged([ADD_A, maybe, later, dead], [HISTORY[0], removed(2, A)]) == set()
    assert "linear" in judged([ADD_A, maybe, dead, replace(later, called=10, returned=11)], [HISTORY[0], removed(2, A)])


def test_the_ledger_tells_what_was_lost_and_what_was_announced() -> None:
    written = [Entry(each.call, each.revision, each.called) for each in GOOD if each.revision]
    assert list(invariants.lost(written, HISTORY)) == []
    assert len(list(invariants.lost(written, HISTORY[:2]))) == 3
    assert list(invariants.lost(written, HISTORY[:2], base=2)) == []
    assert list(invariants.lost(written, HISTORY[1:], base=2))
    assert list(invariants.lost(written, HISTORY[:2], base=2, again=written[-1].called - 1))


def test_who_expires_early_is_seen() -> None:
    heard = [replace(ADD_A, wall=100.0)]
    assert list(invariants.early(heard, {A: datetime.fromtimestamp(103.9, UTC)}, 4.0))
    assert not list(invariants.early(heard, {A: datetime.fromtimestamp(104.1, UTC)}, 4.0))


def test_who_dies_while_it_checks_its_health_is_seen() -> None:
    assert list(invariants.massacred([removed(1, A, pb.CAUSE_EXPIRED)], [A]))
    assert not list(invariants.massacred([removed(1, A)], [A]))


@pytest.mark.parametrize(
    ("rule", "damage"),
    [
        (
            "a living child",
            "update instance set died_revision = null, died_at = null, death_cause = null,"
            " root_cause = null where id = (select child_id from parent_link limit 1)",
        ),
        (
            "a ring",
            "insert into parent_link (child_id, parent_id, revision)"
            " select parent_id, child_id, 9 from parent_link limit 1",
        ),
        ("a gap", "delete from event where revision = 2"),
        ("ordinals", "update event set ordinal = 5 where revision = 1 and ordinal = 0"),
        (
            "added twice",
            "insert into event (revision, ordinal, type, instance_id, actor, nonce, at)"
            " select max(revision) + 1, 0, 1, (select id from instance limit 1), '', 0, now() from event",
        ),
        ("a death without", "delete from event where type = 2"),
        ("an event of a death", "update instance set died_revision = died_revision + 1 where died_revision > 0"),
        (
            "a change of the dead",
            "insert into event (revision, ordinal, type, instance_id, actor, nonce, at)"
            " select max(revision) + 1, 0, 8, (select id from instance where died_revision > 0 limit 1), '', 0, now()"
            " from event",
        ),
        ("a cascade", "update instance set died_revision = died_revision + 1 where death_cause = 3"),
    ],
)
async def test_a_damaged_database_is_seen(
    server: Serving, database: Database, rule: str, damage: str, tmp_path: Path
) -> None:
    recorder = Recorder(Ledger(tmp_path / "ledger"))
    async with aio.insecure_channel(server.addresses[0]) as channel:
        client = Client(0, channel, recorder)
        parent, child = str(new_id()), str(new_id())
        for call in (Call("add", parent), Call("add", child, parent), Call("add", str(new_id())), Call("kill", parent)):
            assert (await client.ask(call)).value
    recorder.ledger.close()
    assert await invariants.violations(database) == []
    await database.run(damage)
    assert [each for each in await invariants.violations(database) if rule in each]


# ── real ones ────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(chance: random.Random, ids: list[str]) -> Call:
    """A call such as clients make, about few enough instances that they get in each other's way."""
    kind = chance.random()
    if kind < 0.3 or len(ids) < 3:
        ids.append(str(new_id()))
        return Call("add", ids[-1], chance.choice(ids[-12:-1]) if len(ids) > 3 and chance.random() < 0.4 else "")
    one, other = chance.choice(ids[-10:]), chance.choice(ids[-10:])
    if kind < 0.4:
        return Call("kill", one)
    if kind < 0.5:
        return Call("link", one, other)
    if kind < 0.6:
        return Call("offer", one, str(9222 + chance.randrange(3)))
    return Call("check" if kind < 0.85 else "get", one)


async def worked(address: str, recorder: Recorder, seed: int, clients: int, calls: int) -> None:
    """Several clients at once."""
    ids: list[str] = []

    async def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        async with aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            client = Client(number, channel, recorder)
            for _ in range(calls):
                await client.ask(drawn(chance, ids))

    await asyncio.gather(*map(work, range(clients)))


async def test_a_real_history_is_good_and_one_flipped_answer_is_seen(
    server: Serving, database: Database, tmp_path: Path
) -> None:
    recorder = Recorder(Ledger(tmp_path / "ledger"))
    await worked(server.addresses[0], recorder, seed=1, clients=6, calls=120)
    history = await facts(database)
    recorder.ledger.close()
    assert list(replay.violations(recorder.operations, history)) == []
    assert list(linear.violations(recorder.operations, history)) == []
    assert list(invariants.lost(recorder.ledger.read(), history)) == []
    assert await invariants.violations(database) == []
    recorder.save(tmp_path / "operations")
    assert loaded(tmp_path / "operations") == recorder.operations
    assert flipped(recorder.operations, history, judged) >= 0.8  # calls that overlap may have had either answer


def flipped(
    operations: list[Operation], history: list[Fact], judge: Callable[[list[Operation], list[Fact]], set[str]]
) -> float:
    """The share of flipped answers that is seen: what was true is said to be of the dead, and the other way round."""
    chance, seen = random.Random(2), 0
    told = [n for n, each in enumerate(operations) if each.returned is not None and each.call.method != "get"]
    for number in chance.sample(told, 60):
        one = operations[number]
        other = replace(one, value=not one.value, reason=pb.REASON_DEAD if one.value else 0, revision=0)
        seen += bool(judge([*operations[:number], other, *operations[number + 1 :]], history))
    return seen / 60


def test_the_search_is_fast() -> None:
    """Of 50 instances with 60 operations each, 8 at a time."""
    chance, operations = random.Random(3), []
    for number in range(50):
        name = str(number)
        operations.append(did(Call("add", name), 0, 1, revision=1))
        operations += [
            did(Call("check", name), at := 2 + each // 8 + chance.random() / 2, at + 0.5) for each in range(60)
        ]
    begun = perf_counter()
    assert list(linear.violations(operations, [])) == []
    assert perf_counter() - begun < 3
