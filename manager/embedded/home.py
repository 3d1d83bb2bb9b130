"""The data folder of the Instance Manager: one folder, and a name for everything in it."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from manager.embedded.account import Account
from manager.embedded.errors import EmbeddedPostgresError

EPHEMERAL = "instance-manager-ephemeral-"
FOREIGN_TO_NOBODY = {"lost+found"}  # a fresh volume holds this


@dataclass(frozen=True, slots=True)
class Home:
    """`folder` belongs to the launcher's user: 0700, or 0710 with the server's group where root lends the account."""

    folder: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's own folder, 0700, of the server's account."""
        return self.folder / "postgres"

    @property
    def unfinished(self) -> Path:
        """The cluster while initdb works on it, so that `data` is whole or absent."""
        return self.folder / "postgres.unfinished"

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def passwords(self) -> Path:
        return self.folder / "passwords"

    @property
    def address(self) -> Path:
        """The database's address for people and their tools, with its password; 0600, there while it is served."""
        return self.folder / "address"

    @property
    def archive(self) -> Path | None:
        """Where its last start had the log archived, if anywhere."""
        note = self.folder / "archive"
        return Path(note.read_text().strip()) if note.exists() else None

    def remember(self, archive: Path | None) -> None:
        """Notes where the log is archived."""
        note = self.folder / "archive"
        if archive is None:
            note.unlink(missing_ok=True)
        else:
            note.write_text(f"{archive}\n")

    @property
    def binaries(self) -> Path:
        """Copies of binaries that the server's account cannot reach where they are."""
        return self.folder / "binaries"


def default_folder() -> Path:
    """/var/lib/instance-manager for root, else instance-manager in the user's XDG data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/instance-manager")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "instance-manager"


def prepare(home: Home, account: Account) -> None:
    """Create the folder, or take an empty one; its parents keep their modes. Raises EmbeddedPostgresError."""
    try:
        home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(home)
        _close(home, account)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The data folder {home.folder} cannot be used ({error.strerror}): name another with --data-dir."
        ) from None
    if account.lent and not account.can_enter(home.folder):
        raise EmbeddedPostgresError(
            f"PostgreSQL runs as '{account.name}', which cannot enter {home.folder}: name a --data-dir whose parents "
            f"it may pass, such as {default_folder()}."
        )


def _check_ours(home: Home) -> None:
    """Modes and files are about to change: only in a folder that is new, empty or known by its lock file."""
    present = {entry.name for entry in home.folder.iterdir()} - FOREIGN_TO_NOBODY
    if present and home.lock.name not in present:
        raise EmbeddedPostgresError(
            f"{home.folder} holds other files and no data of the Instance Manager: name an empty or a new --data-dir."
        )
    owner = home.folder.stat().st_uid
    if present and owner != os.geteuid():
        raise EmbeddedPostgresError(
            f"{home.folder} belongs to user id {owner}: run as that user, or name another --data-dir."
        )


def _close(home: Home, account: Account) -> None:
    """The server's account may pass through to its own folder, and can neither list nor replace what lies beside it."""
    if account.lent:
        os.chown(home.folder, os.geteuid(), account.gid)
    home.folder.chmod(0o710 if account.lent else 0o700)


def temporary_place(account: Account) -> Path:
    """The first folder for temporary files that the account can reach."""
    places = [Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")]  # noqa: S108
    return next((place for place in places if account.can_enter(place)), places[0])
