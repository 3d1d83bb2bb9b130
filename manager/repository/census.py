"""The census: how many live, of each type and state."""

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import InstanceType, Status

LIVING = text("select type, count(*) as number from instance where died_revision is null group by type")

STALE = text("""
select i.type, count(*) as number
from (select instance_id from lease where stale) s
cross join lateral (
    select type from instance where id = s.instance_id and died_revision is null offset 0) i
group by i.type
""")

Census = Mapping[tuple[InstanceType, Status], int]


async def take(connection: AsyncConnection) -> Census:
    """The healthy and the stale of every type; nought where there is nobody. The connection sees one moment."""
    living = {row.type: row.number for row in await connection.execute(LIVING)}
    stale = {row.type: row.number for row in await connection.execute(STALE)}
    census: dict[tuple[InstanceType, Status], int] = {}
    for each in InstanceType:
        census[each, Status.STALE] = min(stale.get(each, 0), living.get(each, 0))
        census[each, Status.HEALTHY] = living.get(each, 0) - census[each, Status.STALE]
    return census
