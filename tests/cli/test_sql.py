"""imctl sql: whom it logs in as, what it shows of the password, and what it says where there is no answer."""

import json
from collections.abc import Sequence

import pytest

from manager.cli.sql import named
from tests.conftest import PASSWORD, Database, at
from tests.processes import Ended, imctl


async def asked(database: Database, *arguments: str) -> Ended:
    """What the auditor is told of that database."""
    await database.run(f"alter role im_auditor login password '{PASSWORD}'")
    url = at(database.admin, database=database.name, user="im_auditor", password=PASSWORD)
    return await imctl("sql", *arguments, IM_AUDITOR_URL=url)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("postgresql://db/x", "postgresql://im_auditor@db/x"),
        ("postgresql:///x?host=/run", "postgresql://im_auditor@/x?host=/run"),
        ("postgresql://somebody@db/x", "postgresql://somebody@db/x"),
        ("postgresql://db/x?user=somebody", "postgresql://db/x?user=somebody"),
        ("host=db user=somebody", "host=db user=somebody"),
    ],
)
def test_an_address_that_names_nobody_is_the_auditor_s(given: str, asked: str) -> None:
    assert named(given) == asked


async def test_values_are_what_programs_can_read_and_people_too(database: Database) -> None:
    query = """
        select 1 as small, 1::bigint as large, 1.5 as part, null as nothing, true as yes, interval '90 s' as span,
               timestamptz '2026-03-02 16:20+00' as at, array[1, 2] as list, '{"a": {"b": 1}}'::jsonb as object,
               uuid '00000000-0000-0000-0000-000000000001' as id"""
    told = await asked(database, "-c", query, "-o", "json")
    assert json.loads(told.out) == [
        {
            "small": 1,
            "large": "1",
            "part": "1.5",
            "nothing": None,
            "yes": True,
            "span": "00:01:30",
            "at": "2026-03-02T16:20:00.000Z",
            "list": [1, 2],
            "object": {"a": {"b": 1}},
            "id": "00000000-0000-0000-0000-000000000001",
        }
    ]
    told = await asked(database, "-c", query, "-o", "csv", "--columns", "large,nothing,at,object")
    assert told.out == 'large,nothing,at,object\n1,,2026-03-02T16:20:00.000Z,"{""a"": {""b"": 1}}"\n'


async def test_rows_are_sorted_by_the_column_that_is_named(database: Database) -> None:
    query = "select n, 10 - n as rest from generate_series(1, 3) n"
    assert (await asked(database, "-c", query, "-o", "name", "--sort-by=-n")).out == "3\n2\n1\n"
    assert (await asked(database, "-c", query, "--no-headers", "--sort-by", "rest")).out == "3  7\n2  8\n1  9\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-c", "select nonsense from trees"), 1, 'column "nonsense" does not exist'),
        (("-c", "select * from public.instance"), 1, "permission denied for table instance"),
        (("-c", "select 1; select 2"), 1, "cannot insert multiple commands"),
        (("-c", "select 1", "--", "--csv"), 2, "and not both"),
        (("-o", "json"), 2, "give a query by --command"),
        (("-c", "select 1 as one", "--columns", "two"), 2, "there is no column 'two', but one"),
    ],
)
async def test_what_cannot_be_answered_is_said_in_a_line(
    database: Database, arguments: Sequence[str], code: int, words: str
) -> None:
    told = await asked(database, *arguments)
    assert (told.code, told.out) == (code, "")
    assert told.err.startswith("imctl: ")
    assert words in told.err
    assert "Traceback" not in told.err


async def test_a_database_that_is_not_there_is_said_in_a_line() -> None:
    told = await imctl("sql", "--url", "postgresql://im_auditor@127.0.0.1:1/x", "-c", "select 1")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("imctl: the database cannot be asked: ")
