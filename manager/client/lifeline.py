"""The connection for health checks: to one manager at a time, and to the next one as soon as it fails."""

import asyncio
import random
from collections.abc import Sequence

from grpc import aio

from manager.client.access import OPEN, Access
from manager.client.channel import FRESH, connect
from manager.client.check_stream import CheckStream
from manager.client.errors import UnavailableError, of_item, unanswered
from manager.client.pace import bridge_delay, now
from manager.pb.fleet_pb2 import HealthCheckOutcome
from manager.pb.fleet_pb2_grpc import FleetServiceStub

BRIDGED = 1.0


class Line:
    """A connection to one manager, and the stream on it: begun when first needed, and anew after it ended."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.fleet = FleetServiceStub(channel)
        self.stream: CheckStream | None = None

    async def ask(self, instance_id: str) -> HealthCheckOutcome:
        """What the manager says of this instance. Raises ManagerError when the stream ends before it does."""
        if self.stream is None or self.stream.ended:
            self.stream = CheckStream(self.fleet)
        return await self.stream.ask(instance_id)

    async def end(self, grace: float) -> None:
        """Closes it; what others ask on it may be answered until then."""
        if self.stream is not None:
            await self.stream.finish(grace)
        await self.channel.close()


class Lifeline:
    """All instances of one client ask here, on one stream. What one of them finds out is good for all.

    Calls that take the managers in turns meet a hanging one again and again, and an instance that does so thrice is
    dead. So checks keep to one manager while it answers. A check that was not answered in time also says that its
    connection may be dead, though nobody told us: then it is given up, long before a keepalive would find out. What
    fails otherwise is tried again with the next manager, and told only when that has gone on for a second.
    """

    def __init__(self, targets: Sequence[str], deadline: float, access: Access = OPEN) -> None:
        self._targets = targets
        self._deadline = deadline
        self._access = access
        self._place = random.randrange(len(targets))  # noqa: S311 - no secret
        self._lines: dict[int, Line] = {}
        self._suspect: set[int] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._trouble_since: float | None = None

    async def check(self, instance_id: str, deadline: float) -> HealthCheckOutcome:
        """The outcome of one health check, which has an answer. Raises ManagerError."""
        line, tries = self._line(), 0
        try:
            async with asyncio.timeout(deadline):
                while True:
                    line, tries = self._line(), tries + 1
                    try:
                        return await self._ask(line, instance_id)
                    except UnavailableError:
                        if self._failed(line) > BRIDGED:
                            raise
                    await asyncio.sleep(bridge_delay(tries, random.random()))  # noqa: S311 - no secret
        except TimeoutError:
            self._hung(line)
        raise unanswered(f"no manager answered a health check within {deadline:g} s")

    async def close(self) -> None:
        """Ends all connections; checks under way end in CANCELLED."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(line.end(0) for line in self._lines.values()))

    def _line(self) -> Line:
        """To the present manager. Needs a running loop."""
        if self._place not in self._lines:
            # the first connection is the one that other calls use already
            options = FRESH if self._place in self._suspect else ()
            channel = connect(self._targets[self._place], self._deadline, self._access, options)
            self._lines[self._place] = Line(channel)
        return self._lines[self._place]

    async def _ask(self, line: Line, instance_id: str) -> HealthCheckOutcome:
        outcome = await line.ask(instance_id)
        error = of_item(outcome.failure) if outcome.HasField("failure") else None
        if not isinstance(error, UnavailableError):
            self._trouble_since = None
        if error is not None:
            raise error
        return outcome

    def _failed(self, line: Line) -> float:
        """The next check asks another manager, unless it would have done so already; for how long none has answered."""
        if self._trouble_since is None:
            self._trouble_since = now()
        if self._lines.get(self._place) is line:
            self._place = (self._place + 1) % len(self._targets)
        return now() - self._trouble_since

    def _hung(self, line: Line) -> None:
        """The next check asks on another connection too."""
        if self._lines.get(self._place) is line:
            del self._lines[self._place]
            self._suspect.add(self._place)
            task = asyncio.create_task(line.end(self._deadline))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._place = (self._place + 1) % len(self._targets)
