"""The fleet against a small model of it: any calls, in any order, on two managers at once.

The machine runs in a thread and the managers on the loop of the test. IM_TEST_EXAMPLES asks for more than the usual.
"""

import asyncio
import json
import os
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from manager.domain.actor import Actor
from manager.domain.calls import Kill, Link, Offer, Outcome, Reason, Registration, Tick, Update
from manager.domain.grace import Patience
from manager.domain.instance import Cause, InstanceId, InstanceType, Service
from manager.domain.lease import Lease, leases
from manager.domain.policy import Policy
from tests.conftest import Database
from tests.fleet import AT_ONCE, Fleet, S, fleet_of, service

EXAMPLES = int(os.environ.get("IM_TEST_EXAMPLES", "60"))
STEPS = 40

# Long, so that no run of the suite is slow enough to make anybody older than the machine means.
LEASES = leases(Lease(1_000 * S, 1_000 * S), Lease(2_000 * S, 3_000 * S), Lease(1_000 * S, 1_000 * S))
POLICY = Policy(LEASES, Patience(outage_after=10_000 * S, outage_grace=S), pace=S, interval=2 * S, limits=AT_ONCE)
SILENCES = (1_500, 4_500, 8_000)

# Those that are registered at the beginning, and those that may join.
ALONE = [InstanceId(UUID(int=number)) for number in range(1, 6)]
TREES = [InstanceId(UUID(int=number)) for number in range(11, 16)]
OTHERS = [InstanceId(UUID(int=number)) for number in range(21, 25)]

T = TypeVar("T")


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Check:
    """A health check."""

    id: InstanceId


Asked = Registration | Update | Offer | Link | Kill | Check


@dataclass(frozen=True)
class One:
    """An instance of the model; `silence` in seconds, `death` as revision, cause and root cause."""

    first: bytes
    type: InstanceType
    hostname: str
    timeout: timedelta
    created: int
    updated: int
    parent: InstanceId | None = None
    linked: int = 0
    services: Mapping[Service, int] = field(default_factory=dict)
    death: tuple[int, Cause, InstanceId] | None = None
    silence: int = 0
    told: bool = False

    @property
    def stale(self) -> bool:
        return self.silence * S > 1.1 * self.timeout

    @property
    def expired(self) -> bool:
        return self.silence * S > 1.1 * self.timeout + LEASES[self.type].grace


def said(outcome: Outcome) -> tuple[Reason | None, int]:
    """What of an outcome the contract speaks of."""
    return outcome.reason, outcome.revision


