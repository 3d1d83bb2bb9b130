"""What goes on for ever: through a pipe, a line a change, at once, over a restart of the manager."""

import asyncio
import csv
import io
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import yaml

from manager.cli import words
from manager.cli.table import rfc3339
from manager.pb.instance_manager_pb2 import VLLM
from manager.settings import Settings
from tests.cli.scene import SERVICE, Scene, scene_of
from tests.conftest import Database, serving
from tests.processes import IMCTL, environment


@asynccontextmanager
async def piped(address: str, *arguments: str) -> AsyncIterator[Process]:
    """`imctl` with these arguments, read through pipes."""
    process = await asyncio.create_subprocess_exec(
        *IMCTL, *arguments, env=environment(IM_ADDRESS=address), stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.communicate()


async def line(process: Process) -> str:
    """The next line."""
    assert process.stdout
    async with asyncio.timeout(40):
        return (await process.stdout.readline()).decode().rstrip("\n")


async def test_who_is_there_comes_first_and_then_every_change_as_an_object_a_line(scene: Scene) -> None:
    async with piped(scene.address, "get", "--watch", "-o", "json") as process:
        first = json.loads(await line(process))
        assert (first["event_type"], first["instance_id"]) == ("ADDED", scene.manager)
        one = await scene.add(services=[SERVICE])
        added = json.loads(await line(process))
        assert (added["event_type"], added["instance"]["instance_id"]) == ("ADDED", one)
        assert (first["timestamp"], added["timestamp"]) == (None, added["instance"]["created_at"])
        child = await scene.add(one)
        await line(process)
        await scene.kill(one)
        removed = [json.loads(await line(process)) for _ in range(2)]
        assert [(each["event_type"], each["instance_id"], each["cause"]) for each in removed] == [
            ("REMOVED", one, "CAUSE_KILLED"),
            ("REMOVED", child, "CAUSE_PARENT_DIED"),
        ]
        assert removed[1]["root_cause_id"] == one
        assert isinstance(removed[1]["revision"], str)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


@pytest.mark.parametrize("form", ["table", "wide", "csv", "name", "yaml"])
async def test_watch_tells_only_what_changes_from_now_on_in_every_format(scene: Scene, form: str) -> None:
    before = await scene.add()
    async with piped(
        scene.address, "watch", "--type", "VLLM", "--event", "ADDED", "-o", form, "--no-headers"
    ) as process:
        told = asyncio.create_task(line(process))
        ids = []
        while not told.done():  # it has begun to listen at some moment
            await scene.add()
            ids.append(await scene.add(of=VLLM))
            await asyncio.wait({told}, timeout=0.2)
        said = told.result()
        if form == "yaml":
            lines = [said, *[await line(process) for _ in range(3)]]
            assert lines[0] == "---"
            assert yaml.safe_load("\n".join(lines))["event_type"] == "ADDED"
            return
        assert before not in said
        assert any(each in said for each in ids)
        if form == "csv":
            (row,) = csv.reader(io.StringIO(said))
            assert row[2:5] == ["ADDED", row[3], "VLLM"]
            made = await scene.database.value("select created_at from instance where id = $1", row[3])
            assert row[0] == rfc3339(made.replace(microsecond=made.microsecond // 1000 * 1000))


async def test_whoever_is_registered_comes_with_its_parent_and_services(scene: Scene) -> None:
    top = await scene.add()
    async with piped(scene.address, "watch", "--type", "VLLM", "-o", "csv", "--no-headers") as process:
        told = asyncio.create_task(line(process))
        while not told.done():  # it has begun to listen at some moment
            await scene.add(top, of=VLLM, services=[SERVICE])
            await asyncio.wait({told}, timeout=0.2)
        (row,) = csv.reader(io.StringIO(told.result()))
        assert row[-1] == f"parent {top} {words.service(SERVICE)}"


async def test_it_goes_on_by_itself_when_the_manager_is_another(settings: Settings, database: Database) -> None:
    async with AsyncExitStack() as stack:
        async with serving(settings) as server, scene_of(server, database) as scene:
            address = scene.address
            process = await stack.enter_async_context(piped(address, "get", "--watch", "--type", "VLLM", "-o", "name"))
            one = await scene.add(of=VLLM)
            assert await line(process) == one
        assert process.stderr
        async with asyncio.timeout(40):
            told = [(await process.stderr.readline()).decode() for _ in range(2)]
        again = settings.model_copy(update={"port": int(address.rpartition(":")[2]), "http_port": 0})
        async with serving(again) as server, scene_of(server, database) as scene:
            two = await scene.add(of=VLLM)
            assert await line(process) == two
            async with asyncio.timeout(40):
                told.append((await process.stderr.readline()).decode())
    assert told[0].startswith("imctl: the stream broke: ")
    assert told[2] == "imctl: the stream goes on\n"


async def test_what_has_no_end_is_not_sorted(scene: Scene) -> None:
    told = await scene.runs([["watch", "--sort-by", "id"], ["get", "--watch", "--sort-by", "id"]])
    assert [(each.code, "no order" in each.err) for each in told] == [(2, True)] * 2


async def test_nobody_reading_on_ends_it_quietly(scene: Scene) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{' '.join(IMCTL)} get --watch -o name | head -n 1; exit ${{PIPESTATUS[0]}}",
        executable="/bin/bash",
        env=environment(IM_ADDRESS=scene.address),
        stdout=PIPE,
        stderr=PIPE,
    )
    told = asyncio.create_task(process.communicate())
    while not told.done():
        await scene.add()
        await asyncio.wait({told}, timeout=0.2)
    out, err = told.result()
    assert (out.decode(), err.decode(), process.returncode) == (f"{scene.manager}\n", "", 141)
