"""The commands of docs/operations.md, as they stand there: what a person is told to do is what is tested."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
COMMANDS = dict(re.findall(r"<!-- run: ([\w-]+) -->\n\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text()))


def script(name: str) -> str:
    """The commands of that name, for bash -e."""
    return re.sub(r"^    ", "", COMMANDS[name], flags=re.M)
