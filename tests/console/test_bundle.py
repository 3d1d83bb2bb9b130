"""The bundle that is committed is what comes of its sources, and names whose work is in it."""

import filecmp
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """console/build.py."""
    found = importlib.util.spec_from_file_location("console_build", ROOT / "console/build.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_bundle_is_of_these_sources(build: ModuleType) -> None:
    assert (build.OUT / build.STAMP).read_text().strip() == build.digest()


def test_building_it_anew_gives_the_same(build: ModuleType, tmp_path: Path) -> None:
    try:
        build.bundle(tmp_path / "fresh")
    except subprocess.CalledProcessError as error:
        if error.cmd[0] == "npm":
            pytest.skip(f"npm could not install what the lock names: {error}")
        raise
    names = {path.name for path in build.OUT.iterdir()}
    assert names == {path.name for path in (tmp_path / "fresh").iterdir()}
    same, different, odd = filecmp.cmpfiles(build.OUT, tmp_path / "fresh", names, shallow=False)
    assert (set(same), different, odd) == (names, [], [])


def test_a_change_of_any_source_makes_it_stale(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "console"
    shutil.copytree(ROOT / "console", copy, ignore=shutil.ignore_patterns("node_modules"))
    monkeypatch.setattr(build, "HERE", copy)
    before = build.digest()
    for name in ("src/main.js", "src/style.css", "index.html", "package-lock.json"):
        with (copy / name).open("a") as file:
            file.write("\n")
        assert build.digest() != before
        before = build.digest()


def test_whose_work_is_in_it_is_named_with_their_licences(build: ModuleType) -> None:
    licences = (build.OUT / "LICENSES.txt").read_text()
    for name in ("preact", "@preact/signals", "@preact/signals-core", "htm", "uplot"):
        assert f"{name} " in licences
    assert licences.count("Permission is hereby granted") + licences.count("Apache License") >= 5


def test_the_lock_names_no_host() -> None:
    lock = (ROOT / "console/package-lock.json").read_text()
    assert '"resolved"' not in lock


def test_the_bundle_is_small(build: ModuleType) -> None:
    assert (build.OUT / "app.js").stat().st_size < 160_000
    assert (build.OUT / "app.css").stat().st_size < 24_000
