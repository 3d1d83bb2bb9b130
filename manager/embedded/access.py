"""Access to a running server from another process: its address, and a psql."""

from pathlib import Path

from manager.embedded import binaries
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.home import Home, default_folder


def published(data_dir: Path | None = None) -> str:
    """The address that the server on that folder has published. Raises EmbeddedPostgresError where none runs."""
    home = Home((data_dir or default_folder()).expanduser().resolve())
    try:
        return home.address.read_text().strip()
    except OSError:
        raise EmbeddedPostgresError(
            f"No server of yours runs on {home.folder}: start one, or name its folder."
        ) from None


def psql(bin_dir: Path | None = None) -> Path:
    """The psql beside the server's binaries. Raises EmbeddedPostgresError where there is none."""
    program = binaries.find(bin_dir).folder / "psql"
    if not program.exists():
        raise EmbeddedPostgresError(f"There is no {program}: apt-get install postgresql-client, and use its psql.")
    return program
