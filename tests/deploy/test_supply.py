"""What is installed is locked with its hashes, is asked about, and is written on a bill."""

import tomllib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
advisories, lock, sbom = (import_module(each) for each in ("advisories", "locked", "sbom"))
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