@dataclass(frozen=True)
class Model:
    """What the contract says that the fleet is; a call gives another one, and its answer."""

    fleet: Mapping[InstanceId, One] = field(default_factory=dict)
    head: int = 0

    def living(self) -> dict[InstanceId, One]:
        return {each: one for each, one in self.fleet.items() if one.death is None}

    def depth(self, of: InstanceId) -> int:
        parent = self.fleet[of].parent
        return 0 if parent is None else 1 + self.depth(parent)

    def changed(self, of: InstanceId, one: One) -> tuple["Model", Outcome]:
        """One change, by one revision."""
        return Model({**self.fleet, of: one}, self.head + 1), Outcome.done(self.head + 1)

    def ask(self, call: Asked) -> tuple["Model", Outcome]:
        match call:
            case Registration():
                return self.add(call)
            case Update():
                return self.update(call)
            case Offer():
                return self.offer(call)
            case Link():
                return self.link(call)
            case Kill():
                return self.kill(call)
            case Check():
                return self.check(call)

    def refused(self, of: InstanceId) -> Outcome | None:
        one = self.fleet.get(of)
        if one is None:
            return Outcome.refused(Reason.UNKNOWN_INSTANCE)
        return Outcome.refused(Reason.DEAD) if one.death else None

    def add(self, call: Registration) -> tuple["Model", Outcome]:
        if one := self.fleet.get(call.id):
            if one.death:
                return self, Outcome.refused(Reason.DEAD)
            same = one.first == call.digest
            return self, Outcome.done(one.created) if same else Outcome.refused(Reason.ID_TAKEN)
        if call.parent is not None:
            parent = self.fleet.get(call.parent)
            if parent is None or parent.death:
                return self, Outcome.refused(Reason.PARENT_DEAD if parent else Reason.UNKNOWN_PARENT)
        revision = self.head + 1
        one = One(
            call.digest,
            call.type,
            call.hostname,
            call.timeout or LEASES[call.type].timeout,
            revision,
            revision,
            call.parent,
            revision if call.parent else 0,
            dict.fromkeys(call.services, revision),
        )
        return self.changed(call.id, one)

    def update(self, call: Update) -> tuple["Model", Outcome]:
        if refused := self.refused(call.id):
            return self, refused
        one, timeout = self.fleet[call.id], call.timeout or LEASES[call.type].timeout
        if (one.type, one.hostname, one.timeout) == (call.type, call.hostname, timeout):
            return self, Outcome.done(one.updated)
        if call.expected is not None and call.expected != one.updated:
            return self, Outcome.refused(Reason.CONFLICT)
        after = replace(one, type=call.type, hostname=call.hostname, timeout=timeout, updated=self.head + 1)
        return self.changed(call.id, after)

    def offer(self, call: Offer) -> tuple["Model", Outcome]:
        if refused := self.refused(call.id):
            return self, refused
        one = self.fleet[call.id]
        if call.service in one.services:
            return self, Outcome.done(one.services[call.service])
        return self.changed(call.id, replace(one, services={**one.services, call.service: self.head + 1}))

    def link(self, call: Link) -> tuple["Model", Outcome]:
        reasons = [self.fleet.get(end) for end in (call.parent, call.child)]
        if None in reasons:
            return self, Outcome.refused(Reason.UNKNOWN_INSTANCE)
        if refused := self.refused(call.parent) or self.refused(call.child):
            return self, refused
        child = self.fleet[call.child]
        if child.parent is not None:
            same = child.parent == call.parent
            return self, Outcome.done(child.linked) if same else Outcome.refused(Reason.HAS_PARENT)
        if call.child in self.above(call.parent):
            return self, Outcome.refused(Reason.CYCLE)
        return self.changed(call.child, replace(child, parent=call.parent, linked=self.head + 1))

    def above(self, of: InstanceId) -> Iterator[InstanceId]:
        """An instance, and all its ancestors."""
        at: InstanceId | None = of
        while at is not None:
            yield at
            at = self.fleet[at].parent

    def kill(self, call: Kill, cause: Cause = Cause.KILLED) -> tuple["Model", Outcome]:
        one = self.fleet.get(call.id)
        if one is None:
            return self, Outcome.refused(Reason.UNKNOWN_INSTANCE)
        if one.death:
            killed = one.death[1] is Cause.KILLED
            return self, Outcome.done(one.death[0]) if killed else Outcome.refused(Reason.DEAD)
        revision, fleet = self.head + 1, dict(self.fleet)
        for each, other in self.living().items():
            if call.id in self.above(each):
                own = cause if each == call.id else Cause.PARENT_DIED
                fleet[each] = replace(other, death=(revision, own, call.id))
        return Model(fleet, revision), Outcome.done(revision)

    def check(self, call: Check) -> tuple["Model", Outcome]:
        if refused := self.refused(call.id):
            return self, refused
        return Model({**self.fleet, call.id: replace(self.fleet[call.id], silence=0)}, self.head), Outcome.done()

    def explain(self, answers: Sequence[tuple[Asked, Outcome]]) -> "Model":
        """The fleet after calls that were made at once: in some order, each was answered as if it were alone.

        What changes nothing may be put wherever it fits; and of the changes there is but one for each revision.
        """
        model, left = self, list(answers)
        while left:
            tried = [(pair, *model.ask(pair[0])) for pair in left]
            fitting = [(pair, after) for pair, after, expected in tried if said(pair[1]) == said(expected)]
            assert fitting, f"in no order are these the answers: {left}"
            pair, after = next((each for each in fitting if each[1].head == model.head), fitting[0])
            left.remove(pair)
            model = after
        return model

    def tick(self, told: Sequence[tuple[str, InstanceId]]) -> "Model":
        """The fleet after a tick that told these events, whose order it may choose but for the depth."""
        model = self
        living = self.living()
        silent = {each for each, one in living.items() if one.expired}
        due = {each for each in silent if living[each].parent not in silent}  # the others die with their parents
        roots = [each for kind, each in told if kind == "REMOVED" and each in due]
        assert sorted(roots) == sorted(due)
        assert [self.depth(each) for each in roots] == sorted(map(self.depth, roots), reverse=True)
        for each in roots:
            model, _ = model.kill(Kill(each), Cause.EXPIRED)
        left = model.living()
        silent = {each for each, one in left.items() if one.stale and not one.told}
        heard = {each for each, one in left.items() if one.told and not one.stale}
        assert {each for kind, each in told if kind == "STALE"} == silent
        assert {each for kind, each in told if kind == "RECOVERED"} == heard
        changed = {each: replace(left[each], told=not left[each].told) for each in silent | heard}
        return Model({**model.fleet, **changed}, model.head + len(changed))


