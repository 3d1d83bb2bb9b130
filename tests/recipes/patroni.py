"""A Patroni cluster of three hosts, etcd and HAProxy, all on 127.0.0.1 and from the very files of deploy/patroni.

What is not as on real hosts is the addresses, the folders and the passwords: the environment, and where tls/ is.
"""

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.request import urlopen

import asyncpg
import psutil

from manager.embedded import postmaster
from manager.embedded.account import Account
from manager.embedded.binaries import Binaries
from tests.commands import bare, script
from tests.conftest import PASSWORD, SERVER
from tests.faults import trees
from tests.faults.server import NAME, Server, free_port, place
from tests.processes import IMCTL, environment, imctl

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "patroni"
BINARIES = Binaries(Path("/usr/lib/postgresql/15/bin"), "15")
TLS = "/etc/patroni/tls"
TTL = 20.0  # as in patroni.yaml
PATIENCE = 120.0
PACE = 0.2


def variables(file: str, **own: str | int) -> dict[str, str]:
    """What a file of deploy/patroni has for the environment, with values of one's own, and nothing that it lacks."""
    lines = (DEPLOY / file).read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert own.keys() <= given.keys(), f"{file} has no {own.keys() - given.keys()}"
    return given | {name: str(value) for name, value in own.items()}


@dataclass
class Program:
    """A server of the account's, with its log; `start` and `end` may be called more than once."""

    account: Account
    command: tuple[str | Path, ...]
    variables: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Starts it; it ends with us."""
        prefix = [*postmaster._ending_with_us(), "/usr/bin/env", *(f"{k}={v}" for k, v in self.variables.items())]
        with self.log.open("ab") as log:
            self.process = self.account.spawn([*prefix, *self.command], log)

    async def end(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Asks it to end, and has it gone."""
        if self.running:
            self.process.send_signal(sign)  # type: ignore[union-attr]
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self.running:
                    await asyncio.sleep(0.05)
        if self.running:
            await trees.kill(self.pid)

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-6_000:] if self.log.exists() else ""


