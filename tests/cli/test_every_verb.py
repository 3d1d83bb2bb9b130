"""What holds for every verb of the command line, whichever there will be."""

import atexit
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
import typer
import yaml

from manager.cli.app import VERBS, app
from manager.cli.document import DURATIONS
from manager.cli.output import Format
from manager.pb import fleet_pb2, instance_manager_pb2, stats_service_pb2
from tests.cli.scene import Scene
from tests.conftest import PASSWORD, at
from tests.processes import Ended, imctl

# who has no -o, and why
WITHOUT_OUTPUT = {
    "dev": "serves until it is stopped",
    "serve": "serves until it is stopped",
    "run": "its stdout is its command's",
    "demo": "lives until it is stopped",
    "top": "is a screen for a person",
    "watch": "has them all, but never ends: test_watch.py",
    "completion": "writes a script for a shell",
}

Arguments = Callable[[Scene], Awaitable[Sequence[str]]]


def addresses(scene: Scene) -> dict[str, str]:
    """Of its database, for whoever asks it as itself, as a superuser, or as the auditor."""
    admin = scene.database.admin
    auditor = at(admin, database=scene.database.name, user="im_auditor", password=PASSWORD)
    return {"DATABASE_URL": admin, "IM_SUPERUSER_URL": admin, "IM_AUDITOR_URL": auditor}


def always(*arguments: str) -> Arguments:
    async def given(_: Scene) -> Sequence[str]:
        return arguments

    return given


async def a_browser(scene: Scene) -> Sequence[str]:
    return [await scene.add()]


async def a_victim(scene: Scene) -> Sequence[str]:
    return ["--yes", await scene.add()]


async def a_death(scene: Scene) -> Sequence[str]:
    one = await scene.add()
    await scene.kill(one, "why not")
    return [one]


async def a_family(scene: Scene) -> Sequence[str]:
    return [await scene.add(), await scene.add()]


async def an_offer(scene: Scene) -> Sequence[str]:
    return [await scene.add(), "CHROME_DEBUG_PORT=10.0.0.1:9222/x"]


async def a_measurement(scene: Scene) -> Sequence[str]:
    one = await scene.add()
    await scene.measure(one)
    return [one]


async def a_question(scene: Scene) -> Sequence[str]:
    """Of numbers, times, spans, lists and objects, and of nothing."""
    await scene.add()
    await scene.database.run(f"alter role im_auditor login password '{PASSWORD}'")
    query = """
        select i.id, i.type, i.labels, i.timeout, i.parent_id, i.created_at, i.created_revision, t.depth, t.path,
               m.rows, 0.5 as half
        from instances i join trees t on t.id = i.id cross join (select sum(1::bigint) as rows from instances) m"""
    return ["-c", query]


