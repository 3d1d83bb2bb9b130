"""Connections on which both sides wait for each other: the network lost what one of them said, and told nobody.

A statement may take half a minute, so that a deadline on each would find such a connection far too late. But the
server knows whether it works for us: what it calls idle while we wait for its answer is dead.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any

from manager.repository.hosts import Hosts

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
LATE = 3.0
LOOK_WITHIN = 3.0

IDLE = """
select pid, state_change from pg_stat_activity
where pid = any($1) and state like 'idle%' and state_change < clock_timestamp() - make_interval(secs => $2)
union all
select p.pid, 'epoch' from unnest($1) p(pid) where not exists (select from pg_stat_activity a where a.pid = p.pid)
"""


class Watchdog:
    """Ends dead connections among those that are in use, so that who waits on them hears of it."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._used: dict[Any, float] = {}
        self._idle: dict[Any, datetime] = {}

    @contextmanager
    def over(self, connection: Any) -> Iterator[None]:
        """While in here, somebody waits on that bare connection."""
        self._used[connection] = monotonic()
        try:
            yield
        finally:
            self._used.pop(connection, None)

    async def watch(self) -> None:
        """Looks every second, for ever; where nobody waits for long, that costs nothing."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            late = [each for each, since in self._used.items() if monotonic() - since > LATE]
            try:
                self._idle = await self._look(late) if late else {}
            except Exception as error:  # the database is away altogether: then there is nothing better to wait for
                log.debug("nobody says which connections are dead: %s", error)

    async def _look(self, late: Sequence[Any]) -> dict[Any, datetime]:
        """Which are idle, and since when. What has been so since the last look is ended: in between, we were not."""
        rows = await self._asked([each.get_server_pid() for each in late])
        idle = {each: rows[each.get_server_pid()] for each in late if each.get_server_pid() in rows}
        for connection, since in idle.items():
            if self._idle.get(connection) == since and connection in self._used:
                log.warning("a connection to the database was dead, and nobody had told: it is made anew")
                connection.terminate()
        return idle

    async def _asked(self, pids: Sequence[int]) -> dict[int, datetime]:
        async with asyncio.timeout(LOOK_WITHIN):
            connection = await self.hosts.connect(server_settings={"application_name": "instance-manager watchdog"})
            try:
                return {row["pid"]: row["state_change"] for row in await connection.fetch(IDLE, pids, LATE)}
            finally:
                connection.terminate()