@dataclass
class Member:
    """One host: its Patroni, and the PostgreSQL that it keeps."""

    name: str
    patroni: Program
    data: Path
    port: int
    api: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, database: str) -> str:
        """A superuser's, of this very host."""
        return f"postgresql://postgres:{PASSWORD}@{self.address}/{database}"

    @property
    def postgres(self) -> int | None:
        """The postmaster's process, where one of this host's runs."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            if str(self.data) in process.cmdline():
                return process.pid
        return None

    async def kill9(self) -> None:
        """kill -9 of all of it."""
        await self.kill9_patroni()
        await self.kill9_postgres()

    async def kill9_patroni(self) -> None:
        """kill -9 of Patroni alone: its PostgreSQL runs on, and takes writes if it did."""
        if self.patroni.running:
            await trees.kill(self.patroni.pid)
        await self.patroni.end()

    async def kill9_postgres(self) -> None:
        """kill -9 of PostgreSQL and its processes."""
        if (pid := self.postgres) is not None:
            await trees.kill(pid)

    @property
    def receiver(self) -> psutil.Process | None:
        """What takes the log from the primary, where this one is a standby."""
        processes = psutil.Process(self.postgres).children() if self.postgres else []
        return next((each for each in processes if "walreceiver" in " ".join(each.cmdline())), None)

    async def value(self, statement: str, *arguments: object, database: str = "postgres") -> Any:
        """The one value of a statement, asked of this very host."""
        connection = await asyncpg.connect(self.url(database), timeout=PATIENCE)
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close(timeout=PATIENCE)


@dataclass(frozen=True)
class Told:
    """What Patroni says of a member."""

    name: str
    role: str
    state: str
    timeline: int
    lag: int | str

    @property
    def follows(self) -> bool:
        return self.role != "leader" and self.state in ("running", "streaming") and self.lag == 0


@dataclass
class Cluster:
    """All of it. `database`: the primary, by HAProxy; `ca`: whom its certificates are by.

    `synchronous`: whether commits wait for a standby, as they do in deploy/patroni.
    """

    folder: Path
    etcd: Program
    haproxy: Program
    members: list[Member]
    database: Server
    standbys: int
    synchronous: bool = True

    @property
    def ca(self) -> Path:
        return self.folder / "tls" / "ca.pem"

    @property
    def several(self) -> str:
        """The server's role at the database, by all hosts."""
        return self._address(",".join(each.address for each in self.members))

    @property
    def proxied(self) -> str:
        """The same by HAProxy."""
        return self._address(self.database.address)

    def _address(self, hosts: str) -> str:
        return f"postgresql://{SERVER}:{PASSWORD}@{hosts}/{NAME}?sslmode=verify-full&sslrootcert={self.ca}"

    # ── who is what ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def told(self) -> list[Told]:
        """What a Patroni that runs says of all members."""
        running = [each for each in self.members if each.patroni.running]
        answer = await asyncio.to_thread(_asked, f"http://127.0.0.1:{running[0].api}/cluster")
        return [
            Told(each["name"], each["role"], each["state"], each.get("timeline", 0), each.get("lag", 0))
            for each in answer["members"]
        ]

    async def leader(self) -> Member:
        """The member that is the primary, by what Patroni says."""
        (name,) = [each.name for each in await self.told() if each.role == "leader"]
        return self.named(name)

    def named(self, name: str) -> Member:
        return next(each for each in self.members if each.name == name)

    async def until(self, holds: Callable[[list[Told]], bool]) -> float:
        """How long it takes until that holds; fails with what the members have logged."""
        begun, told = monotonic(), list[Told]()
        while not told or not holds(told):
            if monotonic() - begun > PATIENCE:
                said = "\n\n".join(f"{each.name}: {each.patroni.said()}" for each in self.members)
                raise TimeoutError(f"{told}\n{said}")
            with suppress(OSError, ValueError):
                told = await self.told()
            await asyncio.sleep(PACE)
        return monotonic() - begun

    async def settled(self, size: int = 3) -> float:
        """How long it takes until so many members are there, one of them synchronous if any is, and none is behind."""

        def well(told: list[Told]) -> bool:
            roles = [each.role for each in told]
            there = [each for each in told if each.role == "leader" or each.follows]
            one = len({each.timeline for each in there}) == 1
            right = (roles.count("leader"), roles.count("sync_standby")) == (1, int(self.synchronous))
            return len(there) == size and one and right

        return await self.until(well)

    # ── what a person does ───────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, name: str, **more: str) -> str:
        """Runs commands of docs/operations.md; what they print."""
        known = {
            "PATH": f"{self.folder}/bin:{BINARIES.folder}:/usr/bin:/bin",
            "PATRONICTL_CONFIG_FILE": str(self.folder / "config.yml"),
            **bare(
                SUPERUSER_URL=self.database.url(),
                DATABASE_SUPERUSER_URL=self.database.url(NAME),
                REPLICATOR_URL=self.database.url().replace("//postgres:", "//replicator:"),
            ),
            "PASSWORD": PASSWORD,
            "IM_POSTGRES_BIN": str(BINARIES.folder),
        }
        # patronictl speaks for the host that it runs on
        environ = environment(**self.members[0].patroni.variables, **known, **more)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-ec", script(name)), env=environ, cwd=DEPLOY.parents[1], stdout=-1, stderr=-1
        )
        out, err = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == 0, f"{name}: {out.decode()} {err.decode()}"
        return out.decode()


def _asked(url: str) -> Any:
    with urlopen(url, timeout=5) as answer:
        return json.load(answer)


# ── to begin ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def started(*, synchronous: bool = True) -> AsyncIterator[Cluster]:
    """A cluster whose three members are well; nothing of it stays."""
    account = Account.for_data(None)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(place(account))
        await _certified(folder, account)
        if not synchronous:
            file = folder / "config.yml"
            file.write_text(file.read_text().replace("synchronous_mode: true", "synchronous_mode: false"))
        etcd = _etcd(account, folder)
        members = [_member(account, folder, f"db{number}", etcd) for number in (1, 2, 3)]
        haproxy = _haproxy(account, folder, members)
        primary, standbys = (int(haproxy.variables[each].rpartition(":")[2]) for each in ("PRIMARY", "STANDBYS"))
        database = Server(account, BINARIES, folder, primary)
        cluster = Cluster(folder, etcd, haproxy, members, database, standbys, synchronous)
        for each in (etcd, haproxy):
            each.start()
            stack.push_async_callback(each.end)
        for member in members:
            stack.push_async_callback(_gone, member)
            member.patroni.start()
        await cluster.settled()
        yield cluster


