"""Transactions and the statements of the hot paths, run on asyncpg itself.

SQLAlchemy's way to it takes three times the CPU of a statement, and begins a transaction by a trip of its own.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import asyncpg
from asyncpg.pgproto import pgproto
from sqlalchemy import Dialect, TextClause
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

NOTHING: Mapping[str, Any] = {}
# the driver's own UUID, which is one of Python's too: read from text, and written again, in a tenth of the time
FastUUID = pgproto.UUID


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row whose columns are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


async def rows(
    connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any] = NOTHING
) -> Sequence[Row]:
    """All rows of a statement."""
    sql, names = _positional(statement)
    return cast(Sequence[Row], await driver(connection).fetch(sql, *[values[each] for each in names]))


async def row(connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any] = NOTHING) -> Row:
    """The one row of a statement that always has one."""
    (one,) = await rows(connection, statement, values)
    return one


async def affected(connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any]) -> int:
    """How many rows a statement wrote."""
    sql, names = _positional(statement)
    status = await driver(connection).execute(sql, *[values[each] for each in names])
    return int(status.rpartition(" ")[2])


def driver(connection: AsyncConnection) -> Any:
    """asyncpg's connection below it."""
    pooled = cast(Any, connection.sync_connection).connection
    return pooled.driver_connection


@cache
def _positional(statement: TextClause) -> tuple[str, Sequence[str]]:
    """The statement as PostgreSQL takes it, and the names of its values in their order."""
    compiled = statement.compile(dialect=cast(Dialect, cast(Any, PGDialect_asyncpg)()))
    return str(compiled), tuple(compiled.positiontup or ())
