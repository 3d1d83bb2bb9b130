"""Databases of their own for migrations, which are nobody's template."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from manager.repository import versions
from tests.conftest import PASSWORD, Database, at

numbers = count(1)


@pytest.fixture
async def empty(cluster: str, template: str) -> AsyncIterator[Database]:
    """A database that was never migrated; the template's migration made the roles."""
    name = f"im_empty_{os.getpid()}_{next(numbers)}"
    connection = await asyncpg.connect(cluster)
    await connection.execute(f'create database "{name}"')
    yield Database(name, at(cluster, database=name, user="im_server", password=PASSWORD), at(cluster, database=name))
    await connection.execute(f'drop database "{name}" with (force)')
    await connection.close()


Also = Callable[[str, str], None]
LATER = Path(__file__).parent / "later"


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The versions of this release, in a folder where others may join them."""
    folder = tmp_path / "migrations"
    shutil.copytree(versions.scripts(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(versions, "scripts", lambda: folder)
    return folder / "versions"


@pytest.fixture
def also(scripts: Path) -> Also:
    """Adds a version with this content behind the newest."""

    def add(version: str, content: str) -> None:
        head = f"from alembic import op\nrevision, down_revision = {version!r}, {versions.newest()!r}\n"
        (scripts / f"{version}.py").write_text(head + content)

    return add


@pytest.fixture
def later(scripts: Path) -> str:
    """Three versions of a later release, that expand, fill and contract; the newest of this one."""
    newest = versions.newest()
    for each in sorted(LATER.glob("later*.py")):
        content = each.read_text().replace("down_revision: str | None = None", f"down_revision = {newest!r}")
        (scripts / each.name).write_text(content)
    return newest
