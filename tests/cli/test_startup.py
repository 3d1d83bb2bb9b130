"""A client command is there at once, since it imports nothing that it does not need. Modules are counted, not time."""

import asyncio
import json
import subprocess
import sys

import pytest

from manager.cli.app import VERBS
from tests.cli.imctl import ROOT
from tests.cli.scene import Scene

# each of them takes a twentieth of a second or more, or brings others that do
HEAVY = {
    *("sqlalchemy", "asyncpg", "alembic", "pydantic", "pydantic_settings", "prometheus_client", "starlette", "uvicorn"),
    *("rich", "textual", "yaml", "manager.server", "manager.repository"),
}
CLIENT = [verb for verb, its in VERBS.items() if its.extra == "run"]
LOADED = "import sys, json; from manager.cli.app import loaded, VERBS; v = sys.argv[1]; loaded(v, VERBS[v]); "
RAN = """
import sys, json
from manager.cli.app import imctl
try:
    imctl(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def heavy(modules: str) -> set[str]:
    """Those that should not be among them."""
    return HEAVY & set(json.loads(modules))


@pytest.mark.parametrize("verb", CLIENT)
def test_a_client_verb_is_loaded_without_anything_heavy(verb: str) -> None:
    code = LOADED + "print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code, verb], cwd=ROOT, capture_output=True, text=True, check=True)
    assert heavy(told.stdout) == set()


@pytest.mark.parametrize("form", ["table", "json", "csv", "name"])
async def test_a_client_verb_runs_without_anything_heavy(scene: Scene, form: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RAN, "get", "-o", form, "--address", scene.address),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert heavy(err.decode()) == set()


def test_what_asks_nobody_loads_nothing_that_could_ask() -> None:
    """`version` and `--help` are what people meet first."""
    for arguments in (["version"], ["--help"]):
        code = RAN.replace("imctl(sys.argv[1:])", f"imctl({arguments})")
        told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert not {"asyncio", "grpc", "google.protobuf", *HEAVY} & set(json.loads(told.stderr)), arguments


def test_who_serves_does_without_what_migrates() -> None:
    """Alembic, and the highlighting of its templates' errors, would be a tenth of a manager's memory at rest."""
    code = LOADED + "import manager.server; print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code, "serve"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"alembic", "mako", "pygments"} & set(json.loads(told.stdout))
