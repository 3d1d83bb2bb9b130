"""The worst day of a control plane: the database is away for twice the timeout, and then everybody returns at once.

Small in the suite; IM_HERD=10000 by `make faults`, with the default leases.
"""

import asyncio
import os
from time import monotonic

import pytest

from tests.conftest import Database
from tests.faults.herd import Herd
from tests.faults.managers import Manager, resident
from tests.faults.postgres import migrated, started
from tests.faults.server import Server

MANY = int(os.environ.get("IM_HERD", "300"))
FULL = MANY >= 5_000
TIMEOUT = 30.0 if FULL else 3.0
INTERVAL = TIMEOUT / 3
DEFAULTS = {
    "IM_TIMEOUT": "30",
    "IM_GRACE": "10",
    "IM_WARMPOOL_TIMEOUT": "15",
    "IM_WARMPOOL_GRACE": "5",
    "IM_VLLM_TIMEOUT": "60",
    "IM_VLLM_GRACE": "20",
    "IM_REAPER_INTERVAL": "2",
    "IM_OUTAGE_AFTER": "10",
    "IM_AWAY_AFTER": "5",
    "IM_DRIFT_AFTER": "2",
    "IM_OUTAGE_GRACE": "60",
}


async def expired(database: Database) -> int:
    """How many were declared dead."""
    return int(await database.value("select count(*) from event where type = 2 and cause <> 1"))


async def returned(herd: Herd, share: float, since: float) -> float:
    """How long it takes, from `since` on, until so many have had a good answer to a check sent after it."""
    async with asyncio.timeout(10 * INTERVAL):
        while herd.renewed_since(since) < share * len(herd.members):
            await asyncio.sleep(0.1)
    return monotonic() - since


@pytest.mark.timeout(600)
async def test_everybody_returns_and_nobody_has_died(capsys: pytest.CaptureFixture[str]) -> None:
    async with started(settings={"fsync": "off"}) as server:
        database = await migrated(server)
        managers = [Manager(database.url, variables=DEFAULTS if FULL else {}) for _ in range(2)]
        try:
            addresses = [await each.start() for each in managers]
            async with Herd(addresses, TIMEOUT) as herd:
                await herd.gather(MANY)
                await asyncio.sleep(INTERVAL * 2)
                assert herd.renewed_since(monotonic() - INTERVAL * 2) == MANY
                before = [resident(each.pid) for each in managers]
                took = await away_and_back(server, herd)
                await asyncio.sleep(2 * INTERVAL)
                after = [resident(each.pid) for each in managers]
                assert await expired(database) == 0
                assert [each.told_to_end for each in herd.members if each.told_to_end] == []
                assert await database.value("select count(*) from live_instance where type = 'CHROME_BROWSER'") == MANY
        finally:
            for each in managers:
                await each.kill()
                each.log.close()
    with capsys.disabled():
        if FULL:
            late = sorted(herd.latencies)[-len(herd.latencies) // 100]
            print(
                f"\n{MANY} returned; 95 % of them within {took:.1f} s, p99 of all checks {late * 1000:.0f} ms;", end=""
            )
            print(f" MiB before {[each >> 20 for each in before]}, after {[each >> 20 for each in after]}", end=" ")
    assert took <= 2 * INTERVAL
    assert max(after) < max(before) + (256 << 20)


async def away_and_back(server: Server, herd: Herd) -> float:
    """Twice the timeout without a database; how long the return of 95 % took then."""
    await server.kill9()
    await asyncio.sleep(2 * TIMEOUT)
    assert herd.answers["UNAVAILABLE"] + herd.answers["DEADLINE_EXCEEDED"] > 0
    back = monotonic()
    await server.start()
    return await returned(herd, 0.95, back)


async def test_true_deaths_are_seen_in_time() -> None:
    """Five a second for a while, in a fleet that is otherwise well: none later than lease and two ticks."""
    async with started(settings={"fsync": "off"}) as server:
        database = await migrated(server)
        # a stall of this machine is not to earn them grace: it is the lease that is looked at
        calm = {name: DEFAULTS[name] for name in ("IM_OUTAGE_AFTER", "IM_AWAY_AFTER", "IM_DRIFT_AFTER")}
        manager = Manager(database.url, variables=calm)
        try:
            async with Herd([await manager.start()], TIMEOUT if not FULL else 3.0) as herd:
                await herd.gather(300)
                await asyncio.sleep(2)
                silent: dict[str, float] = {}
                for each in herd.members[::10]:
                    silent[each.id] = each.renewed_at
                    herd.leave(each)
                    await asyncio.sleep(0.2)
                deaths = await seen(database, silent)
        finally:
            await manager.kill()
            manager.log.close()
    delays = sorted(deaths[each] - at for each, at in silent.items())
    assert delays[-1] <= 1.1 * 3 + 1 + 4


async def seen(database: Database, silent: dict[str, float]) -> dict[str, float]:
    """When each was found dead, by this process's monotonic clock."""
    found: dict[str, float] = {}
    async with asyncio.timeout(30):
        while set(silent) - set(found):
            rows = await database.run("select instance_id::text from event where type = 2")
            for each in rows:
                found.setdefault(each["instance_id"], monotonic())
            await asyncio.sleep(0.1)
    assert set(found) == set(silent), "others died too"
    return found
