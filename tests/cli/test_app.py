import subprocess
import sys

import pytest

from manager.cli.app import VERBS, loaded
from tests.cli.imctl import IMCTL, ROOT


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_verb(flag: str) -> None:
    told = subprocess.run([*IMCTL, flag], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert told.returncode == 0
    assert all(f"  {verb} " in told.stdout for verb in VERBS)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_told_as_other_tools_tell_it(flag: str) -> None:
    said, meant = (
        subprocess.run([*IMCTL, each], cwd=ROOT, capture_output=True, text=True, timeout=30)
        for each in (flag, "version")
    )
    assert (said.returncode, said.stdout) == (0, meant.stdout)


def test_listing_the_verbs_loads_none_of_them() -> None:
    heavy = "{'grpc', 'psutil', 'sqlalchemy', 'asyncpg', 'rich'}"
    told = python(
        "import sys; from manager.cli.app import app\n"
        "try: app()(args=['--help'])\nexcept SystemExit: pass\n"
        f"sys.exit(repr({heavy} & set(sys.modules)))"
    )
    assert told.stderr.strip() == "set()"


def test_running_a_command_loads_nothing_of_the_server() -> None:
    told = python(
        "import sys; import manager.cli.run\n"
        "sys.exit(repr({'sqlalchemy', 'asyncpg', 'alembic', 'pydantic_settings', 'manager.server'} & set(sys.modules)))"
    )
    assert told.stderr.strip() == "set()"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_function(verb: str) -> None:
    assert loaded(verb, VERBS[verb]).__name__ == verb


def test_a_missing_extra_is_named() -> None:
    told = python(
        "import sys; sys.modules['psutil'] = None\n"
        "from manager.cli.app import imctl; imctl(['run', '--type', 'VLLM', 'true'])"
    )
    assert told.returncode == 1
    assert told.stderr == "imctl: `imctl run` needs more than is installed: pip install 'instance-manager[run]'\n"


def test_a_missing_command_line_is_named() -> None:
    told = python("import sys; sys.modules['typer'] = None\nfrom manager.__main__ import main\nmain()")
    assert told.returncode == 1
    assert told.stderr == "imctl: the command line is not installed: pip install 'instance-manager[run]'\n"


@pytest.mark.parametrize("arguments", [[b"get", b"--hostname", b"\xff"], [b"kill", b"\xc0\x80"], [b"\xff"]])
def test_an_argument_that_is_no_text_is_told_so(arguments: list[bytes]) -> None:
    command = [each.encode() for each in IMCTL]
    told = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "imctl: an argument is not text in UTF-8\n       see `imctl --help`\n"
