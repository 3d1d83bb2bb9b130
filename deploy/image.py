"""What the container's image is made of, cut out of requirements.lock with its hashes, by `make lock`.

deploy/serving.lock is what serves, deploy/building.lock what builds our own wheel. No index is asked for them. With
`--check` nothing is written, and it fails where they are not what requirements.lock says.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from locked import LOCK, locked
from needs import OWN, needed

HERE = Path(__file__).resolve().parent
# of the image's Python, on either kind of machine that its wheels are for
PYTHON = "3.13"
PLACES = [
    {
        "python_version": PYTHON,
        "python_full_version": f"{PYTHON}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": machine,
    }
    for machine in ("x86_64", "aarch64")
]
ROOTS = {
    "serving.lock": (OWN, frozenset({"server", "native"})),
    "building.lock": ("hatchling", frozenset[str]()),
}


def main() -> None:
    """Writes them, or says which is not as it should be."""
    stale = {path: text for path, text in cut() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv[1:] and stale:
        names = ", ".join(path.name for path in stale)
        sys.exit(f"not what requirements.lock says: {names}; python deploy/image.py writes it")
    for path, text in stale.items():
        path.write_text(text)


def cut() -> Iterator[tuple[Path, str]]:
    """Each file, and what belongs into it."""
    pins = locked(LOCK.read_text())
    for name, (root, extras) in ROOTS.items():
        names = {each for where in PLACES for each in needed(root, extras, where)} - {OWN}
        yield HERE / name, "".join(pins[each].text for each in sorted(names))


if __name__ == "__main__":
    main()
