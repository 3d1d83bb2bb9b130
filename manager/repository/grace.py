"""The grace that the fleet has at present, as all managers and the view `lease` read it."""

from datetime import datetime, timedelta

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.grace import EVER, Grace

NOTE = text("""
update control set grace_from = :since, grace_at = :at, grace_until = :until, grace_spent = :spent
""")


def grace_of(row: Row[tuple[object, ...]]) -> Grace:
    """The grace of a row of `control`."""
    return Grace(row.grace_from, row.grace_at, row.grace_until, row.grace_spent)


async def note(connection: AsyncConnection, grace: Grace) -> None:
    """What is forgiven from now on; in a turn."""
    await connection.execute(NOTE, {"since": grace.since, "at": grace.at, "until": grace.until, "spent": grace.spent})


PRESENT = text("""
select clock_timestamp() as now, ticked_at, grace_from, grace_at, grace_until, grace_spent from control
""")


async def forgive(connection: AsyncConnection, length: timedelta, most: timedelta) -> datetime | None:
    """Everybody who is alive, stale or not, is forgiven for `length`, as far as the hour's share goes; in a turn.

    Until when; None where the share is spent.
    """
    row = (await connection.execute(PRESENT)).one()
    grace = grace_of(row).given(row.now, EVER, length, most)
    await note(connection, grace)
    return grace.until if grace.left(row.now) else None


async def forgive_all(connection: AsyncConnection, length: timedelta) -> None:
    """Everybody who is alive on the record is forgiven for `length`, whatever the hour's share; in a turn.

    For when the record is not of this history: whom it has as silent may have been heard of after it ends.
    """
    row = (await connection.execute(PRESENT)).one()
    await note(connection, grace_of(row).set_back(row.now).given(row.now, EVER, length, None))