async def _gone(member: Member) -> None:
    if member.patroni.running:
        await member.patroni.end(signal.SIGKILL)
    await member.kill9_postgres()


async def _certified(folder: Path, account: Account) -> None:
    """By `imctl certs`, as for managers; and what is asked for by name is found."""
    made = await imctl("certs", "init", str(folder / "tls"), "--host", "127.0.0.1")
    assert made.code == 0, made.err
    (folder / "bin").mkdir()
    (folder / "bin" / "imctl").write_text(f'#!/bin/sh\nexec {" ".join(IMCTL)} "$@"\n')
    (folder / "bin" / "imctl").chmod(0o755)
    for each in (folder / "tls", *(folder / "tls").iterdir()):
        account.own(each)
    for name, into in (("patroni.yaml", "config.yml"), ("haproxy.cfg", "haproxy.cfg")):
        text = (DEPLOY / name).read_text()
        (folder / into).write_text(text.replace(TLS, str(folder / "tls")))


def _etcd(account: Account, folder: Path) -> Program:
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    own = variables(
        "etcd.env",
        ETCD_LISTEN_CLIENT_URLS=client,
        ETCD_ADVERTISE_CLIENT_URLS=client,
        ETCD_LISTEN_PEER_URLS=peer,
        ETCD_INITIAL_ADVERTISE_PEER_URLS=peer,
        ETCD_INITIAL_CLUSTER=f"etcd1={peer}",
    )
    own["ETCD_DATA_DIR"] = str(folder / "etcd")  # Debian's unit names it
    return Program(account, ("/usr/bin/etcd",), own, folder / "etcd.log")


def _member(account: Account, folder: Path, name: str, etcd: Program) -> Member:
    port, api = free_port(), free_port()
    home = folder / name
    home.mkdir()
    account.own(home)
    own = variables(
        "patroni.env",
        PATRONI_NAME=name,
        PATRONI_ETCD3_HOSTS=etcd.variables["ETCD_LISTEN_CLIENT_URLS"].removeprefix("http://"),
        PATRONI_RESTAPI_LISTEN=f"127.0.0.1:{api}",
        PATRONI_RESTAPI_CONNECT_ADDRESS=f"127.0.0.1:{api}",
        PATRONI_POSTGRESQL_LISTEN=f"127.0.0.1:{port}",
        PATRONI_POSTGRESQL_CONNECT_ADDRESS=f"127.0.0.1:{port}",
        PATRONI_POSTGRESQL_DATA_DIR=str(home / "data"),
        PATRONI_POSTGRESQL_PGPASS=str(home / "pgpass"),
        PATRONI_RESTAPI_PASSWORD=PASSWORD,
        PATRONI_SUPERUSER_PASSWORD=PASSWORD,
        PATRONI_REPLICATION_PASSWORD=PASSWORD,
        PATRONI_REWIND_PASSWORD=PASSWORD,
    )
    program = Program(account, ("/usr/bin/patroni", folder / "config.yml"), own, home / "log")
    return Member(name, program, home / "data", port, api)


def _haproxy(account: Account, folder: Path, members: list[Member]) -> Program:
    hosts = {each.name.upper(): each.address for each in members}
    apis = {f"{each.name.upper()}_PATRONI": each.api for each in members}
    own = variables(
        "haproxy.env",
        PRIMARY=f"127.0.0.1:{free_port()}",
        STANDBYS=f"127.0.0.1:{free_port()}",
        **hosts,
        **apis,
    )
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin") or "haproxy"
    return Program(account, (program, "-db", "-f", folder / "haproxy.cfg"), own, folder / "haproxy.log")
