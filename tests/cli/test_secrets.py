"""Canaries: tokens, a password and keys, looked for in all that a manager and `imctl` say, whatever goes wrong; over
both transports, with the log in words and as JSON, and in what auditors see."""

import asyncio
import base64
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from grpc import aio

from manager import certificates
from manager.domain.principal import Role
from manager.pb import instance_manager_pb2 as pb
from manager.pb.fleet_pb2_grpc import FleetServiceStub
from manager.pb.instance_manager_pb2_grpc import GetServiceStub, SubscribeServiceStub, TryServiceStub
from manager.settings import LogFormat, Transport
from tests.conftest import Database, at
from tests.credentials import bearing, granted
from tests.processes import IMCTL, PATIENCE, Running, environment, imctl, started
from tests.wire.caller import VERSION
from tests.wire.fleet import description, request

PASSWORD = "Canary-im-Passwort-8c1f5a7e"
ROLE = "im_canary"
A_TOKEN = re.compile(r"imt_[0-9A-Za-z]{49}")  # as a scanner of secrets looks for it


@dataclass
class Canaries:
    """What is to be found nowhere, by its name; and all that was said, by where it was said."""

    secrets: dict[str, str] = field(default_factory=dict)
    said: list[tuple[str, str]] = field(default_factory=list)

    def heard(self, where: str, *what: object) -> None:
        """Keeps what was said."""
        self.said.extend((where, str(each)) for each in what)

    def found(self) -> Iterator[str]:
        """Where a canary sings: as it is, the middle of it, or as it travels; and where anybody's token is."""
        said = dict.fromkeys(self.said)
        for name, secret in self.secrets.items():
            middle = secret[len(secret) // 4 : -len(secret) // 4]
            shapes = {secret, middle, quote(secret), base64.b64encode(secret.encode()).decode().rstrip("=")}
            for where, text in said:
                if any(each in text for each in shapes):
                    yield f"{name} in {where}: {text[:2000]}"
        for where, text in said:
            if A_TOKEN.search(text):
                yield f"a token in {where}: {text[:2000]}"


@dataclass(frozen=True)
class Aviary:
    """A manager with all of them, and how to talk to it."""

    name: str
    running: Running
    tls: Path
    canaries: Canaries

    def heard(self, where: str, *what: object) -> None:
        """Keeps what this manager said."""
        self.canaries.heard(f"{where}, {self.name}", *what)

    async def fetch(self, path: str, body: bytes | None = None, **headers: str) -> int:
        """What HTTP answers is heard; the status."""
        found = re.search(r"https://\S+:(\d+)", self.running.said)
        assert found, self.running.said
        port = int(found[1])
        trusting = ssl.create_default_context(cafile=str(self.tls / "ca.pem"))

        def asked() -> int:
            connection = HTTPSConnection("127.0.0.1", port, timeout=20, context=trusting)
            try:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                connection.request("GET" if body is None else "POST", path, body, named)
                answer = connection.getresponse()
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() != "set-cookie"]
                self.heard(f"HTTP {path}", kept, answer.read(200_000).decode(errors="replace"))
                return answer.status
            except (OSError, HTTPException):
                return 0
            finally:
                connection.close()

        return await asyncio.to_thread(asked)

    async def call(self, answering: Any) -> Any:
        """The answer, or how a call ended without one; either is heard."""
        try:
            answer = await answering
            self.heard("an answer", answer)
            return answer
        except aio.AioRpcError as error:
            self.heard("gRPC", error.code(), error.details(), error.trailing_metadata())
            return error.code()


@pytest.fixture
async def canaries(database: Database) -> AsyncIterator[Canaries]:
    """With a role of the database whose password is one."""
    await database.run(f"create role {ROLE} login password '{PASSWORD}' in role im_server")
    yield Canaries({"password": PASSWORD})
    await database.run(f"drop role {ROLE}")


@pytest.fixture
def tls(tmp_path: Path, canaries: Canaries) -> Path:
    """An authority and a manager's certificate, whose keys are canaries too."""
    by = certificates.authority("test")
    by.write(tmp_path, "ca")
    certificates.for_server(by, ["127.0.0.1", "localhost"], certificates.AUTHORITY_LASTS).write(tmp_path, "server")
    for name in ("ca", "server"):
        lines = (tmp_path / f"{name}.key").read_text().splitlines()
        canaries.secrets[f"{name}.key"] = max(lines[1:-1], key=len)
    return tmp_path


