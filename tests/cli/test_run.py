"""`imctl run` as a process, against a stand-in for what only goes wrong, and against a real manager."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import psutil
import pytest

from manager.cli.codes import Exit
from manager.client import Client, NotFoundError
from manager.pb.instance_manager_pb2 import (
    CHROME_DEBUG_PORT,
    REASON_DEAD,
    REASON_UNKNOWN_INSTANCE,
    InstanceRequest,
    KillRequest,
    Service,
)
from manager.server import Serving
from tests.cli.imctl import gone, run, running
from tests.client.standin import UNAVAILABLE, Reply, Stall, StandIn, false, precondition, standing_in

PARENT = "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f"
# a child, and a grandchild that left its session and its parent; all their ids in one line
LEAVER = "import subprocess as s; print(s.Popen(['sleep', '60'], start_new_session=True, stdout=s.DEVNULL).pid)"
TREE = f"""
import os, subprocess, sys, time
daemon = subprocess.run([sys.executable, "-c", {LEAVER!r}], stdout=subprocess.PIPE, text=True).stdout.strip()
child = subprocess.Popen(["sleep", "60"])
print(os.getpid(), child.pid, daemon, flush=True)
"""
FOREVER = ("--", sys.executable, "-c", TREE + "time.sleep(60)")
DEAF = (
    "--",
    sys.executable,
    "-c",
    "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TREE + "time.sleep(60)",
)


def note(standin: StandIn) -> str:
    """The note of the one kill."""
    (kill,) = standin.requests("TryKillInstance")
    return str(kill.note)


async def test_it_registers_all_it_was_told_in_one_call_before_the_command_starts(standin: StandIn) -> None:
    options = ["--service", "CHROME_DEBUG_PORT=9222", "--parent", PARENT, "--label", "a=b", "--hostname", "here"]
    ended = await run(standin.address, *options, "--timeout", "7", "--", "sh", "-c", "echo $IM_INSTANCE_ID $IM_ADDRESS")
    (registered,) = standin.requests("TryAddInstance")
    assert ended.out.split() == [registered.instance_id, standin.address]
    assert (registered.parent_id, registered.hostname, dict(registered.labels)) == (PARENT, "here", {"a": "b"})
    assert list(registered.services) == [Service(service_type=CHROME_DEBUG_PORT, host="127.0.0.1", port=9222)]
    assert registered.timeout_ms == 7000


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -KILL $$", 137)])
async def test_a_command_that_ends_by_itself_lends_its_exit_code_and_kills_the_instance(
    standin: StandIn, script: str, code: int
) -> None:
    ended = await run(standin.address, "--", "sh", "-c", script)
    assert ended.code == code
    assert note(standin) == f"the command ended with exit code {code}"


async def test_stdout_belongs_to_the_command_and_a_line_on_stderr_names_the_instance(standin: StandIn) -> None:
    ended = await run(standin.address, "--", "sh", "-c", "cat; echo out")
    (registered,) = standin.requests("TryAddInstance")
    assert ended.out == "out\n"
    assert ended.err.startswith(f"imctl: {registered.instance_id} runs as BROWSER_BACKEND")
    assert ended.err.count("\n") == 1


async def test_a_quiet_one_says_nothing_while_all_is_well(standin: StandIn) -> None:
    assert (await run(standin.address, "--quiet", "--", "true")).err == ""


async def test_what_a_command_leaves_running_ends_with_it(standin: StandIn) -> None:
    async with running(standin.address, "--", sys.executable, "-c", TREE) as started:
        pids = await started.numbers()
        assert (await started.ended()).code == 0
    assert await gone(pids)


@pytest.mark.parametrize(("answer", "code"), [(false(REASON_DEAD), 10), (false(REASON_UNKNOWN_INSTANCE), 11)])
async def test_told_to_terminate_it_stops_the_whole_tree_and_says_why(
    standin: StandIn, answer: Reply, code: int
) -> None:
    async with running(standin.address, "--timeout", "1", *FOREVER) as started:
        pids = await started.numbers()
        standin.always("TryHealthCheck", answer)
        ended = await started.ended()
    assert ended.code == code
    assert "must terminate" in ended.err
    assert len(pids) == 3
    assert await gone(pids)


async def test_what_takes_no_notice_of_term_is_killed_after_the_grace(standin: StandIn) -> None:
    async with running(standin.address, "--timeout", "1", "--grace", "0.3", *DEAF) as started:
        pids = await started.numbers()
        standin.always("TryHealthCheck", false(REASON_DEAD))
        assert (await started.ended()).code == Exit.DEAD
    assert await gone(pids)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_leaves_neither_processes_nor_a_live_instance(standin: StandIn, sign: signal.Signals) -> None:
    async with running(standin.address, *FOREVER) as started:
        pids = await started.numbers()
        started.signal(sign)
        assert (await started.ended()).code == 128 + sign
    assert await gone(pids)
    assert note(standin) == f"imctl run was stopped by {sign.name}"


async def test_a_second_signal_does_not_wait_for_the_grace(standin: StandIn) -> None:
    async with running(standin.address, "--grace", "60", *DEAF) as started:
        pids = await started.numbers()
        started.signal(signal.SIGINT)
        await asyncio.sleep(1)  # two that it has not looked at would be one
        started.signal(signal.SIGINT)
        assert (await started.ended()).code == Exit.INTERRUPTED
    assert await gone(pids)


async def test_a_signal_while_it_registers_starts_nothing_and_takes_the_registration_back(
    standin: StandIn, tmp_path: Path
) -> None:
    standin.always("TryAddInstance", Stall())
    async with running(standin.address, "--", "touch", str(tmp_path / "started")) as started:
        await standin.hears("TryAddInstance")
        started.signal(signal.SIGINT)
        assert (await started.ended()).code == Exit.INTERRUPTED
    assert len(standin.requests("TryKillInstance")) == 1
    assert not (tmp_path / "started").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_the_command_dies_when_imctl_is_killed_by_force(standin: StandIn) -> None:
    async with running(standin.address, *FOREVER) as started:
        pids = await started.numbers()
        started.signal(signal.SIGKILL)
        try:
            assert await gone(pids[:1])
        finally:
            for pid in pids[1:]:  # what it had started lives on, as the help says, unless it has ended by itself
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()


@pytest.mark.parametrize(
    ("reply", "code", "told"),
    [
        (precondition("PROTO_VERSION"), Exit.PROTO_VERSION, "pip install"),
        (false(REASON_DEAD), Exit.CONFLICT, "an id never lives twice"),
    ],
)
async def test_without_a_registration_no_command_starts(
    standin: StandIn, tmp_path: Path, reply: Reply, code: Exit, told: str
) -> None:
    standin.always("TryAddInstance", reply)
    ended = await run(standin.address, "--", "touch", str(tmp_path / "started"))
    assert ended.code == code
    assert told in ended.err
    assert ended.err.count("\n") == 2
    assert not (tmp_path / "started").exists()


async def test_no_manager_at_the_start_is_told_in_two_lines() -> None:
    ended = await run("127.0.0.1:1", "--", "true")
    assert ended.code == Exit.UNREACHABLE
    assert ended.err.splitlines()[0].startswith("imctl: the manager at 127.0.0.1:1 cannot be reached")
    assert "imctl dev" in ended.err.splitlines()[1]


async def test_a_command_that_does_not_exist_is_not_registered(standin: StandIn) -> None:
    ended = await run(standin.address, "--", "no-such-command")
    assert ended.code == Exit.NO_COMMAND
    assert "'no-such-command' cannot be started" in ended.err
    assert standin.asked == []


async def test_a_command_that_the_system_will_not_execute_leaves_no_instance(standin: StandIn, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    ended = await run(standin.address, "--", str(broken))
    assert ended.code == Exit.CANNOT_START
    assert note(standin).startswith("the command could not be started")


async def test_while_the_manager_is_away_the_command_goes_on_with_a_warning(tmp_path: Path) -> None:
    until = tmp_path / "until"
    script = f"echo on; while [ ! -e {until} ]; do sleep 0.1; done; exit 3"
    async with AsyncExitStack() as stack:
        async with standing_in() as standin:
            started = await stack.enter_async_context(
                running(standin.address, "--timeout", "1", "--", "sh", "-c", script)
            )
            await started.line()
        assert started.process.stderr
        async with asyncio.timeout(60):
            while b"cannot be reached, the command goes on" not in (said := await started.process.stderr.readline()):
                assert said
        await asyncio.sleep(1.2)  # longer than its timeout
        back = await stack.enter_async_context(standing_in(int(standin.address.rpartition(":")[2])))
        await back.hears("TryHealthCheck", 2)
        until.touch()
        ended = await started.ended()
    assert ended.code == 3
    assert "the manager answers again" in ended.err


async def test_when_the_manager_stays_away_too_long_the_command_is_stopped(standin: StandIn) -> None:
    standin.always("TryHealthCheck", UNAVAILABLE)
    async with running(standin.address, "--timeout", "1", "--strict", *FOREVER) as started:
        pids = await started.numbers()
        assert (await started.ended()).code == Exit.LOST
    assert await gone(pids)


async def test_its_end_does_not_wait_for_a_manager_that_is_silent(standin: StandIn) -> None:
    standin.always("TryKillInstance", Stall())
    async with running(standin.address, "--", "echo", "over") as started:
        assert await started.line() == "over"
        async with asyncio.timeout(8):  # 3 s for the kill, where any other call would have 10
            assert (await started.ended()).code == 0


async def test_it_posts_the_memory_of_its_tree(standin: StandIn) -> None:
    async with running(standin.address, "--timeout", "1", *FOREVER) as started:
        await started.numbers()
        posted = (await standin.hears("PostSystemMetrics", 3))[-1]
    assert 1_000_000 < posted.used_memory_bytes < 500_000_000
    assert posted.total_memory_bytes == psutil.virtual_memory().total


async def test_a_run_inside_a_run_is_its_child_unless_it_says_otherwise(standin: StandIn) -> None:
    inner = f"{sys.executable} -m manager run --type CHROME_BROWSER"
    script = f"{inner} -- true; {inner} --no-parent -- true; {inner} --parent {PARENT} -- true"
    assert (await run(standin.address, "--", "sh", "-c", script)).code == 0
    outer, *nested = standin.requests("TryAddInstance")
    assert [each.parent_id for each in nested] == [outer.instance_id, "", PARENT]


async def test_with_a_real_manager_killing_a_backend_ends_the_browser_inside_it(server: Serving) -> None:
    inner = [sys.executable, "-m", "manager", "run", "--type", "CHROME_BROWSER", *FOREVER]
    address = server.addresses[0]
    async with running(address, "--timeout", "1", "--", *inner) as backend, Client(address) as client:
        pids = await backend.numbers()
        child = psutil.Process(pids[0]).environ()["IM_INSTANCE_ID"]
        parent = (await client.get.GetInstance(InstanceRequest(instance_id=child))).parent_id
        await client.try_.TryKillInstance(KillRequest(instance_id=parent, note="enough"))
        ended = await backend.ended()
        assert await gone(pids)
        with pytest.raises(NotFoundError):
            await client.get.GetInstance(InstanceRequest(instance_id=child))
    assert ended.code == Exit.DEAD
    assert "it was killed by" in ended.err
    assert ": enough\n" in ended.err


async def test_with_a_real_manager_an_unknown_parent_is_refused_with_advice(server: Serving) -> None:
    ended = await run(server.addresses[0], "--parent", PARENT, "--", "true")
    assert ended.code == Exit.CONFLICT
    assert "UNKNOWN_PARENT" in ended.err
    assert "--no-parent" in ended.err


async def test_with_a_real_manager_a_wrong_id_is_a_wrong_usage(server: Serving) -> None:
    ended = await run(server.addresses[0], "--id", "x", "--", "true")
    assert ended.code == Exit.USAGE
    assert "instance_id" in ended.err