# ── the fleet itself ─────────────────────────────────────────────────────────────────────────────────────────────────

RESET = """
truncate instance, instance_version, parent_link, service, heartbeat, event, history_epoch;
update control set grace_from = null, grace_until = null
"""

WHOLE = """
select i.id, i.digest, i.type, i.hostname, i.timeout, i.created_revision, i.updated_revision, l.parent_id,
       coalesce(l.revision, 0) as linked,
       case when i.died_revision is not null then array[i.died_revision, i.death_cause] end as death, i.root_cause,
       coalesce(h.told_stale, false) as told,
       (select jsonb_agg(jsonb_build_array(s.port, s.revision) order by s.port) from service s
        where s.instance_id = i.id) as services
from instance i left join parent_link l on l.child_id = i.id left join heartbeat h on h.instance_id = i.id
"""

VIOLATIONS = """
with recursive up as (
    select child_id as start, parent_id as id from parent_link
    union
    select up.start, l.parent_id from up join parent_link l on l.child_id = up.id
), change as (
    select revision, count(*) as events, min(ordinal) as first, max(ordinal) as last, count(distinct xid) as turns
    from event group by revision
)
select 'a living child of a dead parent' where exists (
    select from parent_link l join instance p on p.id = l.parent_id join instance c on c.id = l.child_id
    where p.died_revision is not null and c.died_revision is null)
union all
select 'a ring' where exists (select from up where start = id)
union all
select 'a link that ended not with its child' where exists (
    select from parent_link l join instance c on c.id = l.child_id
    where l.ended_revision is distinct from c.died_revision)
union all
select 'revisions with gaps' where (select count(*) <> coalesce(max(revision), 0) from change)
union all
select 'ordinals with gaps' where exists (select from change where first <> 0 or last + 1 <> events or turns <> 1)
union all
select 'not one ADDED an id, in the revision of its registration' where exists (
    select from instance i full join (select * from event where type = 1) e on e.instance_id = i.id
    where e.revision is distinct from i.created_revision)
union all
select 'a death that was not told, or otherwise' where exists (
    select from (select * from instance where died_revision is not null) i
    full join (select * from event where type = 2) e on e.instance_id = i.id
    where (e.revision, e.cause, e.root_cause) is distinct from (i.died_revision, i.death_cause, i.root_cause))
union all
select 'a root cause that did not die of itself in the same revision, or is not above' where exists (
    select from instance i left join instance r on r.id = i.root_cause
    where i.died_revision is not null
      and (r.died_revision is distinct from i.died_revision or r.death_cause not in (1, 2) or r.root_cause <> r.id
           or i.id <> r.id and not exists (select from up where start = i.id and id = r.id)))
union all
select 'heartbeats of others than the living' where exists (
    select from (select * from instance where died_revision is null) i
    full join heartbeat h on h.instance_id = i.id
    where i.id is null or h.instance_id is null or h.timeout <> i.timeout)
union all
select 'versions that do not join' where exists (
    select from instance_version v left join instance_version n
           on n.instance_id = v.instance_id and n.from_revision = v.to_revision
    join instance i on i.id = v.instance_id
    where n.instance_id is null and v.to_revision <> i.updated_revision)
"""


@dataclass
class World:
    """Two managers on one database, driven from another thread."""

    managers: tuple[Fleet, Fleet]
    loop: asyncio.AbstractEventLoop

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=60)

    async def reset(self) -> None:
        await self.managers[0].sql.execute(RESET)

    async def ask(self, calls: Sequence[tuple[int, Asked]]) -> list[Outcome]:
        """The answers to calls that are made at once, each of one of the managers."""

        async def one(manager: Fleet, call: Asked) -> Outcome:
            return (await manager.check(call.id))[0] if isinstance(call, Check) else (await manager.do(call))[0]

        return list(await asyncio.gather(*(one(self.managers[number], call) for number, call in calls)))

    async def whole(self) -> dict[InstanceId, tuple[object, ...]]:
        """All that is stored of each instance."""
        rows = await self.managers[0].rows(WHOLE)
        return {row["id"]: (*tuple(row)[1:-1], json.loads(row["services"] or "[]")) for row in rows}

    async def violations(self) -> list[str]:
        return [row[0] for row in await self.managers[0].rows(VIOLATIONS)]

    async def replay(self) -> None:
        """The events, one after the other, lead from nothing to the present fleet, and each fits the one before."""
        states: dict[InstanceId, object] = {}
        for row in await self.managers[0].rows("select * from event order by revision, ordinal"):
            one, before = row["instance_id"], states.pop(row["instance_id"], None)
            if not (row["type"] in (3, 4, 5) and row["before"] == row["after"]):
                assert lasting(row["before"]) == before, f"{tuple(row)} after {before}"
            if row["after"] is not None:
                states[one] = lasting(row["after"])
        rows = await self.managers[0].rows(
            "select s.id, s.state from instance_state s join instance i on i.id = s.id where i.died_revision is null"
        )
        assert states == {row["id"]: lasting(row["state"]) for row in rows}


