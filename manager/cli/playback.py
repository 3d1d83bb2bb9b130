"""A base backup and the log after it, played back into a data folder, with what a person sees of it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from manager.cli.progress import Advance, bar, shown, spinning
from manager.cli.table import rfc3339
from manager.embedded import EmbeddedPostgresError, recovery, restoring
from manager.embedded.archive import Archive
from manager.embedded.backup import Backup
from manager.embedded.keeping import finished, verify
from manager.embedded.recovery import Change, Recovery, Target, TooYoung, recovering
from manager.embedded.restoring import Place

PACE = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """The moment that is wanted: a time, a revision, or the end of the log."""

    time: datetime | None = None
    revision: int | None = None

    @property
    def aims(self) -> bool:
        return self.time is not None or self.revision is not None

    @property
    def said(self) -> str:
        """In words."""
        if self.revision is not None:
            return f"revision {self.revision}"
        return rfc3339(self.time) if self.time else "the end of the log"

    def base(self, bases: Sequence[Backup], at: datetime | None = None) -> Backup:
        """The newest that was finished by the time that is wanted, or by `at`. Raises TooYoung where none was."""
        by = at or self.time
        fitting = [each for each in bases if by is None or finished(each) <= by]
        if not fitting:
            raise TooYoung(f"All base backups are younger than {self.said}: only an older one leads there.")
        return fitting[-1]


@dataclass(frozen=True, slots=True)
class Came:
    """What came back. `revision`: None where there is no fleet in it."""

    base: Backup
    aside: Path | None
    revision: int | None


@dataclass(frozen=True, slots=True)
class Playback:
    """Where it is played, from which archive, and which database in it is the fleet's."""

    place: Place
    archive: Archive | None
    database: str
    quiet: bool

    async def bring_back(self, bases: Sequence[Backup], wanted: Wanted) -> Came:
        """Plays it back, and puts it into its place. Raises EmbeddedPostgresError, having changed nothing."""
        self._rescue(bases[-1])
        base, target = await self.aim(bases, wanted)
        revision = await self._back(base, target, wanted)
        return Came(base, restoring.take_place(self.place), revision)

    def _rescue(self, base: Backup) -> None:
        """The archive gets what the server that was there could not give it any more."""
        if self.archive and restoring.same_server(self.place.data, base):
            self.archive.rescue(self.place.data, self.place.account)

    async def aim(self, bases: Sequence[Backup], wanted: Wanted) -> tuple[Backup, Target]:
        """Which backup leads there, and what PostgreSQL is to stop after. Raises EmbeddedPostgresError if none does."""
        if wanted.revision is None:
            base, target = wanted.base(bases), Target(time=wanted.time)
        else:
            change = await self._search(bases, wanted.revision)
            base, target = wanted.base(bases, change.at), Target(xid=change.xid)
        restoring.check(base, self.place, self.archive)
        self._check_gap(base, wanted)
        return base, target

    async def _search(self, bases: Sequence[Backup], revision: int) -> Change:
        """Which transaction it was, only the log can tell: it is played once to be asked. The newest backup first."""
        for base in reversed(bases):
            async with (
                self._playing(base, self.place.scratch, Target()) as played,
                self._progress(f"looking for revision {revision}", base, played),
            ):
                found = await recovery.written(played, self.database, revision)
            if found:
                return found
        raise EmbeddedPostgresError(f"No revision {revision} is in a backup, nor in the archive.")

    async def _back(self, base: Backup, target: Target, wanted: Wanted) -> int | None:
        """Leaves in the draft's folder what the server held at that moment; its newest revision."""
        async with spinning("verifying the backup", self.quiet):
            await asyncio.to_thread(verify, base, self.place.binaries.folder)
        async with self._playing(base, self.place.draft, target, stays=True) as played:
            async with self._progress("playing back", base, played):
                await played.finish()
            if self.place.home:
                await restoring.let_in(played, self.place.home)
            return await recovery.note(played, self.database, f"restored from {base.path.name} to {wanted.said}")

    def _check_gap(self, base: Backup, wanted: Wanted) -> None:
        lost = None
        if self.archive and not wanted.aims:
            lost = restoring.gap(base, self.archive, self.place.binaries.folder)
        if lost is not None:
            raise EmbeddedPostgresError(
                f"The archive lacks segment {lost} of the log and has later ones, which this backup does not lead to: "
                "name a later one, or a --to-time before the gap."
            )

    @asynccontextmanager
    async def _playing(
        self, base: Backup, into: Path, target: Target, *, stays: bool = False
    ) -> AsyncIterator[Recovery]:
        """A recovery of a copy of the backup; what it has made goes again unless it `stays` and nothing has failed."""
        restoring.check(base, self.place, self.archive)
        made = False
        try:
            self._copy(base, into)
            how = recovering(into, self.place.account, self.place.binaries, self.archive, keeps=stays)
            async with how as played:
                played.start(target)
                yield played
            made = stays
        finally:
            if not made:
                shutil.rmtree(into, ignore_errors=True)

    def _copy(self, base: Backup, into: Path) -> None:
        with bar("copying the backup", base.size, self.quiet) as advance:
            for size in restoring.copy(base, into, self.place.account):
                advance(size)

    @asynccontextmanager
    async def _progress(self, what: str, base: Backup, played: Recovery) -> AsyncIterator[None]:
        """A bar of the archive's segments."""
        if not self.archive or not shown(self.quiet):
            yield
            return
        names = restoring.segments(base, self.archive, self.place.binaries.folder)
        with bar(what, len(names), self.quiet) as advance:
            task = asyncio.create_task(_follow(played, names, advance))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])


async def _follow(played: Recovery, names: Sequence[str], advance: Advance) -> None:
    """Advances with each segment that is played, until it is cancelled."""
    so_far = 0
    while True:
        place = played.place()
        number = names.index(place) + 1 if place in names else so_far
        advance(number - so_far)
        so_far = number
        await asyncio.sleep(PACE)
