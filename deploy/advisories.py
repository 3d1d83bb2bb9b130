"""Whether any locked package has a known vulnerability, by pip-audit: `make check`, and `make audit` for a release.

The gate runs on machines that reach a package registry and nothing else. Where no advisories can be had, nothing is
known: that is said, in so many words, and is no failure of the gate. `--strict` makes it one.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from locked import LOCK, Pin, locked

Told = dict[str, Any]  # what pip-audit says of a package, as JSON

SERVICES = ("pypi", "osv")
PATIENCE = 120.0  # seconds for all packages
PROBE = "pip"  # which every index has: whoever does not know it has no advisories either


def main() -> None:
    """Fails for a vulnerability; where nothing can be known, only if `--strict`."""
    try:
        print(judged(locked(LOCK.read_text()), asked))
    except NothingKnown as nothing:
        told = f"NOT AUDITED: {nothing}. Nothing is known about vulnerabilities in requirements.lock"
        if "--strict" in sys.argv[1:]:
            sys.exit(told)
        print(told)
    except Vulnerable as found:
        sys.exit(f"known vulnerabilities in requirements.lock:\n{found}")


class NothingKnown(Exception):
    """Nobody could be asked, or nobody knew."""


class Vulnerable(Exception):
    """Some package is known to be; a line for each."""


def judged(pins: Mapping[str, Pin], ask: Callable[[str, Sequence[Pin]], list[Told]]) -> str:
    """That nothing is wrong, and who says so, of the first service that can be asked."""
    for service in SERVICES:
        if any(map(_known, ask(service, [pins[PROBE]]))):
            break
    else:
        raise NothingKnown(f"no advisory service can be reached ({', '.join(SERVICES)})")
    told = ask(service, list(pins.values()))
    if found := [_line(each) for each in told if each.get("vulns")]:
        raise Vulnerable("\n".join(found))
    if unknown := pins.keys() - {each["name"] for each in told if _known(each)}:
        raise NothingKnown(f"{service} said nothing of {', '.join(sorted(unknown))}")
    return f"no known vulnerability in {len(told)} packages, says {service}"


def _known(told: Told) -> bool:
    return "vulns" in told


def _line(told: Told) -> str:
    fixes = "; ".join(f"{each['id']}, fixed in {', '.join(each['fix_versions']) or 'no'}" for each in told["vulns"])
    return f"  {told['name']} {told['version']}: {fixes}"


def asked(service: str, pins: Sequence[Pin]) -> list[Told]:
    """What the service says of each; nothing where it cannot be reached."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requirements.txt"
        asked.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins))
        program = [Path(sys.executable).parent / "pip-audit", "--no-deps", "--disable-pip", "-r", asked, "-f", "json"]
        command = [*program, "-s", service, "--timeout", "5", "--progress-spinner", "off"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return []
    # it fails with a traceback where the service is not there, and with a list where something was found
    return list(json.loads(done.stdout)["dependencies"]) if done.stdout.startswith("{") else []


if __name__ == "__main__":
    main()
