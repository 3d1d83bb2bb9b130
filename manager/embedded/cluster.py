"""A cluster on the disk: made once, whole or not at all, and only ever run by binaries of its own major version."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from manager.embedded.account import Account
from manager.embedded.archive import Archive
from manager.embedded.binaries import Binaries, debian
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.home import Home
from manager.embedded.passwords import Passwords, write_private

SUPERUSER = "postgres"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who runs what, where."""

    home: Home
    account: Account
    binaries: Binaries
    archive: Archive | None = None

    @property
    def passwords(self) -> Passwords:
        return Passwords(self.home.passwords)


def ensure(cluster: Cluster, *, durable: bool) -> None:
    """Leave a cluster that these binaries can run, or raise EmbeddedPostgresError with the commands to upgrade it."""
    if not cluster.home.data.exists():
        _create(cluster, durable=durable)
    found = _major(cluster.home.data)
    if found != cluster.binaries.major:
        raise EmbeddedPostgresError(_other_major(cluster, found))
    if cluster.passwords.known(SUPERUSER) is None:
        raise EmbeddedPostgresError(
            f"The password in {cluster.home.passwords / SUPERUSER} is gone: bring the file back, "
            f"or begin anew without the present data: rm -r {cluster.home.folder}"
        )


def _major(data: Path) -> int:
    try:
        return int((data / "PG_VERSION").read_text())
    except (OSError, ValueError):
        raise EmbeddedPostgresError(
            f"{data} is no PostgreSQL cluster (it has no PG_VERSION): bring back a backup, or move the folder away."
        ) from None


def _create(cluster: Cluster, *, durable: bool) -> None:
    unfinished, account = cluster.home.unfinished, cluster.account
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    account.own(unfinished)
    code, printed = _initdb(cluster, [] if durable else ["--no-sync"])
    if code:
        raise EmbeddedPostgresError(f"initdb failed for {cluster.home.data}:\n{printed}")
    unfinished.rename(cluster.home.data)


def _initdb(cluster: Cluster, options: list[str]) -> tuple[int, str]:
    handed = cluster.home.folder / "password-for-initdb"  # the account cannot read the kept one
    handed.unlink(missing_ok=True)
    write_private(handed, cluster.passwords.obtain(SUPERUSER))
    try:
        cluster.account.own(handed)
        command = initdb_command(cluster.binaries, cluster.home.unfinished, handed)
        return cluster.account.run(*command, *options)
    finally:
        handed.unlink()


def initdb_command(binaries: Binaries, data: Path | str, password_file: Path | str) -> list[str]:
    """Text is ordered by code point in every major version, without the system's locales where possible."""
    locale = ["--locale=C.UTF-8"]
    if binaries.major >= 17:
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    how = ["--data-checksums", "--no-instructions", "--auth=scram-sha-256", f"--pwfile={password_file}"]
    return [
        str(binaries.folder / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        "--encoding=UTF8",
        *locale,
        *how,
    ]


def _other_major(cluster: Cluster, found: int) -> str:
    data, binaries = cluster.home.data, cluster.binaries
    told = f"{data} was made by PostgreSQL {found}, and {binaries.folder} holds PostgreSQL {binaries.version}. "
    old = next((folder for folder in debian() if folder.parent.name == str(found)), None)
    named = old or Path(f"/usr/lib/postgresql/{found}/bin")
    missing = "" if old else f" (apt-get install postgresql-{found}, or correct OLD below)"
    use_old = f"Either use PostgreSQL {found}: IM_POSTGRES_BIN={named}{missing}"
    if found > binaries.major:
        return f"{told}{use_old}. A cluster cannot go back to an older version."
    return f"{told}{use_old}; or upgrade the data with these commands:\n\n{_upgrade(cluster, found, named)}"


def _upgrade(cluster: Cluster, found: int, old: Path) -> str:
    """A shell script: pg_upgrade into a new cluster beside the old one, which is kept."""
    account, data, new = cluster.account, quote(str(cluster.home.data)), quote(str(cluster.binaries.folder))
    run = f"runuser -u {account.name} -- " if account.lent else ""
    initdb = " ".join(map(quote, initdb_command(cluster.binaries, "new", "password")))
    give = [f'chown -R {account.uid}:{account.gid} "$WORK"'] if account.lent else []
    lines = [
        f"OLD={quote(str(old))}",
        'WORK="$(mktemp -d /tmp/upgrade.XXXXXX)"',
        f'cp {quote(str(cluster.home.passwords / SUPERUSER))} "$WORK/password"',
        *give,
        'export PGPASSWORD="$(cat "$WORK/password")"',
        'cd "$WORK"',
        f"{run}{initdb}",
        f'{run}{new}/pg_upgrade -b "$OLD" -B {new} -d {data} -D "$WORK/new" -U {SUPERUSER} -s "$WORK"',
        f"mv {data} {data}-{found}",
        f'mv "$WORK/new" {data}',
        'cd / && rm -r "$WORK"',
    ]
    return "\n".join(f"    {line}" for line in lines)
