"""No password is an argument, which everybody on a machine can read: not in deploy/, nor on a page."""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import yaml

from manager.embedded import Postgres, binaries, start
from manager.embedded.argument import without_password
from manager.embedded.home import Home
from manager.repository import migrations
from tests.cli.terminal import at_terminal
from tests.commands import script

ROOT = Path(__file__).parents[2]
NAME = "instance_manager"
ODD = """it's "odd" \\ $HOME `id` :'x' %s"""  # what would break whatever takes it for more than a word

PAGES = sorted(
    each
    for folder in ("deploy", "docs", "examples", "manager/cli")
    for each in (ROOT / folder).rglob("*")
    if each.suffix in (".md", ".yaml", ".conf", ".cfg", ".env", ".service", ".py", ".mjs", ".js", "")
    and each.is_file()
    and "node_modules" not in each.parts
)
PAGES += [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")]

# each of them is right in the environment, and as the file's own: `NAME=...`, `NAME: ...`
ASSIGNED = re.compile(r"\b[A-Z][A-Z_]*(?:=|: )(?:\"[^\"]*\"|'[^']*'|\S+)")
WRONG = (
    re.compile(r"\bpassword\s+\\*['\"](?! *[:;,])", re.I),  # in SQL, which is psql's argument
    re.compile(r"\w://[^\s/:@]*:[^\s/@]+@"),
    re.compile(r"\$\$?\{?\w*(?:PASSWORD|SECRET|TOKEN)\b"),
    re.compile(r"--(?:password|token|from-literal)[= ]\S"),
    re.compile(r"bearer (?:\$|imt_\w)", re.I),
)
# Python's own, which no shell sees
PYTHON = re.compile(r"f\"|f'|\{[a-z_.]+\}")


def told(text: str) -> list[str]:
    """The lines that have a password where it could be read."""
    lines = ((line, ASSIGNED.sub("", line)) for line in text.splitlines())
    return [line for line, rest in lines if not PYTHON.search(rest) and any(each.search(rest) for each in WRONG)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_has_a_password_among_its_arguments(page: Path) -> None:
    assert told(page.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        """psql "$DATABASE_URL" -c "alter role im_server login password '...'" """,
        """psql "$DATABASE_URL" -c "alter role im_server login password '$PASSWORD'" """,
        r"""command: ["sh", "-c", "psql \"$$DATABASE_URL\" -c \"alter role x login password '$$SERVER_PASSWORD'\""]""",
        "psql postgresql://postgres:secret@db/x",
        "imctl backup /var --url postgresql://postgres:${PASSWORD}@db/x",
        "imctl something --token imt_x",
        'curl -H "authorization: Bearer $TOKEN" https://manager',
        "kubectl create secret generic x --from-literal=url=postgresql://db",
    ],
)
def test_a_password_among_the_arguments_would_be_seen(line: str) -> None:
    assert told(line) == [line]


# ── what takes their place ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of one's own, since roles are all databases'."""
    folder = Path(tempfile.mkdtemp(prefix="im-passwords-"))
    folder.chmod(0o755)
    with start(folder / "data") as postgres:
        yield postgres
    shutil.rmtree(folder)


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[str]:
    """The address of a migrated database, as a superuser."""
    await server.create_database(NAME)
    url = server.url(database=NAME)
    await migrations.upgrade(url)
    yield url
    connection = await asyncpg.connect(server.url())
    await connection.execute(f"drop database {NAME} with (force)")
    await connection.close()


class Shell:
    """Runs scripts with a psql that notes its arguments."""

    def __init__(self, folder: Path) -> None:
        self.seen = folder / "arguments"
        self.seen.touch()
        tools = binaries.find(None).folder
        (folder / "psql").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {self.seen}\nexec {tools}/psql "$@"\n')
        (folder / "psql").chmod(0o755)
        self.path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    async def run(self, *command: str, **variables: str) -> int:
        """Its exit code."""
        here = {**os.environ, "PATH": self.path, **variables}
        process = await asyncio.create_subprocess_exec(*command, env=here, stdout=-1, stderr=-1)
        await process.communicate()
        assert ODD not in self.seen.read_text()
        assert process.returncode is not None
        return process.returncode


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


async def logs_in(url: str, role: str, password: str = ODD) -> bool:
    """Whether it may, with that password and with no other."""
    address, _ = without_password(url)
    place = address.partition("@")[2]
    connection = await asyncpg.connect(f"postgresql://{role}@{place}", password=password)
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://{role}@{place}", password=f"{password}.")
    return True


def login() -> tuple[str, ...]:
    """What the container `login` runs."""
    service = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["login"]
    return (*service["entrypoint"], *(each.replace("$$", "$") for each in service["command"]))


async def test_compose_gives_the_server_its_password(shell: Shell, database: str) -> None:
    address, password = without_password(database)
    assert await shell.run(*login(), DATABASE_URL=address, SERVER_PASSWORD=ODD, **password) == 0
    assert await logs_in(database, "im_server")
    assert address in shell.seen.read_text()


async def test_a_password_that_compose_cannot_give_is_not_in_the_server_s_log(shell: Shell, server: Postgres) -> None:
    address, password = without_password(server.url())
    log = Home(server.data_dir).log
    *program, text = login()
    text = text.replace("im_server", "nobody_here")
    given = {"DATABASE_URL": address, "SERVER_PASSWORD": ODD, **password}
    before = len(log.read_text())
    assert await shell.run(*program, text, **given) != 0
    said = log.read_text()[before:]
    assert "nobody_here" in said
    assert "odd" not in said
    careless = "\n".join(line for line in text.splitlines() if "log_min_error_statement" not in line)
    assert await shell.run(*program, careless, **given) != 0
    assert "odd" in log.read_text()[before:], "or nothing would be proved"


async def test_the_page_s_scripts_give_roles_their_passwords(shell: Shell, server: Postgres) -> None:
    address, password = without_password(server.url())
    fleet, _ = without_password(server.url(database="fleet"))
    given = {"SUPERUSER_URL": address, "DATABASE_SUPERUSER_URL": fleet, "PASSWORD": ODD, **password}
    assert await shell.run("bash", "-ec", script("prepare"), **given) == 0
    assert await logs_in(server.url(database="fleet"), "im_server")
    assert await shell.run("bash", "-ec", script("barman-prepare"), **given) == 0
    assert await logs_in(server.url(database="fleet"), "im_backup")


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
async def test_a_person_is_asked_for_the_password(page: str, shell: Shell, database: str) -> None:
    (command,) = re.findall(r"^    (psql .* -c '\\password im_server')", (ROOT / page).read_text(), re.M)
    address, password = without_password(database)
    secret = password["PGPASSWORD"]
    run = ("bash", "-ec", command)
    async with at_terminal("", program=run, PATH=shell.path, DATABASE_URL=address, PGPASSWORD=secret) as terminal:
        for asks in ("Enter new password", "again"):
            await terminal.shows(asks)
            terminal.type(f"{ODD}\n")
        assert await terminal.ended() == 0
    assert ODD not in terminal.text + shell.seen.read_text()
    assert await logs_in(database, "im_server")
