"""The reaper: a steady pulse of ticks. Each manager beats; whoever comes first in a pace does the work."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from manager.domain.calls import Beat, Tick, Ticked
from manager.domain.refusals import Refusal
from manager.turns import Turns

log = logging.getLogger(__name__)


async def reap(turns: Turns, actor: str, interval: timedelta, served: Callable[[Ticked | None], None]) -> None:
    """Ticks for ever. `served` hears what each tick found, or that the database did not take it."""
    last: Beat | None = None
    while True:
        try:
            ticked = await turns.tick(Tick(actor, starting=last is None, last=last))
            last = ticked.beat
            served(ticked)
        except Refusal as refusal:
            log.warning("a tick was not taken: %s", refusal)
            served(None)
        except Exception:
            log.exception("a tick failed")
            served(None)
        await asyncio.sleep(interval.total_seconds())
