"""Statements of the hot paths, run on asyncpg itself: SQLAlchemy's way to it takes three times the CPU of a statement.

The transaction stays SQLAlchemy's: one that is to be in it comes after its first statement, which begins it.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import asyncpg
from sqlalchemy import Dialect, TextClause
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

NOTHING: Mapping[str, Any] = {}


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
    return cast(Sequence[Row], await _driver(connection).fetch(sql, *[values[each] for each in names]))


async def row(connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any] = NOTHING) -> Row:
    """The one row of a statement that always has one."""
    (one,) = await rows(connection, statement, values)
    return one


async def affected(connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any]) -> int:
    """How many rows a statement wrote."""
    sql, names = _positional(statement)
    status = await _driver(connection).execute(sql, *[values[each] for each in names])
    return int(status.rpartition(" ")[2])


def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    pooled = cast(Any, connection.sync_connection).connection
    return cast(asyncpg.Connection, pooled.driver_connection)


@cache
def _positional(statement: TextClause) -> tuple[str, Sequence[str]]:
    """The statement as PostgreSQL takes it, and the names of its values in their order."""
    compiled = statement.compile(dialect=cast(Dialect, cast(Any, PGDialect_asyncpg)()))
    return str(compiled), tuple(compiled.positiontup or ())
