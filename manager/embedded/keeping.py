"""Backups that were taken: whether they are still whole, how long they are kept, and what of the archive with them."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from manager.embedded import binaries
from manager.embedded.archive import Archive, system_of
from manager.embedded.backup import DUMP, MANIFEST, UNFINISHED, Backup, Kind, listed, run
from manager.embedded.errors import EmbeddedPostgresError

START = re.compile(r"START WAL LOCATION: \S+ \(file ([0-9A-F]{24})\)")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pruning takes: backups, and of the archive all that comes before the segment of that name."""

    gone: tuple[Backup, ...]
    first: str | None


def verify(backup: Backup, bin_dir: Path | None = None) -> None:
    """Reads all of it. Raises EmbeddedPostgresError with what is wrong."""
    tools = binaries.find(bin_dir).folder
    if backup.kind is Kind.BASE:
        run([str(tools / "pg_verifybackup"), "--quiet", str(backup.path)], {})
    else:
        run([str(tools / "pg_restore"), f"--file={os.devnull}", str(backup.path / DUMP)], {})


def finished(base: Backup) -> datetime:
    """When a base backup was complete, or a little later: any moment from then on can be restored from it."""
    return datetime.fromtimestamp((base.path / MANIFEST).stat().st_mtime, UTC)


def first_segment(base: Backup) -> str:
    """The name of the first segment of the log that a base backup needs. Raises EmbeddedPostgresError."""
    label = base.path / "backup_label"
    found = START.search(label.read_text()) if label.exists() else None
    if found is None:
        raise EmbeddedPostgresError(f"{base.path} does not say where it begins: it was started, or is no backup.")
    return found[1]


def plan(folder: Path, keep: int, archive: Archive) -> Plan:
    """What is left out when the newest `keep` backups of each kind stay.

    The archive keeps all that any of those base backups needs; all of it where there is none of this server.
    """
    there = listed(folder)
    kinds = [[each for each in there if each.kind is kind] for kind in Kind]
    gone = tuple(each for kind in kinds for each in kind[:-keep])
    needing = [each for each in there if each not in gone and each.kind is Kind.BASE and _is_of(each, archive)]
    # by place in the log and not by age: a backup of an older timeline may begin before one that is older
    return Plan(gone, min((first_segment(each) for each in needing), key=lambda name: name[8:], default=None))


def _is_of(base: Backup, archive: Archive) -> bool:
    owner = archive.owner
    return owner is None or owner == system_of(base.path)


def prune(planned: Plan, archive: Archive) -> int:
    """Carries it out; how many files of the archive went."""
    _remove(planned.gone)
    return archive.trim(planned.first) if planned.first else 0


def _remove(backups: Sequence[Backup]) -> None:
    for each in backups:
        # half a backup must not bear the name of a whole one
        leaving = each.path.with_name(f"{each.path.name}{UNFINISHED}")
        each.path.rename(leaving)
        shutil.rmtree(leaving)
