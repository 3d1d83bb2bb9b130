"""The operating system's account that PostgreSQL runs as. It refuses to be root, so root lends it another."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from manager.embedded.errors import EmbeddedPostgresError

UNPRIVILEGED = ("postgres", "nobody")

# Fixed, so that neither PGPORT and its like nor a locale reach the server; its messages stay in English, to be known.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Account:
    """An account with an entry in passwd; `lent` when the launcher is root and gives up its rights for the server."""

    name: str
    uid: int
    gid: int
    lent: bool

    @classmethod
    def for_data(cls, data: Path | None) -> Self:
        """The account for the cluster in `data`, which may not be there yet. Raises EmbeddedPostgresError."""
        if os.geteuid() != 0:
            return cls._of(_entry(os.geteuid()), lent=False)
        return cls._of(_owner(data) or _unprivileged(), lent=True)

    @classmethod
    def _of(cls, entry: pwd.struct_passwd, *, lent: bool) -> Self:
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, lent)

    def spawn(self, command: Sequence[str | Path], output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start `command` as this account, its output and errors in `output`."""
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # the present folder may be closed to the account
            env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C in the terminal is for the launcher, which stops the server last
            user=self.uid if self.lent else None,
            group=self.gid if self.lent else None,
            extra_groups=[] if self.lent else None,
        )

    def run(self, *command: str | Path) -> tuple[int, str]:
        """Run `command` to its end as this account: its exit code and what it printed."""
        with self.spawn(command, subprocess.PIPE) as process:
            printed, _ = process.communicate()
        return process.returncode, printed.decode(errors="replace").strip()

    def can_enter(self, folder: Path) -> bool:
        """Whether the account may pass through `folder` and all of its parents."""
        return self.run("/usr/bin/env", "test", "-x", folder)[0] == 0

    def own(self, path: Path) -> None:
        """Give `path` to the account."""
        if self.lent:
            os.chown(path, self.uid, self.gid)


def _entry(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedPostgresError(
            f"The user id {uid} has no entry in passwd, and initdb asks for one: add a line such as "
            f"'im:x:{uid}:{os.getegid()}::/tmp:/bin/sh' to /etc/passwd, or run as a known user."
        ) from None


def _owner(data: Path | None) -> pwd.struct_passwd | None:
    """The owner of an existing cluster goes on owning it, whatever accounts were added since."""
    uid = data.stat().st_uid if data and data.exists() else 0
    return _entry(uid) if uid else None


def _unprivileged() -> pwd.struct_passwd:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in UNPRIVILEGED:
        if name in known:
            return known[name]
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root, and there is neither an account 'postgres' nor 'nobody' to run it as: "
        "create one (useradd --system postgres), or run as an ordinary user."
    )
