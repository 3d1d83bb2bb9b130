"""What requirements.lock holds: every package that is ever installed here, its version, the hashes of its files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
PIN = re.compile(r"^(\S+)==([^\s;]+)(?: ; [^\\]*?)? \\\n((?:    --hash=sha256:\w{64}(?: \\)?\n)+)", re.M)


@dataclass(frozen=True, slots=True)
class Pin:
    """One package."""

    name: str
    version: str
    hashes: tuple[str, ...]  # SHA-256 in hex, of each file of this version
    text: str  # its lines, as they stand there


def locked(text: str) -> Mapping[str, Pin]:
    """Every package by its name. Raises ValueError for a line that pins nothing, or has no hash."""
    pins = [
        Pin(canonicalize_name(each[1]), each[2], tuple(re.findall(r"sha256:(\w{64})", each[3])), each[0])
        for each in PIN.finditer(text)
    ]
    if unpinned := PIN.sub("", text).strip():
        raise ValueError(f"not pinned with its hashes: {unpinned.splitlines()[0]}")
    return {pin.name: pin for pin in pins}
