"""The wheel, in environments that know nothing of the checkout: the client alone, and a server that serves."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PASSWORD, _recreate, at

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".tools/bin/uv"
BARE = {
    name: value
    for name, value in os.environ.items()
    if name == "IM_NOTIFY" or not name.startswith(("IM_", "VIRTUAL_ENV", "PYTHON"))
}

TALK = """
import asyncio, sys
from manager.client import Client, Instance
from manager.pb.instance_manager_pb2 import CHROME_BROWSER, InstanceDescription, InstanceRequest

async def main():
    async with Client(sys.argv[1]) as client:
        async with Instance(client, InstanceDescription(instance_type=CHROME_BROWSER)) as instance:
            print((await client.get.GetInstance(InstanceRequest(instance_id=instance.id))).status)

asyncio.run(main())
"""


def run(*command: object, **more: str) -> str:
    """What a command prints; its failure shows what it said."""
    done = subprocess.run(
        [str(each) for each in command], env={**BARE, **more}, cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git would give to others, so that nothing untracked helps it."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    for name in (
        "manager",
        "migrations",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "proto",
        "examples",
        "CHANGELOG.md",
    ):
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        elif origin.exists():
            source.mkdir(exist_ok=True)
            shutil.copy(origin, source / name)
    run(UV, "build", "-q", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", place, source)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """An empty environment's folder of programs."""
    run(UV, "venv", "-q", "--no-project", "--python", sys.executable, tmp_path / "env")
    yield tmp_path / "env/bin"
    shutil.rmtree(tmp_path / "env")


def install(environment: Path, wheel: Path, extra: str = "") -> None:
    """From the lock's versions, as far as they are needed."""
    constraint = environment.parent / "constraints.txt"
    lines = re.findall(r"^[a-z0-9-]+==\S+(?: ; .*?)?(?= \\?$| *\\$)", (ROOT / "requirements.lock").read_text(), re.M)
    constraint.write_text("\n".join(lines))
    python = environment / "python"
    run(UV, "pip", "install", "-q", "--python", python, "-c", constraint, f"instance-manager{extra} @ file://{wheel}")


def test_the_client_alone_brings_three_packages(wheel: Path, environment: Path) -> None:
    install(environment, wheel)
    listed = run(UV, "pip", "list", "-q", "--python", environment / "python", "--format", "freeze")
    names = {line.split("==")[0].split(" @")[0] for line in listed.splitlines()}
    assert names - {"typing-extensions"} == {"instance-manager", "grpcio", "protobuf", "googleapis-common-protos"}
    run(environment / "python", "-c", "import manager.client")
    failed = subprocess.run([environment / "imctl", "get"], env=BARE, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "pip install 'instance-manager[run]'" in failed.stderr


async def test_it_migrates_serves_and_is_its_own_client(wheel: Path, environment: Path, cluster: str) -> None:
    await asyncio.to_thread(install, environment, wheel, "[server]")
    await _recreate(cluster, "im_wheel")
    admin = at(cluster, database="im_wheel")
    await asyncio.to_thread(run, environment / "imctl", "migrate", DATABASE_URL=admin)
    import asyncpg

    connection = await asyncpg.connect(admin)
    await connection.execute(f"alter role im_server login password '{PASSWORD}'")
    await connection.close()
    url = at(cluster, database="im_wheel", user="im_server", password=PASSWORD)
    server = await asyncio.create_subprocess_exec(
        *(environment / "imctl", "serve", "--port", "0", "--bind", "127.0.0.1"),
        env={**BARE, "DATABASE_URL": url},
        cwd="/",
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stderr is not None
        async with asyncio.timeout(60):
            while not (found := re.search(rb"127\.0\.0\.1:\d+", await server.stderr.readline())):
                assert server.returncode is None
        said = await asyncio.to_thread(run, environment / "python", "-c", TALK, found[0].decode())
        assert said == "1\n"
    finally:
        server.terminate()
        await server.communicate()
    assert server.returncode == 0