async def a_backup(scene: Scene) -> Sequence[str]:
    """Each in a folder of its own, since two in a second have one name."""
    folder = tempfile.mkdtemp(prefix="im-backup-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [folder, "--dump"]


async def an_authority(_: Scene) -> Sequence[str]:
    """A folder where none is yet, each time that it is asked for."""
    folder = tempfile.mkdtemp(prefix="im-certs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return ["init", folder]


async def a_restored_dump(scene: Scene) -> Sequence[str]:
    """What would be done with it: six times in a row, it would be done once."""
    given = await a_backup(scene)
    taken = await scene.imctl("backup", *given, **addresses(scene))
    assert taken.code == 0, taken.err
    return [*given, "--dry-run"]


# what each verb is given, anew for each format
GIVEN: dict[str, Arguments] = {
    "migrate": always(),
    "get": always(),
    "describe": a_browser,
    "tree": always(),
    "events": always(),
    "diff": always("@0"),
    "why": a_death,
    "wait": a_browser,
    "kill": a_victim,
    "add": always("--type", "VLLM"),
    "link": a_family,
    "service": an_offer,
    "health": a_browser,
    "metrics": a_measurement,
    "bench": always("--instances", "3", "--seconds", "0.1"),
    "doctor": always(),
    "sql": a_question,
    "backup": a_backup,
    "restore": a_restored_dump,
    "audit": always("verify"),
    "admin": always("grace"),
    "token": always("list", "--all"),
    "certs": an_authority,
    "version": always(),
}


def test_every_verb_answers_in_every_format_or_says_why_not() -> None:
    assert set(GIVEN) | set(WITHOUT_OUTPUT) == set(VERBS)
    for verb in GIVEN:
        command = typer.main.get_command(app(verb)).commands[verb]  # type: ignore[attr-defined]
        flags = {flag for each in command.params for flag in each.opts}
        assert flags >= {"--output", "-o", "--no-headers", "--columns", "--sort-by", "--quiet", "-q"}, verb


@pytest.mark.parametrize("verb", GIVEN)
async def test_every_format_is_what_it_says(scene: Scene, verb: str) -> None:
    lines = [[verb, *await GIVEN[verb](scene), "-o", each, "-q"] for each in Format]
    ended = await scene.runs(lines, **addresses(scene))
    assert [(each.code, each.err) for each in ended] == [(0, "")] * len(Format)
    told = dict(zip(Format, ended, strict=True))
    things = of_json(told[Format.JSON])
    assert keys(yaml.safe_load(told[Format.YAML].out)) == keys(json.loads(told[Format.JSON].out))
    rows = list(csv.DictReader(io.StringIO(told[Format.CSV].out)))
    assert len(rows) == len(things) == len(told[Format.NAME].out.splitlines())
    assert all(None not in row and None not in row.values() for row in rows)
    for each in (Format.TABLE, Format.WIDE):
        assert told[each].out
        assert "\x1b" not in told[each].out


@pytest.mark.parametrize("verb", GIVEN)
async def test_a_column_that_is_none_is_refused_before_anything_is_done(verb: str, scene: Scene) -> None:
    given = await GIVEN[verb](scene)
    before = await scene.database.value("select max(revision) from event")
    (ended,) = await scene.runs([[verb, *given, "--columns", "nonsense"]], **addresses(scene))
    assert (ended.code, ended.out) == (2, "")
    assert "there is no column 'nonsense', but " in ended.err
    assert await scene.database.value("select max(revision) from event") == before


def of_json(ended: Ended) -> list[dict[str, Any]]:
    """The things told, one by itself as a list of one; what holds for all of them is looked at."""
    told = json.loads(ended.out)
    things = told if isinstance(told, list) else [told]
    look(things)
    return things


def look(value: Any, name: str = "") -> None:
    """No 64-bit number is a number, and every time is one in UTC."""
    if isinstance(value, dict):
        for key, inner in value.items():
            assert key == key.lower() or name == "labels"
            look(inner, key)
    elif isinstance(value, list):
        for inner in value:
            look(inner, name)
    elif name in TIMES and value is not None:
        assert value.endswith("Z")
        datetime.fromisoformat(value)
    elif name in LONG:
        assert isinstance(value, str), name


def keys(value: Any) -> Any:
    """Its shape."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in value.items()}
    return [keys(inner) for inner in value] if isinstance(value, list) else type(value)


FIELDS = [
    field
    for module in (instance_manager_pb2, fleet_pb2, stats_service_pb2)
    for message in module.DESCRIPTOR.message_types_by_name.values()
    for field in message.fields
]
LONG = {field.name for field in FIELDS if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)}
TIMES = {name.removesuffix("_ms") for name in LONG - DURATIONS if name.endswith("_ms")}


def test_every_number_of_milliseconds_is_known_as_a_time_or_a_duration() -> None:
    told = {field.name for field in FIELDS if field.name.endswith("_ms")}
    assert told - DURATIONS == {
        *("created_at_ms", "last_health_check_ms", "died_at_ms", "deadline_ms", "timestamp_ms", "from_ms", "to_ms"),
        "time_ms",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples_and_no_option_is_unexplained(verb: str) -> None:
    command = typer.main.get_command(app(verb)).commands[verb]  # type: ignore[attr-defined]
    assert f"imctl {verb}" in (command.help or "").partition("Examples:")[2]
    for each in command.params:
        assert getattr(each, "help", ""), (verb, each.name)


@pytest.mark.parametrize(
    ("arguments", "what", "then"),
    [
        (("nonsense",), "No such command 'nonsense'.", "see `imctl --help`"),
        (("get", "--nonsense"), "No such option: --nonsense", "see `imctl get --help`"),
        (("get", "-o", "xml"), "'table', 'wide', 'json', 'yaml', 'name', 'csv'", "see `imctl get --help`"),
        (("describe",), "Missing argument 'ID'.", "see `imctl describe --help`"),
        (("get", "--type", "LION"), "WARMPOOL_PROXY", "see `imctl get --help`"),
    ],
)
async def test_what_is_no_usage_is_told_in_two_lines(arguments: Sequence[str], what: str, then: str) -> None:
    ended = await imctl(*arguments)
    first, second = ended.err.splitlines()
    assert (ended.code, ended.out) == (2, "")
    assert first.startswith("imctl: ")
    assert what in first
    assert second.strip() == then
