"""`imctl serve --workers N`: several processes behind one port, which live and end together."""

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from manager.cli import workers as supervision
from manager.cli.workers import Launch, Workers, launched
from manager.client import Client
from manager.pb.instance_manager_pb2 import KillRequest
from manager.settings import Settings
from manager.wire.ports import CannotListen, Reservation
from tests.cli.imctl import gone
from tests.conftest import Database, _recreate, at
from tests.processes import Running, imctl, started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares connections out")

TREE = """
select i.id, i.labels ->> 'instance-manager/worker' as worker, l.parent_id
from instance i left join parent_link l on l.child_id = i.id where i.died_revision is null
"""


@asynccontextmanager
async def crew(database: Database, workers: int = 2, **variables: str) -> AsyncIterator[Running]:
    """A supervisor with its workers, all in the fleet; a killed instance is noticed within a third of a second."""
    more = {"IM_TIMEOUT": "1", "DATABASE_URL": database.url, **variables}
    async with started("serve", "--bind", "127.0.0.1", "--port", "0", "--workers", str(workers), **more) as running:
        await until(lambda: holds(database, workers))
        yield running


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.05)


async def holds(database: Database, workers: int) -> bool:
    return len(await numbers(database)) == workers


async def numbers(database: Database) -> dict[str, str]:
    """The ids of the living workers, by number."""
    return {row["worker"]: str(row["id"]) for row in await database.run(TREE) if row["worker"]}


def instance_of(running: Running) -> str:
    found = re.search(r"instance (\S+)\n", running.said[running.said.index("Instance Manager") :])
    assert found
    return found[1]


def pids(running: Running) -> list[int]:
    """Of the workers."""
    return [each.pid for each in psutil.Process(running.process.pid).children()]


