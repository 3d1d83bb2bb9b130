"""The life of a command that is an instance: registered before it starts, stopped when it must, gone when it ends."""

import asyncio
import os
import signal
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from manager.cli import command, identity, processes
from manager.cli.connection import Target
from manager.cli.exits import EXIT_OF_ENDING
from manager.cli.messages import death, not_registered, not_started, report
from manager.cli.say import say
from manager.client import Client, End, Ending, Instance, ManagerError, Memory, Owner, Policy, RefusedError
from manager.pb.instance_manager_pb2 import InstanceDescription, InstanceRequest, InstanceType

STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXPLAIN_DEADLINE = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and as what. `grace`: seconds between TERM and KILL."""

    command: tuple[str, ...]
    description: InstanceDescription
    target: Target
    policy: Policy
    grace: float
    quiet: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: our exit code, the note to leave with the kill, and the manager's word where that ended it."""

    code: int
    note: str
    end: End | None = None


class Interruption:
    """The signals that ask this process to stop: `first` has the first one, `hurry` is set by the next."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[signal.Signals] = loop.create_future()
        self.hurry = asyncio.Event()
        for sign in STOPPERS:
            loop.add_signal_handler(sign, self._receive, sign)

    def _receive(self, sign: signal.Signals) -> None:
        if self.first.done():
            self.hurry.set()
        else:
            self.first.set_result(sign)

    def outcome(self) -> Outcome:
        """The end that the first signal asks for."""
        sign = self.first.result()
        return Outcome(128 + sign, f"imctl run was stopped by {sign.name}")


async def supervise(plan: Plan) -> int:
    """Runs the command as an instance until one of them ends; the exit code that says how."""
    try:
        command.require(plan.command[0])
    except OSError as error:
        return not_started(plan.command[0], error)
    processes.adopt_orphans()
    interruption = Interruption()
    async with Client(*plan.target.addresses, access=plan.target.access) as client:
        try:
            if plan.description.parent_id:
                plan.description.parent_id = await identity.whole_one(client, plan.description.parent_id)
            instance = Instance(client, plan.description, plan.policy, Owner(told=report, memory=memory))
            await first_of(instance.start(), interruption.first)
        except (ManagerError, RefusedError) as error:
            return not_registered(error, str(plan.target))
        if interruption.first.done():
            await instance.close(interruption.outcome().note)
            return interruption.outcome().code
        return await run_registered(plan, instance, interruption)


async def first_of(work: Awaitable[Any], interrupt: "asyncio.Future[Any]") -> None:
    """Waits for the work, and cancels it when the interrupt comes first. Raises what the work raises."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, interrupt}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def run_registered(plan: Plan, instance: Instance, interruption: Interruption) -> int:
    """Runs the command of a registered instance; in the end neither processes nor the instance are left."""
    try:
        running = command.start(plan.command, environment(plan, instance))
    except OSError as error:
        await instance.close(f"the command could not be started: {error.strerror}")
        return not_started(plan.command[0], error)
    note = "imctl run failed"
    try:
        announce(plan, instance, running)
        outcome = await over(running, instance, interruption)
        note = outcome.note
    finally:
        await stop(plan, interruption)
        await instance.close(note)
    if outcome.end and outcome.end.ending is Ending.DEAD:
        await explain(instance)
    return outcome.code


async def over(running: command.Command, instance: Instance, interruption: Interruption) -> Outcome:
    """Waits until the command ends, a signal comes or the instance must terminate; that order where they meet."""
    told = asyncio.ensure_future(instance.wait())
    waited: list[asyncio.Future[Any]] = [running.ended, interruption.first, told]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if not told.done():
        told.cancel()
    if running.ended.done():
        code = running.ended.result()
        return Outcome(code, f"the command ended with exit code {code}")
    return interruption.outcome() if interruption.first.done() else terminated(instance, told.result())


def terminated(instance: Instance, end: End) -> Outcome:
    """The end that the manager asks for, or its silence."""
    code = EXIT_OF_ENDING[end.ending]
    say(f"{instance.id} must terminate: {end.detail}; its processes are stopped, the exit code is {code.value}")
    return Outcome(code, f"terminated: {end.detail}", end)


async def explain(instance: Instance) -> None:
    """Says how the instance died, if the manager tells within a second."""
    request = InstanceRequest(instance_id=instance.id)
    with suppress(ManagerError):
        say(death(await instance.client.fleet.DescribeInstance(request, timeout=EXPLAIN_DEADLINE)))


async def stop(plan: Plan, interruption: Interruption) -> None:
    """Ends all processes of the command."""
    left = await processes.stop(psutil.Process(), plan.grace, interruption.hurry)
    if left:
        say(f"could not be ended: processes {', '.join(str(each.pid) for each in left)}")


def announce(plan: Plan, instance: Instance, running: command.Command) -> None:
    """One line that names the instance."""
    if not plan.quiet:
        kind = InstanceType.Name(plan.description.instance_type)
        say(f"{instance.id} runs as {kind}, process {running.process.pid}")


def environment(plan: Plan, instance: Instance) -> dict[str, str]:
    """Ours, and what makes an `imctl run` inside the command a child of this instance, at the same manager.

    In the place of our token it gets the instance's own, where there is one: it may act for itself, and no more.
    """
    told = {"IM_INSTANCE_ID": instance.id, "IM_ADDRESS": str(plan.target)}
    if instance.token:
        told |= {"IM_TOKEN": instance.token, "IM_TOKEN_FILE": ""}
    return os.environ | told | ({"IM_CONTEXT": plan.target.context} if plan.target.context else {})


def memory() -> Memory:
    """What the command and all that descends from it use, and what the host has."""
    tree = processes.descendants(psutil.Process())
    return Memory(processes.used_memory(tree), psutil.virtual_memory().total)
