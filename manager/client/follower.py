"""The one subscription behind a fleet: kept going over breaks, on any manager, for as long as the fleet is open."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable

from manager.client.change import Change
from manager.client.connection import Client
from manager.client.errors import (
    DeniedError,
    EpochChangedError,
    HistoryTooOldError,
    InvalidRequestError,
    ManagerError,
    ProtoVersionError,
)
from manager.client.fleet_state import FleetState
from manager.client.pace import now
from manager.pb.fleet_pb2 import InstanceUpdates
from manager.pb.instance_manager_pb2 import BOOKMARK, SYNCED, SubscribeRequest

SILENCE = 15.0
RETRY_BASE = 0.25
AT_ONCE = 3  # tries in a row: one fault breaks the connections to several managers, the stream on each in turn
RETRY_CAP = 5.0
# the token is no good, whatever the reason: go on from an initial state
PLACE_LOST = (HistoryTooOldError, EpochChangedError, InvalidRequestError)
# no repeat mends these
HOPELESS = (InvalidRequestError, ProtoVersionError, DeniedError)
log = logging.getLogger(__name__)


def resume_delay(failures: int, draw: float, asked: float | None = None) -> float:
    """Seconds to the next try after so many in a row (from 1) that brought nothing: full jitter (`draw`, 0 to 1).

    Never sooner than the manager `asked` for.
    """
    bound = RETRY_BASE * 2.0 ** min(max(failures - AT_ONCE, 0), 10)
    return max(min(bound, RETRY_CAP) * draw, asked or 0.0)


class BrokenError(Exception):
    """The stream ended without a word of the manager's."""


class Follower:
    """Feeds a `FleetState`. `current_at`: when it last was all that the manager had; `trouble`: why it is not fed now.

    A stream without any message for `silence` seconds is taken for dead, since bookmarks come every 5 s.
    """

    def __init__(
        self, client: Client, wanted: SubscribeRequest, hear: Callable[[list[Change]], None], silence: float = SILENCE
    ) -> None:
        self.state = FleetState()
        self.current_at: float | None = None
        self.trouble: Exception | None = None
        self._client = client
        self._wanted = wanted
        self._hear = hear
        self._silence = silence
        self._failures = 0

    async def run(self) -> None:
        """For ever; raises a ManagerError that no repeat mends, before the first initial state was complete."""
        while True:
            asked: float | None = None
            try:
                await self._stream()
            except ManagerError as error:
                asked = error.retry_after
                self._judge(error)
            except TimeoutError:
                self._note(BrokenError(f"no manager said anything for {self._silence:g} s"))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._note(BrokenError("the stream was cancelled"))  # by the other side, not this task
            self._failures += 1
            await asyncio.sleep(resume_delay(self._failures, random.random(), asked))  # noqa: S311 - no secret

    async def _stream(self) -> None:
        """One subscription, to its end."""
        resumed = bool(self.state.token)
        if not resumed:
            self.state.restart()
        # the first try says at once when no manager is there; the others go on as soon as one is
        call = self._client.fleet.WatchInstances(self._request(), wait_for_ready=self._failures > 0)
        messages = aiter(call)
        first = True
        try:
            while (message := await self._next(messages)) is not None:
                for update in message.updates:
                    # one at the very beginning speaks of the place resumed from, not of all that came since
                    if update.event_type == SYNCED or (update.event_type == BOOKMARK and not (resumed and first)):
                        self.current_at = now()
                    first, self._failures, self.trouble = False, 0, None
                    self._hear(self.state.apply(update))
        finally:
            call.cancel()
        self._note(BrokenError("the stream ended"))

    async def _next(self, messages: AsyncIterator[InstanceUpdates]) -> InstanceUpdates | None:
        async with asyncio.timeout(self._silence):
            return await anext(messages, None)

    def _request(self) -> SubscribeRequest:
        request = SubscribeRequest(send_bookmarks=True)
        request.MergeFrom(self._wanted)
        if self.state.token:
            request.resume_token = self.state.token
        else:
            request.send_initial_state = True
        return request

    def _judge(self, error: ManagerError) -> None:
        if isinstance(error, HOPELESS) and not self.state.synced:
            raise error
        self._note(error)
        if isinstance(error, PLACE_LOST):
            self.state.restart()

    def _note(self, trouble: Exception) -> None:
        log.log(
            logging.DEBUG if self.trouble else logging.INFO, "the fleet's stream broke, and is resumed: %s", trouble
        )
        self.trouble = trouble
