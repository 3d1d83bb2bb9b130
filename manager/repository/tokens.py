"""Who may call: the hashes of what callers show, with the role that each has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import InstanceId
from manager.domain.principal import Principal, Role


@dataclass(frozen=True, slots=True)
class Grant:
    """What is to be known from now on: the hash of a token, or that of the URI in a certificate, which is kept too."""

    name: str
    role: Role
    hash: bytes
    uri: str | None = None
    instance: InstanceId | None = None
    lasts: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Whom a hash stands for, and for how many seconds more; None: until it is revoked."""

    principal: Principal
    left: float | None


@dataclass(frozen=True, slots=True)
class Token:
    """A token or a certificate's name as an operator sees it. `valid`: neither revoked nor expired."""

    id: UUID
    name: str
    role: Role
    uri: str | None
    instance_id: UUID | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    valid: bool


FIND = text("""
select hash, id, name, role, instance_id,
       cast(extract(epoch from expires_at - clock_timestamp()) as double precision) as left
from token
where hash = any(:hashes) and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())
""")


async def find(connection: AsyncConnection, hashes: Sequence[bytes]) -> Mapping[bytes, Found]:
    """Whom these hashes stand for now; nobody for those that are unknown, expired or revoked."""
    rows = await connection.execute(FIND, {"hashes": list(hashes)})
    return {bytes(each.hash): Found(_principal(each), each.left) for each in rows}


def _principal(row: Any) -> Principal:
    return Principal(row.name, Role(row.role), row.instance_id and InstanceId(row.instance_id), row.id)


# two minutes: longer than a statement that revokes can take to be committed and seen
REVOKED = text("select hash from token where revoked_at > clock_timestamp() - interval '2 minutes'")


async def revoked_lately(connection: AsyncConnection) -> Sequence[bytes]:
    """The hashes that were revoked in the last two minutes."""
    return [bytes(each) for each in (await connection.execute(REVOKED)).scalars()]


USED = text("""
update token set last_used_at = clock_timestamp()
where id = any(:ids) and (last_used_at is null or last_used_at < clock_timestamp() - interval '1 minute')
""")


async def used(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Keeps that these were shown, to the minute."""
    await connection.execute(USED, {"ids": list(ids)})


CREATE = text("""
insert into token (name, role, hash, uri, instance_id, expires_at)
select :name, :role, :hash, :uri, :instance, clock_timestamp() + cast(:lasts as interval)
where not exists (
    select from token
    where name = :name and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())
)
returning id
""")


async def create(connection: AsyncConnection, grant: Grant) -> UUID | None:
    """The id of the new one; None where something valid has the name already."""
    values = {
        "name": grant.name,
        "role": grant.role.value,
        "hash": grant.hash,
        "uri": grant.uri,
        "instance": grant.instance,
        "lasts": grant.lasts,
    }
    return (await connection.execute(CREATE, values)).scalar_one_or_none()


# the one before stays valid, those before it do not: so every holder has the time from one rotation to the next
ROTATE = text("""
with newest as (
    select id, role, instance_id from token
    where name = :name and uri is null and revoked_at is null
        and (expires_at is null or expires_at > clock_timestamp())
    order by created_at desc limit 1
), older as (
    update token set revoked_at = clock_timestamp()
    where name = :name and uri is null and revoked_at is null and id <> (select id from newest)
)
insert into token (name, role, hash, instance_id, expires_at)
select :name, role, :hash, instance_id, clock_timestamp() + cast(:lasts as interval) from newest
returning id, name, role
""")


async def rotate(
    connection: AsyncConnection, name: str, hash_: bytes, lasts: timedelta | None
) -> tuple[UUID, str, str] | None:
    """Id, name and role of one more token of that name, role and instance; None where no valid token has the name.

    The newest before it stays valid, older ones are revoked.
    """
    values = {"name": name, "hash": hash_, "lasts": lasts}
    made = (await connection.execute(ROTATE, values)).one_or_none()
    return None if made is None else (made.id, made.name, made.role)


REVOKE = text("""
update token set revoked_at = clock_timestamp()
where revoked_at is null and (name = :which or cast(id as text) = lower(:which))
returning id
""")


async def revoke(connection: AsyncConnection, which: str) -> Sequence[UUID]:
    """Ends all of a name, or the one of an id; the ids of those that were not revoked before."""
    return list((await connection.execute(REVOKE, {"which": which})).scalars())


LIST = text("""
select id, name, role, uri, instance_id, created_at, expires_at, revoked_at, last_used_at,
       revoked_at is null and (expires_at is null or expires_at > clock_timestamp()) as valid
