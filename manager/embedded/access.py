"""Access to a running server from another process: its address, and a psql."""

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from manager.embedded import binaries
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.home import Home, default_folder
from manager.embedded.passwords import Passwords


def published(data_dir: Path | None = None, role: str = "") -> str:
    """The address that the server on that folder has published, or the same for another role that may log in there.

    Raises EmbeddedPostgresError where none runs, or where no password is kept for the role.
    """
    home = Home((data_dir or default_folder()).expanduser().resolve())
    try:
        address = home.address.read_text().strip()
    except OSError:
        raise EmbeddedPostgresError(
            f"No server of yours runs on {home.folder}: start one, or name its folder."
        ) from None
    return _as(role, Passwords(home.passwords).known(role), address) if role else address


def _as(role: str, password: str | None, address: str) -> str:
    if password is None:
        raise EmbeddedPostgresError(f"No password is kept for the role {role!r}: stop `imctl dev`, and start it again.")
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"))


def at_database(url: str, database: str) -> str:
    """The same address with another database in it."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def psql(bin_dir: Path | None = None) -> Path:
    """The psql beside the server's binaries. Raises EmbeddedPostgresError where there is none."""
    program = binaries.find(bin_dir).folder / "psql"
    if not program.exists():
        raise EmbeddedPostgresError(f"There is no {program}: apt-get install postgresql-client, and use its psql.")
    return program
