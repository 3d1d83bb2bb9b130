"""The health checks of all instances of a client on one stream: those who come together go together."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from manager.client.errors import ManagerError, broken_off
from manager.pb.fleet_pb2 import HealthCheckBatch, HealthCheckOutcome
from manager.pb.fleet_pb2_grpc import FleetServiceStub

LINGER = 0.02  # seconds in which others may join a message: nothing to a lease
MOST = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One check under way."""

    instance_id: str
    outcome: "asyncio.Future[HealthCheckOutcome]"


class CheckStream:
    """One stream, from its making to its end; then every check on it fails with the error that ended it.

    Each instance has one check on it at most. Needs a running loop.
    """

    def __init__(self, fleet: FleetServiceStub) -> None:
        self._fleet = fleet
        self._waiting: list[Asked] = []
        self._sent: deque[list[Asked]] = deque()
        self._news = asyncio.Event()
        self._finishing = False
        self._task = asyncio.create_task(self._run())

    @property
    def ended(self) -> bool:
        """Whether another one is to be asked."""
        return self._task.done()

    async def ask(self, instance_id: str) -> HealthCheckOutcome:
        """What the manager says of this instance. Raises ManagerError when the stream ends before it does."""
        asked = Asked(instance_id, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._news.set()
        return await asked.outcome

    async def finish(self, grace: float) -> None:
        """Ends the stream, for good: at once where nothing is asked on it, else when all is answered or after `grace`
        seconds, with CANCELLED for what then is not."""
        self._finishing = True
        self._news.set()
        await asyncio.wait((self._task,), timeout=grace)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        error: ManagerError | None = broken_off("the manager ended the stream of health checks")
        try:
            async for answer in self._fleet.HealthChecks(self._batches()):
                for asked, outcome in zip(self._sent.popleft(), answer.outcomes, strict=True):
                    if not asked.outcome.done():  # who no longer waits has cancelled it
                        asked.outcome.set_result(outcome)
        except ManagerError as ended:
            error = ended
        except asyncio.CancelledError:
            error = None
            raise
        finally:
            self._end(error)

    def _end(self, error: ManagerError | None) -> None:
        left = [asked for batch in (*self._sent, self._waiting) for asked in batch if not asked.outcome.done()]
        self._sent.clear()
        self._waiting.clear()
        for asked in left:
            if error is None:
                asked.outcome.cancel()
            else:
                asked.outcome.set_exception(error)

    async def _batches(self) -> AsyncIterator[HealthCheckBatch]:
        while True:
            if not self._waiting:
                self._news.clear()
                if self._finishing:
                    return
                await self._news.wait()
            if not self._finishing:
                await asyncio.sleep(LINGER)
            batch = [each for each in self._waiting[:MOST] if not each.outcome.done()]
            del self._waiting[:MOST]
            if batch:
                self._sent.append(batch)
                yield HealthCheckBatch(instance_ids=[each.instance_id for each in batch])
