"""`imctl dev`: everything in one command, with a PostgreSQL of its own."""

import asyncio
import logging
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from manager import safety
from manager.cli.admin import retain
from manager.cli.connection import Target
from manager.cli.demo import live
from manager.cli.say import say
from manager.cli.serve import STOPS, Bind, HttpPort, Port, banner, fail, run, settings_of, tell
from manager.client import Access, Client, ManagerError, RefusedError
from manager.embedded import EmbeddedPostgresError, Postgres, niceness, start
from manager.embedded.archive import NAME, Archive
from manager.repository import migrations
from manager.server import Serving
from manager.settings import LogFormat, Settings

log = logging.getLogger(__name__)

DATABASE = "instance_manager"
SERVER = "im_server"
AUDITOR = "im_auditor"  # whom `imctl sql` logs in as
GRACE = timedelta(seconds=20)
WATCH = 0.5


def dev(
    bind: Bind = None,
    port: Port = None,
    http_port: HttpPort = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="Where the data is kept.", metavar="FOLDER")
    ] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep nothing once it stops.")] = False,
    database_url: Annotated[
        str | None, typer.Option("--database-url", help="Use this server, and none of its own.", metavar="URL")
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive",
            help="Keep all that changes in this folder of backups, so that every moment can be restored.",
            metavar="FOLDER",
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Fill it with a small living fleet, as `imctl demo` does.")
    ] = False,
) -> None:
    """Start PostgreSQL, migrate, and serve gRPC on [::1] and 127.0.0.1: all that development needs.

    Data is kept between starts, in a folder that is named at the start.

    \b
    Examples:
      imctl dev
      imctl dev --demo
      imctl dev --ephemeral --port 0
      imctl dev --archive /var/backups/fleet
    """
    choices: dict[str, Any] = {"bind": bind or ["[::1]", "127.0.0.1"], "port": port, "http_port": http_port}
    choices |= {"start_grace": GRACE, "outage_grace": GRACE}
    company = Company(demo)
    if database_url:
        _on_own_server(_in_words(settings_of(**choices, database_url=database_url)), company)
        return
    with ExitStack() as stack:
        try:
            postgres = stack.enter_context(_start(data_dir, ephemeral, settings_of(archive=archive)))
        except EmbeddedPostgresError as error:
            fail(str(error))
        url = asyncio.run(_prepare(postgres, settings_of()))
        keeping = "nothing is kept" if ephemeral else f"kept in {postgres.data_dir}"
        settings = _in_words(settings_of(**choices, database_url=url))

        def started(serving: Serving) -> None:
            postgres.announce(f"gRPC at {serving.addresses[0]}")
            postgres.publish(url)
            ask = "imctl sql" + (f" --data-dir {postgres.data_dir}" if data_dir or ephemeral else "")
            _tell(settings, serving, f"{postgres.version} at 127.0.0.1:{postgres.port}, {keeping}", ask)
            company.come(serving)

        run(settings, started, lambda: company.stay(postgres))
    say("stopped" if ephemeral else f"stopped; what it knows stays in {postgres.data_dir}")


def _in_words(settings: Settings) -> Settings:
    """With the log in words, unless it was chosen: who develops reads it, through `tee` and from a file too."""
    return settings.model_copy(update={"log_format": settings.log_format or LogFormat.TEXT})


def _start(data_dir: Path | None, ephemeral: bool, settings: Settings) -> Postgres:
    kept = None
    if settings.archive:
        kept = Archive(settings.archive.expanduser().absolute() / NAME, settings.archive_within)
    return start(data_dir, ephemeral=ephemeral, bin_dir=settings.postgres_bin, archive=kept)


def _on_own_server(settings: Settings, company: "Company") -> None:
    asyncio.run(migrations.upgrade(settings.database_url))
    # whoever may migrate may do more than serve, and this is development; but from this machine alone
    alone = safety.is_local(settings)
    settings = settings.model_copy(update={"insecure_i_know": settings.insecure_i_know or alone})

    def started(serving: Serving) -> None:
        _tell(settings, serving, "your own server", "")
        company.come(serving)

    run(settings, started, company.stay)


class Company:
    """What lives beside the server: who revives its PostgreSQL, and the demo's fleet once it serves."""

    def __init__(self, demo: bool) -> None:
        self._demo = demo
        self._address = ""
        self._serving = asyncio.Event()

    def come(self, serving: Serving) -> None:
        """The server can be talked to."""
        self._address = serving.addresses[0]
        self._serving.set()

    async def stay(self, postgres: Postgres | None = None) -> None:
        """Until it is cancelled; then it takes its leave of the server, which serves on until it has."""
        async with asyncio.TaskGroup() as parts:
            if postgres is not None:
                parts.create_task(_revive(postgres))
            if self._demo:
                await self._serving.wait()
                await self._live()

    async def _live(self) -> None:
        target = Target((self._address,), Access(), "")
        try:
            async with Client(self._address) as client:
                await live(client, target)
            log.info("the root of the demo was killed, and so it has ended")
        except (ManagerError, RefusedError) as error:
            log.warning("the demo has ended: %s", error)


def _tell(settings: Settings, serving: Serving, postgres: str, ask: str) -> None:
    tell(
        settings,
        *banner(serving.instance_id, serving.addresses, serving.pages, serving.notice),
        f"  PostgreSQL     {postgres}",
        *([f"  SQL            {ask}"] if ask else []),
        STOPS,
    )


async def _prepare(postgres: Postgres, settings: Settings) -> str:
    """The database, migrated, with the retentions of these settings; its address for the server role."""
    await postgres.create_database(DATABASE)
    await migrations.upgrade(postgres.url(database=DATABASE))
    await retain(settings.model_copy(update={"database_url": postgres.url(database=DATABASE)}))
    for role in (SERVER, AUDITOR):
        await postgres.grant_login(role)
    return postgres.url(SERVER, DATABASE)


async def _revive(postgres: Postgres) -> None:
    """Starts the server anew whenever it has ended; what was committed is there again. Auditors stand back."""
    with closing(niceness.Allowance(f"{postgres.name}-{AUDITOR}")) as allowance:
        while True:
            await asyncio.sleep(WATCH)
            for each in niceness.of_role(postgres.process.pid, AUDITOR):
                niceness.stand_back(each)
                allowance.hold(each)
            if postgres.process.poll() is not None:
                log.warning("PostgreSQL has ended by itself (%s), and is started anew", postgres.process.returncode)
                postgres.restart()