def connections(pid: int, running: Running) -> int:
    """How many clients a worker serves."""
    port = int(running.address.rpartition(":")[2])
    found = psutil.Process(pid).net_connections("tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in found)


async def ended(running: Running) -> tuple[int, str]:
    """Waits for an end that nobody signals: exit code, and what it said since the banner."""
    async with asyncio.timeout(60):
        _, err = await running.process.communicate()
    return running.process.returncode or 0, err.decode()


async def test_workers_are_children_of_one_instance_and_said_once(database: Database) -> None:
    async with crew(database, 3) as running:
        parents = {row["worker"]: str(row["parent_id"]) for row in await database.run(TREE)}
        supervisor = instance_of(running)
        assert parents == {None: "None", "1": supervisor, "2": supervisor, "3": supervisor}
        assert running.said.count("Instance Manager") == 1
        named = re.search(r"workers        3, processes (\d+), (\d+), (\d+)\n", running.said)
        assert named
        # in the order of the workers, which is not that of the numbers where those have begun anew
        assert set(map(int, named.groups())) == set(pids(running))
        assert re.search(r"worker 3 .*serves as instance", running.said)


async def test_calls_are_served_by_all_workers(database: Database) -> None:
    async with crew(database) as running, AsyncExitStack() as stack:
        for _ in range(24):  # all go to one of two once in eight million times
            own = aio.insecure_channel(running.address, options=[("grpc.use_local_subchannel_pool", 1)])
            channel = await stack.enter_async_context(own)
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        served = [connections(each, running) for each in pids(running)]
        assert sum(served) == 24
        assert all(served)


async def test_a_killed_worker_costs_its_connections_alone_and_comes_back(database: Database) -> None:
    async with crew(database) as running, AsyncExitStack() as stack:
        before = await numbers(database)
        for _ in range(24):
            _, writer = await asyncio.open_connection(*running.address.split(":"))
            stack.callback(writer.close)
        victim, spared = pids(running)
        await until(lambda: counted(running, 24))
        kept = connections(spared, running)
        psutil.Process(victim).kill()
        await until(lambda: replaced(running, victim))
        assert connections(spared, running) == kept
        await until(lambda: others(database, before))
        end = await running.stop(signal.SIGTERM)
        assert end.code == 0, end.err
        assert f"(process {victim}) ended by SIGKILL; it is started anew in 0.5 s" in end.err


async def counted(running: Running, all_of_them: int) -> bool:
    return sum(connections(each, running) for each in pids(running)) == all_of_them


async def replaced(running: Running, victim: int) -> bool:
    return len(pids(running)) == 2 and victim not in pids(running)


async def others(database: Database, before: dict[str, str]) -> bool:
    """Whether there is a worker that was not there before."""
    return bool(set((await numbers(database)).values()) - set(before.values()))


async def test_a_signal_drains_all_and_leaves_nothing_in_the_fleet(database: Database) -> None:
    async with crew(database, IM_DRAIN="2") as running:
        children = pids(running)
        for each in children:  # systemd signals every process of a service
            psutil.Process(each).send_signal(signal.SIGTERM)
        end = await running.stop(signal.SIGTERM)
        assert end.code == 0, end.err
        assert end.err.count("draining and stopping") == 1
        assert await gone(children)
        assert await database.run(TREE) == []


async def test_a_second_signal_ends_all_at_once(database: Database) -> None:
    async with crew(database, IM_DRAIN="60") as running:
        children = pids(running)
        for each in children:
            psutil.Process(each).suspend()  # so that none drains
        running.process.send_signal(signal.SIGTERM)
        assert running.process.stderr
        while b"draining" not in await running.process.stderr.readline():
            pass
        end = await running.stop(signal.SIGTERM)
        assert end.code == 1
        assert "has not drained, and is ended" in end.err
        assert await gone(children)


async def test_killing_the_supervisors_instance_drains_all(database: Database) -> None:
    async with crew(database) as running:
        async with Client(running.address) as client:
            await client.try_.TryKillInstance(KillRequest(instance_id=instance_of(running), note="move out"))
        code, err = await ended(running)
        assert code == 0, err
        assert len(re.findall(r"worker [12] .*this manager was killed by .*\(move out\), and drains", err)) == 2
        assert "started anew" not in err


async def test_a_worker_killed_as_an_instance_drains_and_stays_away(database: Database) -> None:
    async with crew(database) as running:
        named = re.search(r"workers        2, processes (\d+), (\d+)\n", running.said)
        assert named  # in the order of the workers
        first, second = map(int, named.groups())
        async with Client(running.address) as client:
            await client.try_.TryKillInstance(KillRequest(instance_id=(await numbers(database))["1"]))
            assert await gone_within(first)
            await client.try_.TryKillInstance(KillRequest(instance_id=(await numbers(database))["2"]))
        code, err = await ended(running)
        assert code == 0, err
        assert "worker 1 was drained and stays away; 1 serve" in err
        assert "worker 2 was drained and stays away; 0 serve" in err
        assert await gone([second])


async def gone_within(pid: int) -> bool:
    async with asyncio.timeout(30):
        while not await gone([pid]):
            pass
    return True


async def test_a_worker_that_is_asked_by_a_signal_is_started_anew(database: Database) -> None:
    async with crew(database) as running:
        before = await numbers(database)
        asked, _ = pids(running)
        psutil.Process(asked).send_signal(signal.SIGTERM)
        await until(lambda: others(database, before))
        await until(lambda: holds(database, 2))  # the one that was asked had taken itself out


async def test_workers_do_not_outlive_a_killed_supervisor(database: Database) -> None:
    async with crew(database) as running:
        children = pids(running)
        running.process.kill()
        assert await gone(children)
        await running.process.communicate()


async def test_the_port_is_taken_for_every_other_server_even_while_no_worker_listens(database: Database) -> None:
    async with crew(database) as running:
        port = running.address.rpartition(":")[2]
        for each in pids(running):
            psutil.Process(each).suspend()
        here = ("--bind", "127.0.0.1", "--http-port", "0", "--port", port)  # somebody's manager may have the usual ones
        for more in ((), ("--workers", "2")):
            refused = await imctl("serve", *here, *more, DATABASE_URL=database.url)
            assert (refused.code, refused.err.count("\n")) == (1, 1)
            assert f"imctl: port {port} is taken" in refused.err
        for each in pids(running):
            psutil.Process(each).resume()


async def test_a_wrong_schema_is_one_line_and_an_exit_code(cluster: str) -> None:
    await _recreate(cluster, "im_unmigrated")
    at_home = ("serve", "--bind", "127.0.0.1", "--port", "0", "--workers", "3")
    refused = await imctl(*at_home, DATABASE_URL=at(cluster, database="im_unmigrated"))
    assert refused.code == 1
    assert "run `imctl migrate`" in refused.err
    assert refused.err.count("imctl:") == 1
    assert "Instance Manager" not in refused.err


def test_of_two_supervisors_one_has_the_port() -> None:
    with Reservation(("127.0.0.1",), 0) as held:
        port = int(held.addresses[0].rpartition(":")[2])
        with pytest.raises(CannotListen, match=f"port {port} is taken"), Reservation(("127.0.0.1",), port):
            pass
        with pytest.raises(ConnectionRefusedError):  # nobody waits for an answer that never comes
            socket.create_connection(("127.0.0.1", port))
        with socket.socket() as alone, pytest.raises(OSError, match="in use"):
            alone.bind(("127.0.0.1", port))
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()
    with Reservation(("127.0.0.1",), port):
        pass


@pytest.mark.parametrize(
    ("chosen", "ports"),
    [
        ({"http_port": 9000}, ["9000", "9001"]),
        ({}, ["50053", "50054"]),
        ({"http_port": 0}, ["0", "0"]),
        ({"port": 0}, ["0", "0"]),
    ],
)
def test_each_worker_has_an_http_port_of_its_own(chosen: dict[str, int], ports: list[str]) -> None:
    settings = Settings(workers=2, **chosen)  # type: ignore[arg-type]
    given = [launched(settings, ("[::]:7",), "id", each).environment["IM_HTTP_PORT"] for each in (1, 2)]
    assert given == ports


def doing(line: str) -> Launch:
    """A worker that does this, and nothing with a database."""
    return Launch((sys.executable, "-c", f"import sys; {line}"), {})


async def test_whoever_cannot_start_again_and_again_is_waited_for_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(supervision, "FRUITLESS", 3)
    starts = iter(("print('serving', flush=True)", *["sys.exit(3)"] * 9))
    async with asyncio.timeout(30):
        assert await Workers(lambda _: doing(next(starts)), Settings(workers=1)).serve(lambda: None) == 1
    pauses = [float(each) for each in re.findall(r"started anew in (\S+) s", caplog.text)]
    assert pauses == [0.1, 0.2, 0.4]  # after the one that had served, and after each that had not but the last
    assert "no worker serves, and 3 could not start: giving up" in caplog.text
    assert "ended with 3" in caplog.text


async def test_where_the_first_cannot_start_no_other_is_tried() -> None:
    begun: list[int] = []

    def launch(number: int) -> Launch:
        begun.append(number)
        return doing("sys.exit(7)")

    async with asyncio.timeout(30):
        assert await Workers(launch, Settings(workers=4)).serve(pytest.fail) == 7
    assert begun == [1]
