"""The README's tour and its programs, run as they stand there; and the documents that must name everything."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from manager.cli.app import VERBS
from manager.cli.codes import Exit
from manager.cli.run import run
from manager.settings import Settings
from tests.processes import environment, started

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
MARK = "<!-- tour: background -->"


def tour() -> list[tuple[str, bool]]:
    """The commands of the tour, each with whether it goes on in the background."""
    section = README.split("## A tour in five minutes")[1].split("\n## ")[0]
    blocks = re.findall(rf"({re.escape(MARK)}\n\n)?((?:^    .*\n)+)", section, re.M)
    return [(re.sub(r"^    ", "", block, flags=re.M), bool(mark)) for mark, block in blocks]


@pytest.fixture
def folder() -> Iterator[str]:
    """Which the server's account can reach, unlike pytest's own."""
    with TemporaryDirectory(dir="/tmp", prefix="im-") as parent:
        Path(parent).chmod(0o755)
        yield f"{parent}/data"


async def bash(script: str, variables: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("bash", "-ec", script), env=variables, stdout=-1, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )


async def there(variables: dict[str, str]) -> None:
    """Returns once a browser is in the fleet: two `imctl run` start one after the other."""
    async with asyncio.timeout(60):
        while True:
            process = await bash("imctl get --type CHROME_BROWSER -o name", variables)
            out, _ = await process.communicate()
            if re.search(rb"[0-9a-f-]{36}", out):
                return
            await asyncio.sleep(0.2)


async def test_the_tour_runs_as_it_stands(folder: str) -> None:
    commands = tour()
    assert len(commands) == 5
    async with started("dev", "--data-dir", folder, "--port", "0", IM_TIMEOUT="6") as dev:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = environment(IM_ADDRESS=dev.address, IM_DATA_DIR=folder, PATH=path)
        said, background = [], []
        for script, stays in commands:
            if stays:
                # any other command will do, the README says; it has to be one that is on every machine
                script = re.sub(r"chromium .*", "sleep 1000", script)
                background.append(await bash(script, variables))
                await there(variables)
                continue
            process = await bash(script, variables)
            out, _ = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 0, f"{script}: {out.decode()}"
            said.append(out.decode())
        first, looked, killed, asked = said
        assert "INSTANCE_MANAGER" in first
        assert re.search(r"└─ \S+  ● healthy  CHROME_BROWSER", looked)
        assert "CHROME_DEBUG_PORT  127.0.0.1  9222" in looked
        assert re.search(r"^system  .* of .*iB$", looked, re.M)
        assert "2 instances died, in " in killed
        assert "CHROME_BROWSER" not in killed.rpartition("ID  ")[2]
        assert "its ancestor" in asked
        assert "end of the tour" in asked
        assert "PARENT_DIED" in asked
        for each in background:
            assert await asyncio.wait_for(each.wait(), 30) == 10


@pytest.mark.parametrize("name", ["stats.py", "register.py"])
async def test_the_examples_run(name: str, folder: str) -> None:
    async with started("dev", "--data-dir", folder, "--port", "0") as dev:
        process = await bash(f"{sys.executable} {ROOT}/examples/{name} {dev.address}", environment())
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, out.decode()
        assert (await dev.stop(signal.SIGTERM)).code == 0


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm on this machine: apt-get install npm")
async def test_the_node_examples_run(folder: str) -> None:
    """Beside a copy of the proto files, from which alone they know the protocol."""
    place = Path(folder).parent
    shutil.copytree(ROOT / "proto", place / "proto")
    shutil.copytree(ROOT / "examples/node", place / "examples/node", ignore=shutil.ignore_patterns("node_modules"))
    async with started("dev", "--data-dir", folder, "--port", "0") as dev:
        script = (
            f"cd {place}/examples/node; npm ci --silent; node stats.js {dev.address}; node register.js {dev.address}"
        )
        process = await bash(script, environment())
        out, _ = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode == 0, out.decode()
        assert "REASON_DEAD" in out.decode()


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs/settings.md").read_text()))
    assert set(Settings.model_fields) <= documented


def test_every_promise_names_tests_that_exist() -> None:
    promises = (ROOT / "docs/guarantees.md").read_text()
    named = set(re.findall(r"`((?:tests|docs)/[\w/.]+)`", promises))
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_verb_is_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert [verb for verb in VERBS if f"`{verb}`" not in changelog] == []


def test_every_verb_and_every_exit_code_is_explained() -> None:
    told = (ROOT / "docs/imctl.md").read_text()
    assert [verb for verb in VERBS if f"| `{verb}` |" not in told or f"imctl {verb}" not in told] == []
    lists = re.findall(r"^\| (\d+) \|", told, re.M) + re.findall(r"^ +(\d+)[, ]", run.__doc__ or "", re.M)
    assert {str(each.value) for each in Exit} <= set(lists)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([\w/.]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
