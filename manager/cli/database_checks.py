"""What can be seen of the database: its schema, connections, doorbell, snapshots and disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from time import time

from manager import __version__
from manager.cli import words
from manager.cli.finding import Finding, State, judged
from manager.cli.manager_checks import clock
from manager.cli.serve import settings_of
from manager.repository import bars, checkup
from manager.repository.database import Session, engine_of, refusal_of
from manager.repository.durability import Durability
from manager.repository.durability import look as durability_of
from manager.repository.versions import SchemaMismatch, newest, require

CROWDED = (0.8, 0.95)
DEAF = (0.1, 1.0)
HELD = (60.0, 3600.0)
FULL = (0.8, 0.95)
UNNAMED = "name it by DATABASE_URL, or the folder of `imctl dev` by --data-dir"
SEGMENT = 16 * 2**20  # bytes, unless the cluster was made with others
BEHIND = (8 * SEGMENT, 64 * SEGMENT)
UNARCHIVED = "look at PostgreSQL's log, and at the archive's disk: until it works, the log stays on the database's"
SWEEPING = "end it: what died since cannot be swept, and tables grow"


async def look(data_dir: Path | None) -> list[Finding]:
    """All that the role in its address may see."""
    url, folder = settings_of().database_url, None
    if not url:
        url, folder = _published(data_dir)
    if not url:
        return [Finding("database", State.SKIPPED, "nobody says where it is", UNNAMED)]
    try:
        found = await _look(url)
    except Exception as error:
        if refusal_of(error) is None:
            raise
        return [
            Finding("database", State.FAILED, f"it cannot be used: {error}", "look at its log, and at DATABASE_URL")
        ]
    return [*found, *(disk(name, each) for name, each in _disks(folder).items())]


def _published(data_dir: Path | None) -> tuple[str, Path | None]:
    """Of a running `imctl dev`, if there is one."""
    try:
        from manager.embedded import EmbeddedPostgresError, published
        from manager.embedded.home import default_folder
    except ModuleNotFoundError:
        return "", None
    try:
        return published(data_dir), data_dir or default_folder()
    except EmbeddedPostgresError:
        return "", None


async def _look(url: str) -> list[Finding]:
    session = Session(engine_of(url, name="doctor"))
    try:
        async with session.use() as connection:
            try:
                await require(connection, __version__)
                schema = Finding("schema", State.OK, newest())
            except SchemaMismatch as error:
                schema = Finding("schema", State.FAILED, str(error), "`imctl migrate` brings it up to date")
            now = time()
            seen = await checkup.look(connection)
            held = await checkup.oldest(connection)
            archiver = await checkup.archiver(connection)
            holds = (await durability_of(connection)).holds
            open_ = () if schema.state is State.FAILED else await bars.missing(connection)
    finally:
        await session.close()
    return [
        server(seen),
        schema,
        clock("database clock", seen.now.timestamp() - (now + time()) / 2),
        connections(seen),
        snapshots(held, seen.hidden),
        durability(holds),
        archive(archiver),
        auditor(open_),
        doorbell(await checkup.echo(url)),
    ]


def server(seen: checkup.Checkup) -> Finding:
    found = f"PostgreSQL {seen.version}, {words.size(seen.size)}"
    if seen.standby:
        return Finding(
            "database", State.FAILED, f"{found}, a standby", "name the primary, or all hosts, in DATABASE_URL"
        )
    return Finding("database", State.OK, found)


def connections(seen: checkup.Checkup) -> Finding:
    found = f"{seen.connections} of {seen.most}"
    return judged(
        "connections", seen.connections / seen.most, CROWDED, found, "raise max_connections; a manager has ten"
    )


def snapshots(held: checkup.Held | None, hidden: int) -> Finding:
    unseen = f" ({hidden} sessions may not be seen by this role: grant it pg_monitor)" if hidden else ""
    if held is None:
        return Finding("snapshots", State.OK, f"nobody holds one{unseen}")
    who = held.who + (f", pid {held.pid}" if held.pid else "")
    return judged("snapshots", held.age.total_seconds(), HELD, f"{who}: for {words.span(held.age)}{unseen}", SWEEPING)


SURVIVES = {
    Durability.NOTHING: "an acknowledged change may not even survive a crash of the database's machine",
    Durability.CRASH: "an acknowledged change survives crashes, but not the loss of the primary's disk",
    Durability.LOSS: "an acknowledged change survives the loss of the primary",
}


def durability(holds: Durability) -> Finding:
    """What an acknowledged change survives."""
    if holds is Durability.NOTHING:
        return Finding("durability", State.WARNING, SURVIVES[holds], "set fsync and full_page_writes to on")
    return Finding("durability", State.OK, SURVIVES[holds])


def auditor(open_: Sequence[str]) -> Finding:
    """Whether whoever only asks questions can do no more than that."""
    if open_:
        found = f"im_auditor, whom nothing but questions is for, may {', '.join(open_)}"
        return Finding("auditor", State.WARNING, found, "run `imctl migrate` once as a superuser, who alone may bar it")
    return Finding("auditor", State.OK, "im_auditor may ask, and nothing else")


def archive(seen: checkup.Archiver | None) -> Finding:
    """Whether every moment could be restored."""
    if seen is None:
        return Finding("archive", State.SKIPPED, "nothing is archived", "see docs/operations.md, Back up")
    waiting = "" if seen.waiting is None else f", {words.size(seen.waiting)} wait"
    if seen.failing_at:
        lately = f"last {words.ago(seen.archived_at)}" if seen.archived_at else "never"
        return Finding("archive", State.FAILED, f"it fails ({lately}{waiting})", UNARCHIVED)
    if seen.archived_at is None:
        return Finding("archive", State.OK, "nothing yet")
    return judged("archive", seen.waiting or 0, BEHIND, f"{words.ago(seen.archived_at)}{waiting}", UNARCHIVED)


def doorbell(seconds: float | None) -> Finding:
    if seconds is None:
        return Finding(
            "doorbell", State.WARNING, "no notification comes back", "a pooler without LISTEN? IM_NOTIFY=false"
        )
    return judged("doorbell", seconds, DEAF, f"{seconds * 1000:.1f} ms", "look at the load of the database")


def _disks(folder: Path | None) -> dict[str, Path]:
    """What `imctl dev` writes to, by the name of the check."""
    if folder is None:
        return {}
    from manager.embedded.home import Home

    kept = Home(folder.expanduser().resolve()).archive
    return {"disk": folder, **({"archive disk": kept} if kept and kept.exists() else {})}


def disk(name: str, folder: Path) -> Finding:
    """The room that is left."""
    usage = shutil.disk_usage(folder)
    found = f"{words.size(usage.free)} of {words.size(usage.total)} free at {folder}"
    return judged(name, usage.used / usage.total, FULL, found, "make room: PostgreSQL stops when it is full")
