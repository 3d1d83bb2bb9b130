"""Who needs whom, by what the installed packages say themselves."""

from collections.abc import Mapping
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OWN = "instance-manager"


def needed(root: str, extras: frozenset[str], where: Mapping[str, str] | None = None) -> dict[str, set[str]]:
    """Each package that the root needs with these extras, itself first, and the names of those that it needs in turn.

    `where` are the markers of another machine or Python than this. Raises PackageNotFoundError for a package that is
    needed there and not installed here.
    """
    waiting, seen = [(root, extras)], set[tuple[str, frozenset[str]]]()
    below: dict[str, set[str]] = {}
    while waiting:
        name, wanted = one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        mine = below.setdefault(name, set())
        for each in map(Requirement, distribution(name).requires or ()):
            if _holds(each, wanted, where or {}):
                found = canonicalize_name(each.name)
                waiting.append((found, frozenset(each.extras)))
                if found != name:
                    mine.add(found)
    return below


def _holds(requirement: Requirement, extras: frozenset[str], where: Mapping[str, str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**where, "extra": extra}) for extra in ("", *extras))
