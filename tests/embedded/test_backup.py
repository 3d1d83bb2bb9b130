"""Backups are whole or not there, and can be brought back."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from manager.embedded import EmbeddedPostgresError, start
from manager.embedded.account import Account
from manager.embedded.backup import Kind, listed, take

Ask = Callable[[str, str], Awaitable[object]]


async def test_a_base_backup_and_a_dump_are_listed_and_the_base_backup_starts(folder: Path, ask: Ask) -> None:
    kept = folder.parent / "kept"
    with start(folder, durable=False) as postgres:
        await ask(postgres.url(), "create table told as select 7 as number")
        base = take(postgres.url(), kept, Kind.BASE)
        shutil.move(base.path, kept / "2020-01-01T00-00-00Z")  # another name than the next one's, without waiting
        dump = take(postgres.url(), kept, Kind.DUMP)
        await ask(postgres.url(), "drop table told")
    assert [(each.path.name, each.kind) for each in listed(kept)] == [
        ("2020-01-01T00-00-00Z", Kind.BASE),
        (dump.path.name, Kind.DUMP),
    ]
    assert all(each.size > 1_000 for each in listed(kept))
    assert (dump.path / "roles.sql").read_text().count("CREATE ROLE") == 1
    shutil.rmtree(folder / "postgres")
    shutil.copytree(kept / "2020-01-01T00-00-00Z", folder / "postgres")
    account = Account.for_data(None)
    for each in [folder / "postgres", *(folder / "postgres").rglob("*")]:
        account.own(each)
    with start(folder, durable=False) as again:
        assert await ask(again.url(), "select number from told") == 7


async def test_how_much_of_a_base_backup_is_done_is_told(folder: Path) -> None:
    told: list[tuple[str, float | None]] = []
    with start(folder, durable=False) as postgres:
        take(postgres.url(), folder.parent / "kept", Kind.BASE, told=lambda what, share: told.append((what, share)))
    shares = [share for what, share in told if what == "backing up"]
    assert (shares[0], shares[-1]) == (None, 1.0)
    assert len(shares) > 2, "what the program says of it is among them"
    assert shares[1:] == sorted(share for share in shares[1:] if share is not None)
    assert told[-2:] == [("verifying", None), ("verifying", 1.0)]


async def test_what_fails_leaves_nothing_and_says_what_the_program_said(folder: Path) -> None:
    kept = folder.parent / "kept"
    for kind, program in ((Kind.BASE, "pg_basebackup"), (Kind.DUMP, "pg_dumpall")):
        with pytest.raises(EmbeddedPostgresError, match=rf"{program} failed: .*(refused|failed)"):
            take("postgresql://nobody:secret@127.0.0.1:1/none", kept, kind, told=lambda *_: None)
    assert list(kept.iterdir()) == []
    assert listed(kept) == listed(kept / "none") == []


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(EmbeddedPostgresError, match="Nothing can be kept in"):
        take("postgresql://nobody@127.0.0.1:1/none", folder / "kept", Kind.BASE)


def test_other_files_and_unfinished_backups_are_no_backups(folder: Path) -> None:
    for name in ("2020-01-01T00-00-00Z.unfinished", "lost+found", "2020-01-01T00-00-01Z"):
        (folder / name).mkdir(parents=True)
    (folder / "2020-01-01T00-00-00Z.unfinished" / "backup_manifest").touch()
    assert listed(folder) == []
