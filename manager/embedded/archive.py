"""The archive: the write-ahead log, segment by segment, beside the base backups that are played forward with it.

A segment that is there is there wholly, on the disk, and is never written again. Those of `imctl dev` are compressed,
for the server gives one away every minute, which holds little more than zeros when little happens.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shlex import quote

from manager.embedded.account import Account
from manager.embedded.errors import EmbeddedPostgresError

NAME = "wal"  # in a folder of backups
WITHIN = timedelta(seconds=60)
WHOSE = "system_identifier"
UNFINISHED, PACKED, RESCUED = ".part", ".gz", ".rescued"
SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
WHOLE = re.compile(rf"{SEGMENT.pattern}(\.gz|\.rescued)?")
FOUR_GIB = 1 << 32

# %p and %f are PostgreSQL's. Asked for one that is there it says whether it is the same: after a crash between the
# two it asks again. `ln` and not `mv`, which would take the place of what another server has put there.
KEEP = """f={folder}/%f; if test -e "$f.gz"; then gzip -dc "$f.gz" | cmp -s - "%p"; else \
gzip -1 < "%p" > "$f.part" && sync "$f.part" && ln "$f.part" "$f.gz" && sync {folder} && rm -f "$f.part" \
|| {{ rm -f "$f.part"; false; }}; fi"""
# the same, for an archive whose segments are as they were
KEEP_PLAIN = """f={folder}/%f; if test -e "$f"; then cmp -s "$f" "%p"; else \
cp "%p" "$f.part" && sync "$f.part" && ln "$f.part" "$f" && sync {folder} && rm -f "$f.part" \
|| {{ rm -f "$f.part"; false; }}; fi"""
# what was archived goes before what was rescued, which may end earlier
FETCH = """f={folder}/%f; if test -e "$f.gz"; then gzip -dc "$f.gz" > "%p"; elif test -e "$f"; then cp "$f" "%p"; \
elif test -e "$f.rescued"; then cp "$f.rescued" "%p"; else false; fi"""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the archive. `position`: that of its first byte in the log, in segments, whatever its timeline."""

    path: Path
    timeline: int
    position: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive in `folder`. `within`: how old a change may become before it is archived, however little follows."""

    folder: Path
    within: timedelta = WITHIN

    @property
    def settings(self) -> dict[str, str]:
        """What has a server archive into it."""
        keep = KEEP_PLAIN if self._plain else KEEP
        return {
            "archive_mode": "on",
            "archive_command": self._command(keep),
            "archive_timeout": f"{self.within.total_seconds():.0f}s",
        }

    @property
    def restore_command(self) -> str:
        """What has a server read from it."""
        return self._command(FETCH)

    @property
    def _plain(self) -> bool:
        """Whether somebody else's command fills it, with segments as they are."""
        return any(SEGMENT.fullmatch(each.name) for each in self._files())

    def _command(self, text: str) -> str:
        return text.format(folder=quote(str(self.folder)).replace("%", "%%"))

    def _files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

    def prepare(self, account: Account, data: Path) -> None:
        """Makes the folder the account's, for the one server whose data these are. Raises EmbeddedPostgresError."""
        try:
            _open(self.folder.parent, account)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            account.own(self.folder)
            self._claim(system_of(data))
        except OSError as error:
            raise EmbeddedPostgresError(f"Nothing can be archived in {self.folder}: {error.strerror}.") from None
        if not account.can_enter(self.folder):
            raise EmbeddedPostgresError(
                f"PostgreSQL runs as '{account.name}', which cannot enter {self.folder}: name a folder that it may."
            )

    @property
    def owner(self) -> int | None:
        """The system identifier of the cluster whose archive it is, where it is of `imctl dev`."""
        note = self.folder / WHOSE
        return int(note.read_text()) if note.exists() else None

    def _claim(self, system: int) -> None:
        """Two servers would write segments of the same names."""
        if self.owner is None:
            (self.folder / WHOSE).write_text(f"{system}\n")
        elif self.owner != system:
            raise EmbeddedPostgresError(f"{self.folder} is the archive of another server: name another folder.")

    def segments(self, segment_size: int) -> list[Segment]:
        """Those that are there, by position."""
        found = (_segment(each, segment_size) for each in self._files() if WHOLE.fullmatch(each.name))
        return sorted(found, key=lambda each: each.position)

    def trim(self, first: str) -> int:
        """Removes what comes before the segment of that name, on every timeline; how many files. Histories stay."""
        gone = [each for each in self._files() if SEGMENT.match(each.name) and each.name[8:24] < first[8:24]]
        for each in gone:
            each.unlink()
        return len(gone)

    def rescue(self, data: Path, account: Account) -> int:
        """Takes over what a stopped server has left unarchived, its last segment too; how many files."""
        known = {each.name.removesuffix(PACKED) for each in self._files()}
        left = [each for each in sorted((data / "pg_wal").iterdir()) if each.name not in known and _is_begun(each)]
        for each in left:
            draft, final = (self.folder / f"{each.name}{suffix}" for suffix in (UNFINISHED, RESCUED))
            shutil.copyfile(each, draft)
            account.own(draft)
            draft.rename(final)
        return len(left)


def system_of(data: Path) -> int:
    """The system identifier of a cluster, with which its control file begins."""
    with (data / "global" / "pg_control").open("rb") as file:
        return int.from_bytes(file.read(8), sys.byteorder)


def _segment(path: Path, segment_size: int) -> Segment:
    return Segment(path, int(path.name[:8], 16), position_of(path.name, segment_size))


def position_of(name: str, segment_size: int) -> int:
    """Where the segment of that name begins in the log, in segments."""
    return int(name[8:16], 16) * (FOUR_GIB // segment_size) + int(name[16:24], 16)


def _is_begun(path: Path) -> bool:
    """Whether a file of pg_wal holds what its name says, or is a segment, or a timeline's history, of the past.

    Files are made ahead by giving used ones a new name: their first page tells an old address.
    """
    if path.suffix == ".history":
        return True
    if not SEGMENT.fullmatch(path.name):
        return False
    with path.open("rb") as file:
        head = file.read(16)
    high, low = int(path.name[8:16], 16), int(path.name[16:24], 16)
    return int.from_bytes(head[8:16], sys.byteorder) == high * FOUR_GIB + low * path.stat().st_size


def _open(folder: Path, account: Account) -> None:
    """Lets a lent account pass through a folder that is new, or that nothing but backups are in."""
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account.lent and not account.can_enter(folder) and (made or _is_ours(folder)):
        os.chown(folder, os.geteuid(), account.gid)
        folder.chmod(0o710)


def _is_ours(folder: Path) -> bool:
    return folder.stat().st_uid == os.geteuid() and all(
        re.match(r"\d{4}-|wal$", each.name) for each in folder.iterdir()
    )


def missing(archive: Archive, first: int, segment_size: int) -> Iterator[int]:
    """The positions from `first` on that the archive lacks though it has later ones."""
    present = {each.position for each in archive.segments(segment_size)}
    yield from (each for each in range(first, max(present, default=0)) if each not in present)


def control(bin_dir: Path, data: Path) -> dict[str, str]:
    """What pg_controldata says of a cluster, line by line."""
    said = subprocess.run(  # noqa: S603 - PostgreSQL's own program
        [bin_dir / "pg_controldata", data],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        raise EmbeddedPostgresError(f"{data} is no PostgreSQL cluster: {said.stderr.strip()}")
    lines = (line.partition(":") for line in said.stdout.splitlines())
    return {name: value.strip() for name, _, value in lines}