def variables(
    database: Database, tls: Path, transport: Transport = Transport.GRPCIO, form: LogFormat = LogFormat.TEXT
) -> Mapping[str, str]:
    """Of a manager with TLS that asks who calls."""
    url = at(database.admin, database=database.name, user=ROLE, password=PASSWORD)
    files = {"IM_TLS_CERT": str(tls / "server.pem"), "IM_TLS_KEY": str(tls / "server.key")}
    kind = {"IM_TRANSPORT": transport.value, "IM_LOG_FORMAT": form.value}
    return {"DATABASE_URL": url, "IM_AUTH": "true", "IM_REFLECTION": "true", **kind, **files}


def cmdlines(pid: int) -> Iterator[str]:
    """What `ps` shows of a process and of its children."""
    yield Path(f"/proc/{pid}/cmdline").read_text()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # threads come and go
            for child in (task / "children").read_text().split():
                yield from cmdlines(int(child))


async def sing(it: Aviary, tokens: Mapping[Role, str]) -> None:
    """Shows them wherever something can be shown, rightly and wrongly."""
    token = tokens[Role.ADMIN]
    trusted = grpc.ssl_channel_credentials((it.tls / "ca.pem").read_bytes())
    async with aio.secure_channel(it.running.address, trusted) as channel:
        tries, gets = TryServiceStub(channel), GetServiceStub(channel)
        ours, mine = (*VERSION, *bearing(token)), description(labels={"team": "x"})
        added = tries.TryAddInstance(mine, metadata=ours, timeout=10)
        await it.call(added)
        own = dict(await added.trailing_metadata() or ()).get("instance_token", "")
        if own:  # none while the database is away
            it.canaries.secrets[f"token of {mine.instance_id}"] = str(own)
        for each in (*tokens.values(), str(own), ""):
            shown = (*VERSION, *bearing(each))
            await it.call(tries.TryHealthCheck(request(mine.instance_id), metadata=shown, timeout=10))
            await it.call(gets.GetAllInstances(pb.InstanceFilter(), metadata=shown, timeout=10))
            await it.call(
                FleetServiceStub(channel).DescribeInstance(request(mine.instance_id), metadata=shown, timeout=10)
            )
            stream: Any = SubscribeServiceStub(channel).SubscribeToInstanceUpdates(
                pb.SubscribeRequest(send_initial_state=True), metadata=shown, timeout=10
            )
            await it.call(stream.read())
            stream.cancel()
        wrong = [f"Bearer {token}x", f"Bearer  {token[:-1]}", f"Basic {token}", token, f"Bearer {PASSWORD}"]
        for value in wrong:
            shown = (*VERSION, ("authorization", value))
            await it.call(gets.GetInstance(request(mine.instance_id), metadata=shown, timeout=10))
        await it.call(tries.TryKillInstance(pb.KillRequest(instance_id=mine.instance_id), metadata=ours, timeout=10))
    for value in (f"Bearer {token}", f"Bearer {tokens[Role.OPERATOR]}", *wrong, ""):
        for path in ("/", "/healthz", "/metrics", "/sd/prometheus", "/events", "/console/app.js"):
            await it.fetch(path, authorization=value)
        body = json.dumps({"instance_id": mine.instance_id}).encode()
        path = "/instance_manager.GetService/GetInstance"
        await it.fetch(path, body, content_type="application/json", authorization=value, proto_version=VERSION[0][1])
        await it.fetch("/metrics", cookie=f"im_session={value}")
        await it.fetch("/session", json.dumps({"token": value}).encode())


