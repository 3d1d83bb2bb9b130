"""A database that is lost, and what must be true of it once it is back, whoever brought it back."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import pytest

from manager.client.errors import PreconditionError
from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2 import AddInstancesRequest
from tests.commands import bare, script
from tests.drilling import add, checked, count, managing, registering, sound, value
from tests.faults.postgres import migrated, started
from tests.faults.server import NAME, Server, free_port, place

DEBIAN = Path("/usr/lib/postgresql/15/bin")
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SIZE = 2_000
PATIENCE = 300


@dataclass
class Own:
    """A server of one's own, and its account's folder, where all the rest is too; with the page's commands."""

    server: Server
    folder: Path
    variables: dict[str, str]
    took: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The fleet's database, as a superuser."""
        return self.server.url(NAME)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    async def run(self, name: str, **more: str) -> str:
        """Runs the page's commands of that name, as PostgreSQL's account; what they print."""
        begun = perf_counter()
        printed = await self.bash(script(name), **more)
        self.took[name] = perf_counter() - begun
        return printed

    async def bash(self, text: str, **more: str) -> str:
        """Runs a script, likewise."""
        given = (f"{name}={value}" for name, value in {**self.variables, **more}.items())
        command = ("/usr/bin/env", *given, "bash", "-o", "pipefail", "-ec", text)
        code, printed = await asyncio.wait_for(asyncio.to_thread(self.server.account.run, *command), PATIENCE)
        assert code == 0, f"{text}: {printed}"
        return printed

    def said(self, serving: float) -> str:
        """How long each step took, and the managers after it."""
        steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.took.items())
        return f"{SIZE} instances: {steps}; then serving after {serving:.1f} s"

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        """A file in the folder, the account's."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        self.server.account.own(path)

    async def recovered(self) -> float:
        """Starts the server; after how many seconds all is played back, and it takes writes."""
        begun = perf_counter()
        await self.server.start()
        async with asyncio.timeout(PATIENCE):
            while await self.server.value("select pg_is_in_recovery()"):
                await asyncio.sleep(0.05)
        return perf_counter() - begun

    async def lose(self) -> None:
        """The server dies, and its disk with it."""
        await self.server.kill9()
        shutil.rmtree(self.server.data)


@asynccontextmanager
async def own_server() -> AsyncIterator[Own]:
    """Debian's PostgreSQL with an empty fleet."""
    async with started(bin_dir=DEBIAN) as server:
        with place(server.account, Path("/var/tmp")) as folder:
            for each in ("home", "backups"):
                (folder / each).mkdir()
                server.account.own(folder / each)
            server.settings["unix_socket_directories"] = str(folder)
            await server.restart()
            await migrated(server)
            port = free_port()
            variables = {
                "PATH": f"{DEBIAN}:{os.environ['PATH']}",
                "HOME": str(folder / "home"),
                "PGDATA": str(server.data),
                "BACKUPS": str(folder / "backups"),
                "SCRATCH": str(folder / "scratch"),
                "SCRATCH_PORT": str(port),
                **bare(
                    SCRATCH_URL=server.url(NAME).replace(server.address, f"127.0.0.1:{port}"),
                    SUPERUSER_URL=server.url(),
                    DATABASE_SUPERUSER_URL=server.url(NAME),
                ),
            }
            own = Own(server, folder, {**variables, "CONFIG": str(folder / "postgresql.conf")})
            # what the server has on its command line, as Debian has it in /etc: the data folder has none of it
            own.write("postgresql.conf", f"max_connections = 200\nhba_file = '{folder}/pg_hba.conf'\n")
            own.write("pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")
            yield own


@dataclass(frozen=True)
class Told:
    """What was told of the fleet before it was lost: at `revision`, which was at `time`, `kept` were there."""

    kept: list[str]
    later: list[str]
    revision: int
    time: str
    living: int
    token: bytes


async def lived(own: Own, backup: str, complete: str) -> Told:
    """A fleet that is backed up while it changes, and then makes a mistake; by the page's commands of those names."""
    async with managing(own.server.database.url) as client:
        early = await add(client, SIZE)
        async with registering(client) as meanwhile:
            await own.run(backup)
            await asyncio.sleep(1.1)  # pgBackRest tells backups from moments by whole seconds
        kept = [*early, *(one for _, one in meanwhile), *await add(client, SIZE // 10)]
        revision = await value(own.url, "select max(revision) from event")
        living = await count(client, revision)
        time = await own.server.value("select clock_timestamp()::text")
        later = await add(client, 10)
        mistake = await client.try_.TryKillInstance(pb.KillRequest(instance_id=early[0], note="a mistake"))
        assert mistake.value
        token = (await client.get.GetAllInstances(pb.InstanceFilter(page_size=1))).resume_token
        await own.run("find", REVISION=str(revision))
        async with registering(client):
            await own.run(complete)
    return Told(kept, later, revision, time, living, token)


async def kept_again(own: Own, name: str) -> None:
    """What is to be done once it serves, by the page's commands of that name."""
    async with managing(own.server.database.url) as client, registering(client):
        await own.run(name)


async def serves_again(own: Own, told: Told) -> float:
    """The data that were brought back serve, as they were at that revision; after how many seconds from its start."""
    begun = perf_counter()
    await own.recovered()
    async with managing(own.server.database.url) as client:
        took = perf_counter() - begun
        assert await value(own.url, "select (grace_until > clock_timestamp())::int from control")
        kept, lost = await checked(client, [*told.kept, *told.later])
        assert (kept, lost) == (len(told.kept), len(told.later))
        assert await count(client, told.revision) == told.living
        stream = client.subscribe.SubscribeToInstanceUpdates(pb.SubscribeRequest(resume_token=told.token))
        with pytest.raises(PreconditionError, match="another history"):
            async for _ in stream:
                pass
        again = [pb.InstanceDescription(instance_id=each, instance_type=pb.CHROME_BROWSER) for each in told.later]
        answer = await client.fleet.AddInstances(AddInstancesRequest(instances=again))
        assert all(each.answer.value for each in answer.outcomes)
        assert await checked(client, told.later) == (len(told.later), 0)
    rows = await own.server.database.run("select number, base_revision from audit.epochs order by number")
    assert [tuple(each) for each in rows] == [(1, 0), (2, told.revision)]
    assert await value(own.url, "select count(*) from audit.deaths where note = 'a mistake'") == 0
    await sound(own.url)
    return took