def stored(model: Model) -> dict[InstanceId, tuple[object, ...]]:
    """All that should be stored of each instance."""
    return {
        each: (
            one.first,
            one.type,
            one.hostname,
            one.timeout,
            one.created,
            one.updated,
            one.parent,
            one.linked,
            list(one.death[:2]) if one.death else None,
            one.death[2] if one.death else None,
            one.told and not one.death,
            sorted([each.port, revision] for each, revision in one.services.items()),
        )
        for each, one in model.fleet.items()
    }


# ── the machine ──────────────────────────────────────────────────────────────────────────────────────────────────────

ids = st.sampled_from(ALONE + TREES + OTHERS)
types = st.sampled_from([InstanceType.CHROME_BROWSER, InstanceType.VLLM])
alone = st.sampled_from(ALONE)
hostnames = st.sampled_from(["a", "b"])
timeouts = st.sampled_from([None, 500 * S])
services = st.sampled_from([service(port) for port in (1, 2, 3)])
managers = st.integers(0, 1)
times = st.integers(1, 3)

registrations = st.builds(
    Registration,
    id=ids,
    type=types,
    hostname=hostnames,
    parent=st.none() | ids,
    services=st.sets(services, max_size=2).map(lambda some: tuple(sorted(some))),
    timeout=timeouts,
)
updates = st.builds(Update, id=ids, type=types, hostname=hostnames, timeout=timeouts)
offers = st.builds(Offer, id=ids, service=services)
links = st.builds(Link, parent=ids, child=ids)
kills = st.builds(Kill, id=ids)
checks = st.builds(Check, id=ids)
# many links and few kills, since dying is final
calls = st.one_of(registrations, registrations, updates, offers, offers, links, links, links, kills, checks, checks)


