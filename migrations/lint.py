"""Whether a fleet may be served while the migrations run: what squawk says of the SQL of each.

Rules that do not apply, and why, are in migrations/squawk.toml; what is right in one place says so there, by
`-- squawk-ignore` in its SQL. Ways down are not looked at: they drop what they must.
"""

import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from manager.repository import migrations, versions

SQUAWK = Path(sys.executable).with_name("squawk")
RULES = Path(__file__).with_name("squawk.toml")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for before, version in pairwise(("base", *versions.known())):
            files.append(Path(folder) / f"{version}.sql")
            files[-1].write_text(migrations.statements(f"{before}:{version}"))
        return subprocess.run([SQUAWK, "--config", RULES, *files], check=False).returncode  # noqa: S603 - our own


if __name__ == "__main__":
    sys.exit(main())
