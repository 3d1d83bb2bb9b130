"""The reaper: a steady pulse of ticks. Each manager beats; whoever comes first in a pace does the work."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from manager.domain.actor import Actor
from manager.domain.calls import Beat, Tick, Ticked
from manager.domain.refusals import Refusal
from manager.turns import Turns

log = logging.getLogger(__name__)


async def reap(
    turns: Turns,
    actor: Actor,
    interval: timedelta,
    patience: timedelta,
    served: Callable[[Ticked | None], None],
) -> None:
    """Ticks for ever. `served` hears what each tick found, or that the database has not taken it within `patience`."""
    last: Beat | None = None
    while True:
        ticked = await _tick(turns, Tick(actor, starting=last is None, last=last), patience, served)
        last = last if ticked is None else ticked.beat
        served(ticked)
        await asyncio.sleep(interval.total_seconds())


async def _tick(
    turns: Turns, tick: Tick, patience: timedelta, served: Callable[[Ticked | None], None]
) -> Ticked | None:
    late = asyncio.get_running_loop().call_later(patience.total_seconds(), served, None)
    try:
        return await turns.tick(tick)
    except Refusal as refusal:
        log.warning("a tick was not taken: %s", refusal)
    except Exception:
        log.exception("a tick failed")
    finally:
        late.cancel()
    return None