class FleetMachine(RuleBasedStateMachine):
    """Asks the fleet and the model the same."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.model = Model()
        world.wait(world.reset())

    @initialize(parents=st.lists(st.none() | st.integers(0, 4), min_size=5, max_size=5))
    def begin(self, parents: list[int | None]) -> None:
        """A fleet in which most calls have something to do: some alone, and some trees."""
        alone = [Registration(each, InstanceType.CHROME_BROWSER) for each in ALONE]
        trees = [
            Registration(each, InstanceType.VLLM, parent=None if parent is None else TREES[parent])
            for each, parent in zip(TREES, parents, strict=True)
        ]
        self.ask(*((0, each) for each in alone + trees))

    def ask(self, *at_once: tuple[int, Asked]) -> list[Outcome]:
        outcomes = self.world.wait(self.world.ask(at_once))
        asked = [call for _, call in at_once]
        note(f"{list(zip(asked, outcomes, strict=True))}")
        self.model = self.model.explain(list(zip(asked, outcomes, strict=True)))
        return outcomes

    @rule(call=calls, manager=managers, times=times)
    def one_call(self, call: Asked, manager: int, times: int) -> None:
        """A call, and its repeats on either manager."""
        answers = [self.ask(((manager + each) % 2, call))[0] for each in range(times)]
        assert answers == answers[:1] * times

    @rule(of=st.sampled_from(ALONE + TREES), content=updates, guess=st.integers(0, 1), manager=managers, times=times)
    def guarded_update(self, of: InstanceId, content: Update, guess: int, manager: int, times: int) -> None:
        """An update by somebody who knows the present revision, or only an older one."""
        one = self.model.fleet.get(of)
        known = one.updated - guess if one else 1
        self.one_call(replace(content, id=of, expected=known), manager, times)

    @rule(at_once=st.lists(st.tuples(calls, times), min_size=2, max_size=8), manager=managers)
    def many_calls(self, at_once: list[tuple[Asked, int]], manager: int) -> None:
        """Calls and their repeats, all at once, on both managers."""
        some = [
            ((manager + place + each) % 2, call) for place, (call, times) in enumerate(at_once) for each in range(times)
        ]
        self.ask(*some)

    @rule(
        ends=st.lists(st.tuples(st.sampled_from(ALONE), st.sampled_from(ALONE)), min_size=3, max_size=8),
        manager=managers,
    )
    def many_links(self, ends: list[tuple[InstanceId, InstanceId]], manager: int) -> None:
        """Links among a few, which close rings together: half of them in one turn."""
        self.ask(*((place * manager % 2, Link(*pair)) for place, pair in enumerate(ends)))

    @rule(of=st.sets(st.sampled_from(TREES), min_size=2, max_size=3), manager=managers)
    def many_kills(self, of: set[InstanceId], manager: int) -> None:
        """Kills among a few, who are often below each other."""
        self.ask(*((place * manager % 2, Kill(each)) for place, each in enumerate(sorted(of))))

    @rule(some=st.lists(registrations, min_size=3, max_size=8), manager=managers)
    def many_registrations(self, some: list[Registration], manager: int) -> None:
        """Registrations that may be each other's parents, in any order, or other content of one id."""
        self.ask(*((place * manager % 2, each) for place, each in enumerate(some)))

    @rule(of=st.sets(ids, min_size=1, max_size=3), seconds=st.sampled_from(SILENCES))
    def fall_silent(self, of: set[InstanceId], seconds: int) -> None:
        living = self.model.living()
        silent = {each: replace(living[each], silence=seconds) for each in of if each in living}
        if silent:
            self.world.wait(self.world.managers[0].silence(seconds, *silent))
            self.model = Model({**self.model.fleet, **silent}, self.model.head)

    @rule(manager=managers)
    def tick(self, manager: int) -> None:
        world, head = self.world, self.model.head
        outcome = world.wait(world.managers[manager].tick())
        told = [(kind, one) for _, _, kind, one in world.wait(world.managers[0].story(head))]
        note(f"told {told}")
        self.model = self.model.tick(told)
        assert said(outcome) == (None, self.model.head)

    @rule(manager=managers, of=st.sets(ids, min_size=1))
    def tick_while_checking(self, manager: int, of: set[InstanceId]) -> None:
        """Whoever is told to keep running does not expire, nor does anybody of whom the model does not know why."""
        world, head = self.world, self.model.head

        async def at_once() -> list[Outcome]:
            await world.managers[0].ticked(2)
            asked = [(1 - manager, Check(each)) for each in sorted(of)]
            answers, _ = await asyncio.gather(world.ask(asked), world.managers[manager].do(Tick(Actor("a test"))))
            return answers

        answers = dict(zip(sorted(of), world.wait(at_once()), strict=True))
        before = self.model
        for each in [each for each, outcome in answers.items() if outcome.reason is None]:
            before, _ = before.check(Check(each))
        story = world.wait(world.managers[0].story(head))
        died = [one for _, _, kind, one in story if kind == "REMOVED"]
        expired = {each for each, one in before.living().items() if one.expired}
        assert expired == set(died) & expired, "each that was expired and not heard of died"
        assert not {each for each in died if not set(before.above(each)) & expired}
        # what was told of the others depends on who came first: take it as it is
        self.model = self.as_told(before, story)
        for each in [each for each, outcome in answers.items() if outcome.reason is not None]:
            assert self.model.check(Check(each))[1] == answers[each]

    def as_told(self, model: Model, story: Sequence[tuple[int, int, str, InstanceId]]) -> Model:
        for revision, _, kind, one in story:
            if kind == "REMOVED" and model.fleet[one].death is None:
                model, _ = model.kill(Kill(one), Cause.EXPIRED)
            elif kind in ("STALE", "RECOVERED"):
                told = replace(model.fleet[one], told=kind == "STALE")
                model = Model({**model.fleet, one: told}, revision)
        return model

    @invariant()
    def the_fleet_is_as_the_model(self) -> None:
        async def found() -> tuple[dict[InstanceId, tuple[object, ...]], list[str], int]:
            return await self.world.whole(), await self.world.violations(), await self.world.managers[0].head()

        whole, violations, head = self.world.wait(found())
        assert violations == []
        assert whole == stored(self.model)
        assert head == self.model.head

    def teardown(self) -> None:
        self.world.wait(self.world.replay())


@pytest.mark.timeout(900)  # a failure is made small before it is told
async def test_the_fleet_is_as_its_model_whatever_is_asked_of_two_managers(database: Database) -> None:
    async with fleet_of(database, POLICY) as one, fleet_of(database, POLICY, actor="another") as two:
        world = World((one, two), asyncio.get_running_loop())

        class Machine(FleetMachine):
            def __init__(self) -> None:
                super().__init__(world)

        await asyncio.to_thread(
            run_state_machine_as_test,
            Machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )


def lasting(state: str | None) -> object:
    """What an event keeps of an instance, without its silence: that passes, and the view of the dead leaves it out."""
    fields = None if state is None else json.loads(state)
    if fields is not None:
        fields.pop("stale", None)
    return fields
