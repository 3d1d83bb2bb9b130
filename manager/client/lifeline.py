"""The connection for health checks: to one manager at a time, and to the next one as soon as it fails."""

import asyncio
import random
from collections.abc import Sequence

from grpc import aio

from manager.client.channel import FRESH, connect
from manager.client.errors import DeadlineError, UnavailableError
from manager.pb.instance_manager_pb2_grpc import TryServiceStub


class Lifeline:
    """All instances of one client ask here. What one of them finds out is good for all.

    Calls that take the managers in turns meet a hanging one again and again, and an instance that does so thrice is
    dead. So checks keep to one manager while it answers. A check that was not answered in time also says that its
    connection may be dead, though nobody told us: then it is given up, long before a keepalive would find out.
    """

    def __init__(self, targets: Sequence[str], deadline: float) -> None:
        self._targets = targets
        self._deadline = deadline
        self._place = random.randrange(len(targets))  # noqa: S311 - no secret
        self._lines: dict[int, tuple[aio.Channel, TryServiceStub]] = {}
        self._suspect: set[int] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def calls(self) -> TryServiceStub:
        """The present manager's. Needs a running loop."""
        if self._place not in self._lines:
            # the first connection is the one that other calls use already
            options = FRESH if self._place in self._suspect else ()
            channel = connect(self._targets[self._place], self._deadline, options)
            self._lines[self._place] = (channel, TryServiceStub(channel))
        return self._lines[self._place][1]

    def failed(self, calls: TryServiceStub, error: UnavailableError) -> None:
        """The next check asks another manager, or on another connection, unless it would have done so already."""
        if self._place not in self._lines or self._lines[self._place][1] is not calls:
            return
        if isinstance(error, DeadlineError):
            channel, _ = self._lines.pop(self._place)
            self._suspect.add(self._place)
            # what others ask on it may still be answered
            task = asyncio.create_task(channel.close(self._deadline))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._place = (self._place + 1) % len(self._targets)

    async def close(self) -> None:
        """Ends all connections; calls under way end in CANCELLED."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for channel, _ in self._lines.values():
            await channel.close()
