"""The commands of docs/operations.md, as they stand there: what a person is told to do is what is tested."""

import re
from pathlib import Path

from manager.embedded.argument import without_password

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
COMMANDS = dict(re.findall(r"<!-- run: ([\w-]+) -->\n\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text()))


def script(name: str) -> str:
    """The commands of that name, for bash -e."""
    return re.sub(r"^    ", "", COMMANDS[name], flags=re.M)


def bare(**addresses: str) -> dict[str, str]:
    """Addresses as the page's commands have them, and the one password of all of them where it says that it is."""
    told = {name: without_password(address) for name, address in addresses.items()}
    (password,) = {each["PGPASSWORD"] for _, each in told.values()}
    return {"PGPASSWORD": password, **{name: address for name, (address, _) in told.items()}}
