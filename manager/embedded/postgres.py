"""A PostgreSQL of one's own: found, set up, started, and stopped with its launcher."""

import logging
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

from manager.embedded import binaries, cluster, home, leftovers, postmaster
from manager.embedded.account import Account
from manager.embedded.archive import Archive
from manager.embedded.cluster import SUPERUSER, Cluster
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.home import EPHEMERAL, Home
from manager.embedded.lock import Lock
from manager.embedded.passwords import write_private

logger = logging.getLogger(__name__)


class Postgres:
    """A running server and the lock on its data folder; `stop`, or leaving its context, gives both back."""

    def __init__(self, cluster: Cluster, lock: Lock, undo: ExitStack, *, durable: bool) -> None:
        self._cluster, self._lock, self._durable = cluster, lock, durable
        self._postmaster = postmaster.launch(cluster, None, durable=durable)
        undo.callback(self._end)
        self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def version(self) -> str:
        """Such as "18.6"."""
        return self._cluster.binaries.version

    @property
    def name(self) -> str:
        """By which its processes are known, the same for the same folder."""
        return leftovers.cluster_name(self._cluster.home.data)

    @property
    def data_dir(self) -> Path:
        """The folder with everything: PostgreSQL's own data, its log, the passwords and the lock."""
        return self._cluster.home.folder

    @property
    def log(self) -> Path:
        return self._cluster.home.log

    @property
    def port(self) -> int:
        """On 127.0.0.1; the same until `stop`."""
        return self._postmaster.port

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The postmaster; another one after `restart`."""
        return self._postmaster.process

    def url(self, user: str = SUPERUSER, database: str = "postgres") -> str:
        """postgresql://user:password@127.0.0.1:port/database, for the superuser or a role that `grant_login` let in.

        Raises EmbeddedPostgresError for any other role.
        """
        password = self._cluster.passwords.known(user)
        if password is None:
            raise EmbeddedPostgresError(f"No password is kept for the role {user!r}: let grant_login make one.")
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def announce(self, address: str) -> None:
        """Let a second start on this data folder say where this one serves, such as 'gRPC at 127.0.0.1:50052'."""
        self._lock.announce(address)

    def publish(self, url: str) -> None:
        """Keep an address, password and all, where `access` finds it for as long as the server runs."""
        self._cluster.home.address.unlink(missing_ok=True)
        write_private(self._cluster.home.address, url)
        self._undo.callback(self._cluster.home.address.unlink, missing_ok=True)

    async def create_database(self, name: str) -> None:
        """Create the database unless it is there."""
        connection = await asyncpg.connect(self.url(), ssl=False)
        try:
            if not await connection.fetchval("select true from pg_database where datname = $1", name):
                await connection.execute(
                    await connection.fetchval("select format('create database %I', $1::text)", name)
                )
        finally:
            await connection.close()

    async def grant_login(self, role: str) -> str:
        """Let an existing role log in with the returned password: the same at each start, and fit for an URL."""
        password = self._cluster.passwords.obtain(role)
        connection = await asyncpg.connect(self.url(), ssl=False)
        try:
            statement = "select format('alter role %I login password %L', $1::text, $2::text)"
            await connection.execute(await connection.fetchval(statement, role, password))
        finally:
            await connection.close()
        return password

    def restart(self) -> None:
        """Start the server anew on the same port, whether it runs or has died; from the main thread only."""
        self._end()
        self._postmaster = postmaster.launch(self._cluster, self.port, durable=self._durable)

    def stop(self) -> None:
        """End the server, without waiting for its clients, and give up the folder; more than once does no harm."""
        self._undo.close()

    def _end(self) -> None:
        postmaster.end(self.process)
        if self.process.returncode:  # it was killed, and its workers may still be leaving
            leftovers.end_server(self._cluster.home.data)


def start(
    data_dir: Path | None = None,
    *,
    bin_dir: Path | None = None,
    ephemeral: bool = False,
    durable: bool = True,
    archive: Archive | None = None,
) -> Postgres:
    """Start a server on 127.0.0.1, its data in `data_dir` or in the user's data folder; from the main thread only.

    `bin_dir` holds the binaries where they are not to be looked for; `ephemeral` takes a temporary folder that goes
    with the server; without `durable` a crash may cost the data; into `archive` goes all that changes. Raises
    EmbeddedPostgresError.
    """
    if ephemeral and data_dir:
        raise EmbeddedPostgresError("An ephemeral server has no data folder: leave out --ephemeral or --data-dir.")
    if ephemeral and archive:
        raise EmbeddedPostgresError("Of an ephemeral server nothing is kept: leave out --ephemeral or --archive.")
    with ExitStack() as undo:
        place = _temporary(undo) if ephemeral else Home((data_dir or home.default_folder()).expanduser().resolve())
        account = Account.for_data(place.data)
        home.prepare(place, account)
        lock = Lock(place.lock)
        undo.callback(lock.release)
        found = binaries.reachable(binaries.find(bin_dir), account, place.binaries)
        present = Cluster(place, account, found, archive)
        cluster.ensure(present, durable=durable)
        leftovers.end_server(place.data)
        if archive:
            archive.prepare(account, place.data)
        elif place.archive:
            logger.warning("from now on %s has a gap: with --archive again, begin with a base backup", place.archive)
        place.remember(archive.folder if archive else None)
        return Postgres(present, lock, undo, durable=durable)


def _temporary(undo: ExitStack) -> Home:
    place = home.temporary_place(Account.for_data(None))
    leftovers.sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=EPHEMERAL, dir=place))
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    return Home(folder)
