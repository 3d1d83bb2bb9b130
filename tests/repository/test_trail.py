"""The trail: every act is on it, nobody can change it, and whoever does all the same is found out."""

import hashlib
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Call, Kill, Link, Offer, Registration, Update
from manager.domain.instance import InstanceId, InstanceType
from manager.domain.trail import Broken, Head, Verified
from manager.ids import new_id
from manager.repository import trail, trim
from manager.repository.trim import Retention
from manager.repository.turn import LOCK
from tests.fleet import Fleet, service

DAY = timedelta(days=1)
ANN = Actor("ann", UUID(int=7), "ipv4:10.0.0.9:1234")
CHROME = InstanceType.CHROME_BROWSER


async def verified(fleet: Fleet, known: Head | None = None) -> Verified:
    async with fleet.connections.readers.snapshot() as connection:
        return await trail.verify(connection, known)


async def acts(fleet: Fleet) -> list[Any]:
    return await fleet.rows("select * from audit.acts order by number, revision")


async def forge(fleet: Fleet, *statements: str) -> None:
    """As only a superuser can, who switches the triggers off."""
    await fleet.sql.execute("alter table trail disable trigger user; alter table trail_seal disable trigger user")
    for each in statements:
        await fleet.sql.execute(each)
    await fleet.sql.execute("alter table trail enable trigger user; alter table trail_seal enable trigger user")
    await fleet.sql.execute("alter table trail enable always trigger trail_is_final")


# ── what is on it ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_act_says_who_with_which_token_from_where_and_what_was_before_and_after(fleet: Fleet) -> None:
    parent, child = new_id(), new_id()
    calls: list[Call] = [
        Registration(parent, CHROME, "a", {"team": "x"}, actor=ANN),
        Registration(child, CHROME, "a", actor=ANN),
        Update(parent, CHROME, "b", actor=ANN),
        Offer(parent, service(9), ANN),
        Link(parent, child, ANN),
        Kill(parent, "why\n'not\"", ANN),
    ]
    for call in calls:
        assert (await fleet.do(call))[0].reason is None
    told = await acts(fleet)
    assert [each["act"] for each in told] == ["ADD", "ADD", "UPDATE", "OFFER", "LINK", "KILL"]
    assert [each["revision"] for each in told] == [1, 2, 3, 4, 5, 6]
    assert {(each["who"], each["token"], each["address"]) for each in told} == {("ann", UUID(int=7), ANN.address)}
    assert [each["instance_id"] for each in told] == [parent, child, parent, parent, parent, parent]
    added, _, updated, offered, linked, killed = told
    assert (added["before"], json.loads(added["after"])["labels"]) == (None, {"team": "x"})
    assert [json.loads(updated[each])["hostname"] for each in ("before", "after")] == ["a", "b"]
    assert [len(json.loads(offered[each])["services"]) for each in ("before", "after")] == [0, 1]
    assert linked["related_id"] == child
    assert (killed["note"], killed["victims"], json.loads(killed["before"])["hostname"]) == ("why\n'not\"", 2, "b")
    assert killed["victims_digest"] == hashlib.sha256(parent.bytes + child.bytes).hexdigest()


async def test_a_turn_is_one_row_and_a_cascade_one_act(fleet: Fleet) -> None:
    ids = await fleet.chain(50)
    assert await fleet.value("select count(*) from trail") == 1
    assert len(await acts(fleet)) == 50
    await fleet.kill(ids[0])
    assert await fleet.value("select count(*) from trail") == 2
    assert (await acts(fleet))[-1]["victims"] == 50


