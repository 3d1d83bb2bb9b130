"""The reaper: a steady pulse of ticks. Each manager beats; whoever comes first in a pace does the work."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from manager.domain.calls import Tick
from manager.domain.refusals import Refusal
from manager.turns import Turns

log = logging.getLogger(__name__)


async def reap(turns: Turns, actor: str, interval: timedelta, served: Callable[[bool], None]) -> None:
    """Ticks for ever. `served` hears after each tick whether the database took it: the pulse of this process."""
    starting = True
    while True:
        try:
            await turns.submit(Tick(actor, starting))
            starting = False
            served(True)
        except Refusal as refusal:
            log.warning("a tick was not taken: %s", refusal)
            served(False)
        except Exception:
            log.exception("a tick failed")
            served(False)
        await asyncio.sleep(interval.total_seconds())
