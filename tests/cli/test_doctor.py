"""What `imctl doctor` finds, and what it says to do."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manager.cli import database_checks
from manager.cli.finding import State, judged
from manager.cli.manager_checks import clock
from manager.repository import migrations
from manager.repository.checkup import Archiver, Checkup, Held
from tests.cli.scene import Scene
from tests.conftest import at
from tests.processes import Ended, imctl

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


def found(ended: Ended) -> dict[str, dict[str, Any]]:
    """Each thing that was looked at."""
    return {each["check"]: each for each in json.loads(ended.out)}


async def test_all_is_well_with_a_manager_and_its_database(scene: Scene) -> None:
    http = scene.server.http[0].rpartition(":")[2]
    ended = await scene.imctl("doctor", "-o", "json", DATABASE_URL=scene.database.url, IM_HTTP_PORT=http)
    told = found(ended)
    assert told["http"]["found"].endswith(f":{http} answers")
    assert set(told) == {
        *("port", "http", "manager", "protocol", "calls", "clock"),
        *("database", "schema", "database clock", "connections", "snapshots", "durability", "archive", "doorbell"),
        "auditor",
    }
    assert {each["state"] for each in told.values()} <= {"ok", "warning", "skipped"}  # this machine may be slow
    assert told["archive"]["state"] == "skipped"  # the tests' server has none
    assert ended.code == 0


async def test_what_an_auditor_may_and_should_not_is_told_with_what_to_do(scene: Scene) -> None:
    await migrations.upgrade(scene.database.admin)  # as a superuser
    assert found(await scene.imctl("doctor", "-o", "json", DATABASE_URL=scene.database.url))["auditor"]["state"] == "ok"
    await scene.database.run("grant execute on function pg_advisory_lock(int, int) to public")
    told = found(await scene.imctl("doctor", "-o", "json", DATABASE_URL=scene.database.url))["auditor"]
    assert told["state"] == "warning"
    assert "may hold the locks of changes" in told["found"]
    assert "as a superuser" in told["advice"]
    await scene.database.run("revoke execute on function pg_advisory_lock(int, int) from public")


async def test_a_manager_that_is_not_there_is_told_with_what_to_do() -> None:
    ended = await imctl("doctor", "--address", "127.0.0.1:1", "-o", "json", DATABASE_URL=NOWHERE)
    told = found(ended)
    assert ended.code == 1
    assert [told[each]["state"] for each in ("port", "manager", "database")] == ["failed"] * 3
    assert "nobody listens at 127.0.0.1:1" in told["port"]["found"]
    assert "imctl dev" in told["port"]["advice"]


async def test_a_http_port_where_no_console_is_is_told(scene: Scene) -> None:
    grpc = scene.address.rpartition(":")[2]
    for port, words in (("1", "nobody answers at"), (grpc, "answers")):
        told = found(await scene.imctl("doctor", "-o", "json", "--http-port", port, DATABASE_URL=scene.database.url))
        assert told["http"]["state"] == "warning"
        assert words in told["http"]["found"]
        assert "--http-port" in told["http"]["advice"]


async def test_a_database_without_the_schema_is_told(scene: Scene) -> None:
    empty = at(scene.database.admin, database="postgres")
    told = found(await scene.imctl("doctor", "-o", "json", DATABASE_URL=empty))
    assert told["schema"]["state"] == "failed"
    assert "imctl migrate" in told["schema"]["advice"]


async def test_without_a_word_on_the_database_it_is_not_looked_at(scene: Scene) -> None:
    told = found(await scene.imctl("doctor", "-o", "json", "--data-dir", "/nowhere"))
    assert told["database"]["state"] == "skipped"
    assert "DATABASE_URL" in told["database"]["advice"]


@pytest.mark.parametrize(("value", "state"), [(1, State.OK), (2, State.WARNING), (3, State.FAILED)])
def test_what_is_measured_is_fine_doubtful_or_poor(value: float, state: State) -> None:
    told = judged("x", value, (1, 2), "found", "advice")
    assert told.state is state
    assert bool(told.advice) is (state is not State.OK)


def test_a_clock_may_be_ahead_or_behind() -> None:
    assert "0.50 s behind" in clock("clock", -0.5).found
    assert clock("clock", 60).state is State.FAILED


def test_a_long_snapshot_is_told_with_who_holds_it() -> None:
    told = database_checks.snapshots(Held("pg_dump", 7, timedelta(hours=2)), hidden=3)
    assert told.state is State.FAILED
    assert "pg_dump, pid 7: for 2h" in told.found
    assert "pg_monitor" in told.found
    assert database_checks.snapshots(None, 0).state is State.OK


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("archiver", "state", "found"),
    [
        (None, State.SKIPPED, "nothing is archived"),
        (Archiver(None, None, None), State.OK, "nothing yet"),
        (Archiver(NOW, 0, None), State.OK, " ago, 0 B wait"),
        (Archiver(NOW, 10 * 16 << 20, None), State.WARNING, "160.0 MiB wait"),
        (Archiver(NOW, 100 * 16 << 20, None), State.FAILED, "1.6 GiB wait"),
        (Archiver(NOW, 16 << 20, NOW), State.FAILED, " ago, 16.0 MiB wait)"),
        (Archiver(None, None, NOW), State.FAILED, "it fails (never)"),
    ],
)
def test_an_archive_that_fails_or_falls_behind_is_told(archiver: Archiver | None, state: State, found: str) -> None:
    told = database_checks.archive(archiver)
    assert (told.state, found in told.found) == (state, True), told


def test_a_standby_a_crowd_and_a_dumb_doorbell_are_told() -> None:
    seen = Checkup("18.1", standby=True, now=datetime.now(UTC), size=1, connections=99, most=100, hidden=0)
    assert database_checks.server(seen).state is State.FAILED
    assert database_checks.connections(seen).state is State.FAILED
    assert database_checks.doorbell(None).state is State.WARNING