async def test_who_expires_is_on_it_by_the_manager_that_found_it_and_silence_is_not(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(34, one)
    await fleet.tick()
    assert await fleet.told("STALE") == [one]
    assert [each["act"] for each in await acts(fleet)] == ["ADD"]
    await fleet.silence(100, one)
    await fleet.tick()
    assert [(each["act"], each["who"]) for each in await acts(fleet)] == [("ADD", fleet.actor), ("EXPIRE", fleet.actor)]


async def test_what_was_refused_or_changes_nothing_leaves_no_act(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.do(Kill(new_id(), actor=ANN), Link(one, one, ANN))
    assert len(await acts(fleet)) == 1


async def test_a_turn_that_fails_leaves_neither_the_change_nor_the_act(fleet: Fleet) -> None:
    await fleet.sql.execute("alter table trail add constraint refused check (revision is null)")
    (answer,) = await fleet.answers(Registration(new_id(), CHROME, actor=ANN))
    assert isinstance(answer, Exception)
    assert await fleet.living() == set()
    assert await acts(fleet) == []


async def test_two_managers_and_an_operator_write_one_chain(fleet: Fleet, other: Fleet) -> None:
    for one in (fleet, other, fleet):
        await one.add()
    async with fleet.connections.upkeep.use() as connection, connection.begin():
        await trail.note(connection, "GRACE", Actor("an operator"), "a network is mended")
    await other.add()
    found = await verified(fleet)
    assert (found.seal.number, found.head.number) == (0, 5)
    assert (await acts(fleet))[3]["act"] == "GRACE"


# ── nobody can change it ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "statement",
    ["update trail set acts = '[]'", "delete from trail", "truncate trail", "truncate trail_seal",
     "delete from trail_seal", "update trail_seal set number = 1",
     "insert into trail_seal (number, revision, hash) select number, revision, hash from trail"],
)  # fmt: skip
@pytest.mark.parametrize("replica", [False, True])
async def test_not_even_a_superuser_changes_it_unawares(fleet: Fleet, statement: str, replica: bool) -> None:
    await fleet.add()
    await fleet.sql.execute(f"set session_replication_role = {'replica' if replica else 'origin'}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fleet.sql.execute(statement)
    await fleet.sql.execute("reset session_replication_role")
    await verified(fleet)


@pytest.mark.parametrize(
    "statement",
    ["update trail set acts = '[]'", "delete from trail", "truncate trail",
     "insert into trail_seal (number, revision, hash) values (9, 9, '')", "delete from trail_seal",
     "alter table trail disable trigger user"],
)  # fmt: skip
async def test_the_server_has_no_right_to_change_it(fleet: Fleet, statement: str) -> None:
    await fleet.add()
    async with fleet.connections.upkeep.use() as connection:
        with pytest.raises(Exception, match=r"permission denied|must be owner"):
            await connection.exec_driver_sql(statement)
        await connection.rollback()


async def test_a_superuser_who_takes_itself_for_a_replica_forges_no_row(fleet: Fleet) -> None:
    await fleet.add()
    await fleet.sql.execute("set session_replication_role = replica")
    await fleet.sql.execute("""
        insert into trail (number, at, acts, hash)
        select number + 1, '2000-01-01', '[]', trail_hash(hash, number + 1, '2000-01-01', null, null, '[]')
        from trail""")
    await fleet.sql.execute("reset session_replication_role")
    assert (await verified(fleet)).head.number == 2
    assert await fleet.value("select at > clock_timestamp() - interval '1 minute' from trail where number = 2")


async def test_number_time_and_hash_are_the_databases_whoever_writes(fleet: Fleet) -> None:
    async with fleet.connections.upkeep.use() as connection, connection.begin():
        await connection.exec_driver_sql(
            "insert into trail (number, at, acts, hash) values (99, '2000-01-01', '[]', sha256('mine'))"
        )
    assert (await verified(fleet)).head.number == 1
    assert await fleet.value("select at > clock_timestamp() - interval '1 minute' from trail")


# ── who does all the same is found out ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def written(fleet: Fleet) -> list[InstanceId]:
    """Six rows."""
    return [await fleet.add() for _ in range(6)]


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("forgery", "told"),
    [
        ("update trail set acts = cast(replace(cast(acts as text), '\"ADD\"', '\"ADE\"') as json) where number = 3",
         "row 3 of the trail is not"),
        ("update trail set acts = cast(cast(acts as text) || ' ' as json) where number = 6",
         "row 6 of the trail is not"),
        ("update trail set at = at + interval '1 microsecond' where number = 2", "row 2 of the trail is not"),
        ("update trail set revision = revision + 1 where number = 1", "row 1 of the trail is not"),
        ("update trail set hash = set_byte(hash, 0, get_byte(hash, 0) # 1) where number = 4",
         "row 4 of the trail is not"),
        ("delete from trail where number = 4", "row 4 of the trail is missing"),
        ("delete from trail where number = 1", "row 1 of the trail is missing"),
        ("delete from trail where number = 6", "before the change 6 of the history"),
        ("delete from trail", "before the change 1 of the history"),
        ("update trail t set acts = o.acts from trail o where (t.number, o.number) in ((2, 5), (5, 2))",
         "row 2 of the trail is not"),
        ("update trail set number = case number when 2 then -5 else -2 end where number in (2, 5); "
         "update trail set number = -number where number < 0", "row 2 of the trail is not"),
    ],
)  # fmt: skip
async def test_what_was_changed_deleted_or_swapped_is_found(fleet: Fleet, forgery: str, told: str) -> None:
    await verified(fleet)
    await forge(fleet, "alter table trail drop constraint trail_number_positive", *forgery.split("; "))
    with pytest.raises(Broken, match=told):
        await verified(fleet)


@pytest.mark.usefixtures("written")
async def test_who_writes_it_all_anew_is_found_by_a_head_that_was_kept_elsewhere(fleet: Fleet) -> None:
    async with fleet.connections.readers.use() as connection:
        kept = Head.parsed(str(await trail.head_of(connection)))
    assert (await verified(fleet, kept)).head == kept
    await forge(
        fleet,
        "update trail set acts = cast(replace(cast(acts as text), '\"ADD\"', '\"ADE\"') as json) where number = 5",
        """
        do $$ declare last bytea; r record; begin
            select hash into last from trail_seal;
            for r in select * from trail order by number loop
                last := trail_hash(last, r.number, r.at, r.first_revision, r.revision, r.acts);
                update trail set hash = last where number = r.number;
            end loop;
        end $$""",
    )
    await verified(fleet)
    with pytest.raises(Broken, match="does not lead to 6:"):
        await verified(fleet, kept)


@pytest.mark.usefixtures("written")
async def test_who_cuts_off_its_end_with_the_history_is_found_by_a_head_too(fleet: Fleet) -> None:
    kept = (await verified(fleet)).head
    await forge(fleet, "delete from trail where number = 6", "delete from event where revision = 6")
    await verified(fleet)
    with pytest.raises(Broken, match="does not lead to 6:"):
        await verified(fleet, kept)


# ── what is past its retention ───────────────────────────────────────────────────────────────────────────────────────


async def aged(fleet: Fleet, upto: int, days: int) -> None:
    """As if the first rows had been written so long ago, each chained to the one before."""
    await forge(
        fleet,
        f"update trail set at = at - {days} * interval '1 day' where number <= {upto}",
        """
        do $$ declare last bytea; r record; begin
            select hash into last from trail_seal;
            for r in select * from trail order by number loop
                last := trail_hash(last, r.number, r.at, r.first_revision, r.revision, r.acts);
                update trail set hash = last where number = r.number;
            end loop;
        end $$""",
    )


async def trimmed(fleet: Fleet, kept: timedelta = 400 * DAY) -> None:
    await fleet.retain(Retention(DAY, 7 * DAY, 30 * DAY, trail=kept))
    async with fleet.connections.upkeep.use() as connection:
        while await trim.step(connection):
            pass


@pytest.mark.usefixtures("written")
async def test_trimming_leaves_a_seal_from_which_the_rest_is_verified(fleet: Fleet) -> None:
    await aged(fleet, 4, 401)
    last = await fleet.value("select hash from trail where number = 4")
    await trimmed(fleet)
    found = await verified(fleet)
    assert (found.seal, found.head.number) == (Head(4, last), 6)
    assert await fleet.value("select count(*) from trail_seal") == 1
    with pytest.raises(Broken, match="does not lead to 4:"):
        await verified(fleet, Head(4, bytes(32)))
    await forge(fleet, "delete from trail where number = 5")
    with pytest.raises(Broken, match="row 5 of the trail is missing"):
        await verified(fleet)


@pytest.mark.usefixtures("written")
async def test_a_trail_trimmed_to_none_goes_on_from_its_seal(fleet: Fleet) -> None:
    await aged(fleet, 6, 401)
    await fleet.sql.execute("delete from event")
    await trimmed(fleet)
    assert await fleet.value("select count(*) from trail") == 0
    await fleet.add()
    assert (await verified(fleet)).head.number == 7


@pytest.mark.usefixtures("written")
async def test_what_is_younger_than_thirty_days_is_kept_whatever_anybody_says(fleet: Fleet) -> None:
    await aged(fleet, 3, 29)
    with pytest.raises(asyncpg.CheckViolationError, match="control_trail_kept_range"):
        await fleet.sql.execute("update control set trail_kept = interval '1 day'")
    await trimmed(fleet, 30 * DAY)
    assert (await verified(fleet)).seal.number == 0
    await aged(fleet, 3, 2)
    await trimmed(fleet, 30 * DAY)
    assert (await verified(fleet)).seal.number == 3


def test_the_lock_of_the_chain_is_that_of_turns() -> None:
    assert "4711, 1" in LOCK
