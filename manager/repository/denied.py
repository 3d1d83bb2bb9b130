"""Calls that were turned away, counted by the hour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class Denied(NamedTuple):
    """What is counted together. `who` is empty where nobody knows; `code` is gRPC's number."""

    who: str
    address: str
    method: str
    code: int


# sorted, since managers that add to the same rows would otherwise wait for each other
ADD = text("""
insert into denied_call (since, who, address, method, code, calls, last_at)
select date_bin('1 hour', c.now, timestamptz '2000-01-01 00:00+00'), u.who, u.address, u.method, u.code, u.calls, c.now
from unnest(cast(:who as text[]), cast(:address as text[]), cast(:method as text[]), cast(:code as smallint[]),
            cast(:calls as bigint[])) u(who, address, method, code, calls)
cross join (select clock_timestamp() as now) c
order by 2, 3, 4, 5
on conflict on constraint denied_call_pkey do update
set calls = denied_call.calls + excluded.calls, last_at = greatest(denied_call.last_at, excluded.last_at)
""")


async def add(connection: AsyncConnection, counted: Mapping[Denied, int]) -> None:
    """Adds to the counts of this hour."""
    values: dict[str, object] = {
        name: [getattr(each, name) for each in counted] for name in ("who", "address", "method", "code")
    }
    await connection.execute(ADD, {**values, "calls": list(counted.values())})


@dataclass(frozen=True, slots=True)
class Counted:
    """How many calls of a kind were turned away in an hour, and when the last one."""

    since: datetime
    last_at: datetime
    who: str
    address: str
    method: str
    code: str
    calls: int


LATELY = text("""
select since, last_at, who, address, method,
       case code when 7 then 'PERMISSION_DENIED' when 16 then 'UNAUTHENTICATED' end as code, calls
from denied_call order by since desc, last_at desc, calls desc limit :most
""")


async def lately(connection: AsyncConnection, most: int) -> Sequence[Counted]:
    """The newest so many."""
    return [Counted(**each._mapping) for each in await connection.execute(LATELY, {"most": most})]


TRIM = text("select trim_denied(:step)")


async def trim(connection: AsyncConnection, step: int) -> int:
    """Deletes a little of what is past its retention; how much."""
    return int((await connection.execute(TRIM, {"step": step})).scalar_one())
