"""Hosts: the servers that an address names, which of them is the primary, and which must never be written to again.

After a promotion an old primary that was left running takes writes as before: nothing that it says of itself shows
that another one is ahead of it. So all hosts are asked, and the highest timeline that was ever seen is not forgotten.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakKeyDictionary

import asyncpg

log = logging.getLogger(__name__)

ASK_EVERY = 2.0
ASK_WITHIN = 1.0
OLD = 5.0  # knowledge, in seconds: a round may be late by so much, where a host keeps it waiting
CONNECT_TIMEOUT = 5.0

NAMED = re.compile(r"(?:\[([^\]]+)\]|(/.*|[^:]*))(?::(\d+))?")

STRANGER = (
    "%s is refused: its system identifier is %d, and ours is %s. Take it out of the address, or restart the managers"
    " if the database was replaced"
)


class NoPrimary(ConnectionError):
    """None of the hosts may be written to, as far as this process knows."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host as the address names it. Without a port it has libpq's."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        return self.name if self.port is None else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Server:
    """What answers at a host: which database cluster, on which timeline, since when, and whether it takes writes."""

    system: int
    timeline: int
    writable: bool
    started: datetime


# or why there is none
Answers = Mapping[Host, Server | Exception]


@dataclass(frozen=True, slots=True)
class Known:
    """What was learned of the hosts. `system` and `timeline` are for ever: a timeline that was left is never led back
    to, though nobody on the higher one can be reached.
    """

    system: int | None = None
    timeline: int = 0
    primary: Host | None = None

    def after(self, answers: Answers) -> "Known":
        """With what the hosts answered, in their order.

        The primary is the one that takes writes on the highest timeline. While it merely does not answer it still is.
        Where two do, which happens when two standbys are promoted at once, nobody can say which: so none is.
        """
        servers = {host: each for host, each in answers.items() if isinstance(each, Server)}
        system = self.system or _most(each.system for each in servers.values())
        ours = {host: each for host, each in servers.items() if each.system == system}
        timeline = max([self.timeline, *(each.timeline for each in ours.values())])
        able = {host: each for host, each in ours.items() if each.writable and each.timeline == timeline}
        learned = replace(self, system=system, timeline=timeline)
        if len({each.started for each in able.values()}) > 1:
            return replace(learned, primary=None)
        if self.primary in able or (not able and timeline == self.timeline and self.primary not in servers):
            return learned
        return replace(learned, primary=next(iter(able), None))

    def left(self, system: int, timeline: int) -> bool:
        """Whether a server there has been left behind, or is somebody else's."""
        return system != self.system or timeline < self.timeline

    def why(self, host: Host, answer: Server | Exception) -> str:
        """What a person is told of a host that is not the primary."""
        if isinstance(answer, Exception):
            return f"{host} does not answer ({str(answer) or 'in time'})"
        if answer.system != self.system:
            return f"{host} is of another database cluster"
        if answer.timeline < self.timeline:
            then = f"restart the managers if timeline {self.timeline} is given up for good"
            return f"{host} is on timeline {answer.timeline}, and {self.timeline} has begun ({then})"
        return f"{host} {'takes writes' if answer.writable else 'takes no writes'} on timeline {answer.timeline}"


def _most(systems: Iterable[int]) -> int | None:
    """The most frequent one, the first of several."""
    return next((system for system, _ in Counter(systems).most_common(1)), None)