async def run_a_command(it: Aviary, registrar: str) -> None:
    """`imctl run`, whose command has a token of its own."""
    near = {"IM_TOKEN": registrar, "IM_ADDRESS": it.running.address, "IM_TLS_CA": str(it.tls / "ca.pem")}
    process = await asyncio.create_subprocess_exec(
        *(*IMCTL, "run", "--type", "VLLM", "--quiet", "--", "sh", "-c", 'echo "$IM_TOKEN"; exec sleep 60'),
        env=environment(**near),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        own = (await process.stdout.readline()).decode().strip()
        assert A_TOKEN.fullmatch(own)
        it.canaries.secrets["token of a command"] = own
        lines = list(cmdlines(process.pid))
        process.terminate()
        out, err = await process.communicate()
    assert len(lines) > 1
    it.heard("cmdline of imctl run", *lines)
    it.heard("imctl run", out.decode(), err.decode())


async def views(database: Database) -> list[tuple[str, str]]:
    """All that auditors see."""
    rows = await database.run("select viewname from pg_views where schemaname = 'audit' order by 1")
    told = [
        (each[0], row[0])
        for each in rows
        for row in await database.run(f"select cast(v as text) from audit.{each[0]} v")
    ]
    assert {"acts", "denied_calls", "events", "instances"} <= {name for name, _ in told}
    return told


async def test_no_secret_is_in_what_a_manager_says_whatever_goes_wrong(
    database: Database, tls: Path, canaries: Canaries
) -> None:
    tokens: dict[Role, str] = {role: await granted(database, role) for role in Role if role is not Role.INSTANCE}
    canaries.secrets |= {str(role): token for role, token in tokens.items()}
    async with AsyncExitStack() as stack:

        async def one(transport: Transport, form: LogFormat) -> Aviary:
            given = variables(database, tls, transport, form)
            starting = started("serve", "--bind", "127.0.0.1", "--port", "0", "--http-port", "0", **given)
            return Aviary(f"{transport}, {form}", await stack.enter_async_context(starting), tls, canaries)

        # all at once: it is their waiting that takes its time
        all_kinds = await asyncio.gather(*(one(*each) for each in product(Transport, LogFormat)))
        for it in all_kinds:
            it.heard("banner", it.running.said)
            it.heard("cmdline", *cmdlines(it.running.process.pid))

        async def all_sing() -> None:
            await asyncio.gather(*(sing(it, tokens) for it in all_kinds))

        await asyncio.gather(all_sing(), run_a_command(all_kinds[0], tokens[Role.REGISTRAR]))
        async with asyncio.timeout(PATIENCE):
            while not await database.value("select count(*) from denied_call"):  # written every five seconds
                await asyncio.sleep(0.1)
        for table in ("token", "instance_version", "event"):  # faults of ours, with a traceback each
            await database.run(f"alter table {table} rename to hidden")
            await all_sing()
            await database.run(f"alter table hidden rename to {table}")
        await database.run(f"alter role {ROLE} connection limit 0")  # the database is away
        await database.run(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{ROLE}'")
        await asyncio.sleep(6)  # until nobody is trusted any more
        await all_sing()
        await database.run(f"alter role {ROLE} connection limit -1 password 'another'")  # and does not know us any more
        await asyncio.sleep(2)
        await all_sing()
        for it, ended in zip(
            all_kinds, await asyncio.gather(*(each.running.stop() for each in all_kinds)), strict=True
        ):
            it.heard("log", ended.err)
            assert "incident" in ended.err, it.name
            assert "Traceback" in ended.err, it.name
    for view, row in await views(database):
        canaries.heard(f"audit.{view}", row)
    assert len(canaries.said) > 800
    assert list(canaries.found()) == []


async def test_no_secret_is_in_what_imctl_says_or_in_its_arguments(
    database: Database, tls: Path, canaries: Canaries
) -> None:
    token = await granted(database, Role.READER)
    canaries.secrets["token"] = token
    given = variables(database, tls)
    near = {"IM_TOKEN": token, "IM_ADDRESS": "127.0.0.1:1", "IM_TLS_CA": str(tls / "ca.pem")}
    url = given["DATABASE_URL"]
    lost = {
        "closed": url.replace(url.rpartition(":")[2].partition("/")[0], "1"),
        "database": url.rpartition("/")[0] + "/nowhere",
        "option": f"{url}?nonsense=1",
        "none": url.replace("postgresql://", "mysql://"),
    }
    asked: dict[str, list[tuple[str, ...]]] = {
        "closed": [("serve", "--port", "0"), ("token", "list")],
        "database": [("serve", "--port", "0"), ("migrate",), ("audit", "verify"), ("doctor",)],
        "option": [("serve", "--port", "0")],
        "none": [("serve", "--port", "0")],
    }
    for where, lines in asked.items():
        for line in lines:
            ended = await imctl(*line, **{**near, **given, "DATABASE_URL": lost[where], "IM_BIND": '["127.0.0.1"]'})
            canaries.heard(f"imctl {line[0]}, {where}", ended.out, ended.err)
            assert ended.code != 0, (line, where)
    for line in (
        ("get",),
        ("kill", "x"),
        ("doctor", "-o", "yaml"),
    ):
        ended = await imctl(
            *line, **{**near, "IM_TLS_KEY": str(tls / "server.key"), "IM_TLS_CERT": given["IM_TLS_CERT"]}
        )
        canaries.heard(f"imctl {line[0]}", ended.out, ended.err)
    assert list(canaries.found()) == []


@pytest.mark.parametrize(("transport", "form"), list(zip(Transport, LogFormat, strict=True)))
async def test_no_secret_is_in_the_arguments_of_workers(
    database: Database, tls: Path, canaries: Canaries, transport: Transport, form: LogFormat
) -> None:
    given = {**variables(database, tls, transport, form), "IM_WORKERS": "2", "IM_HTTP": "false"}
    async with started("serve", "--bind", "127.0.0.1", "--port", "0", **given) as running:
        lines = list(cmdlines(running.process.pid))
        canaries.heard("cmdline", *lines)
        ended = await running.stop()
    canaries.heard("log", running.said, ended.err)
    assert len(lines) == 3
    assert list(canaries.found()) == []
