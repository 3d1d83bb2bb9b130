"""Three managers, eight writers, twenty subscribers, and everything that breaks: not one promise is broken.

Short in the suite; as long as IM_STREAM_SECONDS says by `make stream`. A failure names the seed (IM_STREAM_SEED).
"""

import asyncio
import os
import random
from datetime import timedelta

import pytest

from manager.settings import Settings
from tests.conftest import Database
from tests.stream.conftest import managers_of
from tests.stream.crowd import Crowd, Faults, judged
from tests.stream.plain import facts

SECONDS = float(os.environ.get("IM_STREAM_SECONDS", "6"))
SEED = int(os.environ.get("IM_STREAM_SEED", random.randrange(10**6)))
LONG = SECONDS > 30
S = timedelta(seconds=1)

# what is trimmed from the history is kept here, for the validators alone
KEEP = """
create table kept_event (like event);
create function keep_event() returns trigger language plpgsql security definer set search_path = public as $$
begin
    insert into kept_event select (new).*;
    return null;
end $$;
create trigger keep after insert on event for each row execute function keep_event();
"""


@pytest.mark.timeout(SECONDS * 4 + 120)
async def test_not_one_promise_is_broken_whatever_breaks(database: Database, settings: Settings) -> None:
    await database.run(f"do $do$ begin {KEEP} end $do$")
    hurried = settings.model_copy(
        update={"reaper_interval": S / 2, "timeout": 4 * S, "vllm_timeout": 5 * S, "grace": S, "feed_events": 500}
    )
    async with managers_of(database, hurried, 2) as managers:
        addresses = list(managers.addresses)
        crowd = Crowd(database, addresses, SEED, pace=0.02)
        faults = Faults(database, addresses, {"DATABASE_URL": database.url, "IM_TIMEOUT": "4"}, crowd.tally)
        await faults.start()
        try:
            await crowded(crowd, faults)
        finally:
            await faults.end()
    history = await facts(database, "kept_event")
    events, violations = judged(crowd.reads, history)
    print(f"\n{events} events delivered of {len(history)} written, {crowd.tally}; violations: {violations or 'none'}")
    assert not violations, f"IM_STREAM_SEED={SEED}"
    assert {each.revision for each in history} == set(range(1, history[-1].revision + 1))
    assert events > 1_000
    assert crowd.tally.resumed > 20


async def crowded(crowd: Crowd, faults: Faults) -> None:
    """Everybody at once, for so long."""
    async with asyncio.TaskGroup() as everybody:
        for number in range(8):
            everybody.create_task(crowd.write(number))
        for _ in range(20):
            everybody.create_task(crowd.subscribe())
        everybody.create_task(faults.go_on(crowd.stopped, every=1.5))
        await asyncio.sleep(SECONDS)
        crowd.stopped.set()