def hosts_of(url: str) -> tuple[Host, ...]:
    """The hosts that a libpq address names by itself, in its order."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    named = unquote(parts.netloc.rpartition("@")[2])
    ports = [] if named or "port" not in query else query["port"].split(",")
    each = [found for word in (named or query.get("host", "")).split(",") if (found := NAMED.fullmatch(word))]
    ports = ports * len(each) if len(ports) == 1 else ports
    hosts = [
        Host(found[1] or found[2], int(port) if port else None)
        for found, port in zip(each, ports or [found[3] for found in each], strict=False)
    ]
    return tuple(dict.fromkeys(hosts))


# Asked of the server and not of the schema, which need not be there. A standby's timeline is a lower bound; that of a
# primary must not be taken from the control file, which shows the old one for a while after a promotion.
WHO = """
with r as materialized (select pg_is_in_recovery() as recovering)
select s.system_identifier as system,
       case when r.recovering
            then (select greatest(c.timeline_id, m.min_recovery_end_timeline)
                  from pg_control_checkpoint() c cross join pg_control_recovery() m)
            else cast(cast('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8) as bit(32)) as integer)
       end as timeline,
       not r.recovering and current_setting('transaction_read_only') = 'off' as writable,
       pg_postmaster_start_time() as started
from r cross join pg_control_system() s
"""


async def who(connection: Any) -> Server:
    """Which server it is that answers on a connection."""
    return Server(**await connection.fetchrow(WHO))


class Hosts:
    """The hosts of an address, and the connections to the primary among them.

    With a single host nothing is asked, and nothing refused: it is the primary.
    """

    def __init__(self, url: str) -> None:
        self._url = url.replace("postgresql+asyncpg://", "postgresql://")
        self._hosts = hosts_of(self._url)
        self._answers: Answers = {}
        self._strangers: dict[Host, int] = {}
        self._asked_at = 0.0
        self._asking = asyncio.Lock()
        self._held: WeakKeyDictionary[Any, tuple[Host, Server]] = WeakKeyDictionary()
        self.known = Known()

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self._hosts) > 1

    async def connect(self, **options: Any) -> Any:
        """A connection to the primary, closed as soon as it is known to be none any more. Raises NoPrimary."""
        if not self.several:
            chosen = None if "target_session_attrs" in self._url else "read-write"
            return await asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT, target_session_attrs=chosen, **options)
        host = await self._primary()
        try:
            return await self._connect(host, options)
        except Exception:
            await self.ask()
            if self.known.primary in (None, host):
                raise
        return await self._connect(await self._primary(), options)

    async def watch(self) -> None:
        """Asks every two seconds, for ever."""
        while True:
            await self.ask()
            await asyncio.sleep(ASK_EVERY)

    async def heed(self) -> None:
        """Returns once what is known is not old: a process that was frozen may wake up in another world."""
        if self.several and monotonic() - self._asked_at > OLD:
            await self.ask()

    async def ask(self, within: float = ASK_WITHIN) -> None:
        """Asks all hosts, and closes the connections to those that are not the primary.

        Returns when they were asked after the call came in. Who comes while others are asking waits for their round
        and asks in the next one, with all that wait.
        """
        came = monotonic()
        async with self._asking:
            if self._asked_at <= came:
                begun = monotonic()
                answers = await asyncio.gather(*(self._ask(host, within) for host in self._hosts))
                self.learn(dict(zip(self._hosts, answers, strict=True)))
                self._asked_at = begun

    def learn(self, answers: Answers) -> None:
        """Takes in what the hosts answered."""
        before, self.known = self.known, self.known.after(answers)
        self._tell_strangers(answers)
        self._answers = answers
        if (before.primary, before.timeline) != (self.known.primary, self.known.timeline):
            self._tell(before)
        for connection, (host, server) in list(self._held.items()):
            if host != self.known.primary or self.known.left(server.system, server.timeline):
                del self._held[connection]
                connection.terminate()

    def left(self, system: int, timeline: int) -> bool:
        """Whether a server there must not be written to, since another one is ahead of it."""
        return self.several and self.known.left(system, timeline)

    async def _primary(self) -> Host:
        """The primary. As long as none is known, the hosts are asked: patiently, where some take their time."""
        for within in (ASK_WITHIN, CONNECT_TIMEOUT):
            if self.known.primary is None:
                await self.ask(within)
        if self.known.primary is None:
            raise NoPrimary(f"none of the servers may be written to: {self._why()}")
        return self.known.primary

    async def _connect(self, host: Host, options: Mapping[str, Any]) -> Any:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await self._open(host, options)
            try:
                server = await who(connection)
            except BaseException:
                connection.terminate()
                raise
        # meanwhile another may have been found, or the name may lead elsewhere
        if host != self.known.primary or not server.writable or self.known.left(server.system, server.timeline):
            connection.terminate()
            raise NoPrimary(self.known.why(host, server))
        self._held[connection] = (host, server)
        return connection

    async def _open(self, host: Host, options: Mapping[str, Any]) -> Any:
        return await asyncpg.connect(
            self._url, host=host.name, port=host.port, target_session_attrs="any", timeout=CONNECT_TIMEOUT, **options
        )

    async def _ask(self, host: Host, within: float) -> Server | Exception:
        """On a connection of its own each time: a name may lead to another server by now."""
        connection = None
        try:
            async with asyncio.timeout(within):
                name = {"application_name": "instance-manager hosts"}
                connection = await self._open(host, {"server_settings": name})
                return await who(connection)
        except Exception as error:
            return error
        finally:
            if connection is not None:
                connection.terminate()

    def _tell(self, before: Known) -> None:
        primary, timeline = self.known.primary, self.known.timeline
        if primary is None:
            log.error("none of the servers may be written to: %s", self._why())
        else:
            level = logging.WARNING if before.timeline else logging.INFO
            log.log(level, "the primary is %s, on timeline %d", primary, timeline)

    def _tell_strangers(self, answers: Answers) -> None:
        """One line for each host of another cluster."""
        for host, answer in answers.items():
            if isinstance(answer, Server) and answer.system not in (self.known.system, self._strangers.get(host)):
                self._strangers[host] = answer.system
                log.error(STRANGER, host, answer.system, self.known.system)

    def _why(self) -> str:
        return "; ".join(self.known.why(host, answer) for host, answer in self._answers.items())
