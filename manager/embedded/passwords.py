"""Generated passwords, one file a role, readable by the launcher's user alone."""

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Passwords:
    """The files in `folder`; the characters of a password need no quoting in an URL or in SQL."""

    folder: Path

    def known(self, role: str) -> str | None:
        """The password kept for `role`, or None. Raises ValueError when `role` is no plain name."""
        file = self._file(role)
        return file.read_text().strip() if file.exists() else None

    def obtain(self, role: str) -> str:
        """The password kept for `role`; generated and kept first if there is none."""
        return self.known(role) or self._generate(role)

    def _file(self, role: str) -> Path:
        if not ROLE.fullmatch(role):
            raise ValueError(f"{role!r} is no plain role name")
        return self.folder / role

    def _generate(self, role: str) -> str:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        password = secrets.token_urlsafe(24)
        draft = self.folder / ".draft"
        draft.unlink(missing_ok=True)
        write_private(draft, password)
        draft.rename(self._file(role))  # whole or absent, also after a crash
        return password


def write_private(path: Path, text: str) -> None:
    """Create `path` with mode 0600 from the start, and have `text` on the disk. Raises FileExistsError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
