"""A question to the record: one query, as the role in the address, and under that role's own bounds."""

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

PATIENCE = 10.0


class Unanswered(Exception):
    """PostgreSQL's own words, and its hint where it has one."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Field:
    """A column of an answer, and PostgreSQL's name of its type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave: a value a field in each row; JSON as what it holds, intervals in PostgreSQL's words."""

    fields: tuple[Field, ...]
    rows: tuple[tuple[Any, ...], ...]


async def ask(url: str, query: str) -> Answer:
    """The whole answer to one query. Raises Unanswered where the database has none."""
    try:
        connection = await asyncpg.connect(
            url, timeout=PATIENCE, server_settings={"application_name": "imctl sql", "timezone": "UTC"}
        )
        try:
            return await _asked(connection, query)
        finally:
            await connection.close()
    except asyncpg.PostgresError as error:
        raise Unanswered(str(error), getattr(error, "hint", None) or "") from None
    except (OSError, asyncpg.InterfaceError) as error:
        raise Unanswered(f"the database cannot be asked: {error or type(error).__name__}") from None


async def _asked(connection: Any, query: str) -> Answer:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    await connection.set_type_codec("interval", schema="pg_catalog", encoder=str, decoder=str)
    statement = await connection.prepare(query)
    rows = await statement.fetch()
    fields = tuple(Field(each.name, each.type.name) for each in statement.get_attributes())
    return Answer(fields, tuple(tuple(row) for row in rows))