from token where instance_id is null or :everybody order by name, created_at
""")


async def list_all(connection: AsyncConnection, *, everybody: bool) -> Sequence[Token]:
    """All that were ever made, by name; those of single instances only with `everybody`."""
    rows = await connection.execute(LIST, {"everybody": everybody})
    return [Token(**{**each._mapping, "role": Role(each.role)}) for each in rows]


@dataclass(frozen=True, slots=True)
class Mint:
    """A token for an instance, whose registration was the change of that revision, asked for by that principal."""

    instance: InstanceId
    revision: int
    registrar: str
    hash: bytes


# Whoever registered it gets one, then another; of which the last two are valid. Who that was says the event, and once
# the event is past the kept history the trail. That has no index of revisions, but they grow with its numbers: so it is
# halved down to the first row that reaches the one wanted. Rows without a revision stand between.
MINT = text("""
with recursive asked as (
    select u.instance, u.revision, u.registrar, u.hash, e.actor
    from unnest(cast(:instances as uuid[]), cast(:revisions as bigint[]), cast(:registrars as text[]),
                cast(:hashes as bytea[])) u(instance, revision, registrar, hash)
    left join event e on e.revision = u.revision and e.instance_id = u.instance and e.type = 1
), half as (
    select a.revision as wanted, (select min(t.number) from trail t) as low,
           (select max(t.number) from trail t) as high
    from (select distinct revision from asked where actor is null) a
    union all
    select h.wanted, case when m.reached then h.low else (h.low + h.high) / 2 + 1 end,
           case when m.reached then (h.low + h.high) / 2 else h.high end
    from half h cross join lateral (
        select coalesce((select t.revision from trail t
                         where t.number >= (h.low + h.high) / 2 and t.revision is not null
                         order by t.number limit 1) >= h.wanted, true) as reached) m
    where h.low < h.high
), kept as (
    select distinct r.number
    from half h cross join lateral (
        select t.number, t.first_revision, t.revision from trail t
        where t.number >= h.low and t.revision is not null order by t.number limit 1) r
    where h.low = h.high and h.wanted between r.first_revision and r.revision
), told as (
    select cast(a.act ->> 'revision' as bigint) as revision, cast(a.act ->> 'instance' as uuid) as instance,
           a.act ->> 'who' as who
    from kept k join trail t on t.number = k.number cross join lateral json_array_elements(t.acts) a(act)
    where a.act ->> 'act' = 'ADD'
), due as (
    select a.instance, a.hash
    from asked a left join told t on t.revision = a.revision and t.instance = a.instance
    where coalesce(a.actor, t.who) = a.registrar
), valid as (
    select t.id, row_number() over (partition by t.instance_id order by t.created_at desc) as place
    from token t where t.instance_id in (select instance from due) and t.revoked_at is null
), older as (
    update token set revoked_at = clock_timestamp() where id in (select id from valid where place > 1)
)
insert into token (name, role, hash, instance_id)
select 'instance ' || instance, 'instance', hash, instance from due
returning hash
""")


async def mint(connection: AsyncConnection, wanted: Sequence[Mint]) -> set[bytes]:
    """Makes tokens for instances; the hashes of those that were made: for whoever registered them, as the event says,
    or the trail where the event is not kept any more.

    At most one for each instance: several at once would not know of each other.
    """
    values = {
        "instances": [each.instance for each in wanted],
        "revisions": [each.revision for each in wanted],
        "registrars": [each.registrar for each in wanted],
        "hashes": [each.hash for each in wanted],
    }
    return {bytes(each) for each in (await connection.execute(MINT, values)).scalars()}


FORGET = text("""
delete from token t
where t.instance_id is not null and not exists (select from instance i where i.id = t.instance_id)
""")


async def forget_buried(connection: AsyncConnection) -> int:
    """Removes the tokens of instances that nobody remembers; how many."""
    return (await connection.execute(FORGET)).rowcount
