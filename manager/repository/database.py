"""Connections: how they are made, what they may cost, and what their failures mean to a caller."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from manager.domain.refusals import Exhausted, Refusal, Unavailable
from manager.repository.driver import Row, driver
from manager.repository.hosts import CONNECT_TIMEOUT, Hosts
from manager.repository.watchdog import Watchdog

# Milliseconds. A frozen manager must not stop the others, nor a dead network hold a lock.
SESSION = {
    "jit": "off",
    "lock_timeout": "5000",
    "statement_timeout": "30000",
    "idle_in_transaction_session_timeout": "1000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "3000",
    # an array of any length gets one plan, which the tests look at; custom plans turn to scans at some hundred ids
    "plan_cache_mode": "force_generic_plan",
    # and every one of them is a matter of keys: a parent with thousands of children, or a table that was empty when
    # the plan was made, would talk the planner into a scan for each. The few that want one say so
    "enable_seqscan": "off",
    "timezone": "UTC",
}
COMMAND_TIMEOUT = 35.0
CLOSED_WITHIN = 2.0
PREPARED_WITHIN = 10.0  # a connection, SQLAlchemy's own questions on it included

RETRIED = {"40001", "40P01", "55P03", "0A000"}
# what asyncpg raises; its internal one where the server's last word came between two statements, and the end of the
# connection did not come yet
DRIVERS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
BAD_DATA = ("22", "23", "54")


# what asyncpg leaves to nobody where a read is given up while it opens the connection by which it would be cancelled
LEFT = "unexpected connection_lost() call"


def _ours(record: logging.LogRecord) -> bool:
    """Whether what nobody has asked for is to be logged."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ConnectionError) and str(error) == LEFT)


logging.getLogger("asyncio").addFilter(_ours)


class Connection(asyncpg.Connection):
    """`unreplicated` once a commit was reported as done though no synchronous standby has it."""

    unreplicated = False
    direct = True  # false behind a pooler, where the process that works for us is not the one that we know
    hosts: Hosts

    def heed(self, message: asyncpg.PostgresLogMessage) -> None:
        """PostgreSQL commits locally when a wait for a standby is cut short, and says so by a warning alone."""
        if "synchronous replication" in message.message:
            self.unreplicated = True


# whose process has ended, its statement ends within a second, and gives back the turns' lock. No setting of every
# session's: where its system cannot tell, PostgreSQL refuses it
GREETING = """
select pg_backend_pid(), case when version() ~ 'linux|darwin|freebsd'
                              then set_config('client_connection_check_interval', '1000', false) end
"""


async def connect(to: str | Hosts, *, name: str, **session: str) -> Connection:
    """A bare connection to the primary of a libpq address (several hosts, sslmode and the rest included)."""
    hosts = to if isinstance(to, Hosts) else Hosts(to)
    connection: Connection = await hosts.connect(
        command_timeout=COMMAND_TIMEOUT,
        server_settings={**SESSION, "application_name": f"instance-manager {name}", **session},
        connection_class=Connection,
        record_class=Row,
    )
    connection.hosts = hosts
    connection.add_log_listener(Connection.heed)
    try:
        serves = await connection.fetchval(GREETING, timeout=CONNECT_TIMEOUT)
    except BaseException:
        connection.terminate()
        raise
    connection.direct = serves == connection.get_server_pid()
    return connection


# json.loads in half the time, but for space before a value: jsonb has none, nor has what we keep as json
_read_json = json.JSONDecoder().raw_decode


def engine_of(to: str | Hosts, *, name: str, connections: int = 1, **session: str) -> AsyncEngine:
    """An engine over `connect`, where each statement is its own transaction unless it is in one of ours.

    `session` are PostgreSQL's settings beyond SESSION.
    """
    hosts = to if isinstance(to, Hosts) else Hosts(to)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(hosts, name=name, **session),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        json_deserializer=lambda value: _read_json(value)[0],
        hide_parameters=True,  # they are what callers sent, and an error's text may come into a log
    )
    event.listen(engine.sync_engine, "checkout", _open)
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _open(connection: Any, _record: object, _proxy: object) -> None:
    """Lends no connection that has ended meanwhile, and then none that is as old."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


SNAPSHOT = "set transaction isolation level repeatable read, read only"


@asynccontextmanager
async def transaction(connection: AsyncConnection, first: str = "") -> AsyncIterator[None]:
    """One transaction, begun in one trip with its `first` statement, which takes no values and gives no rows."""
    bare = driver(connection)
    try:
        await bare.execute(f"begin; {first}")
        yield
        await bare.execute("commit")
    except Exception as error:
        if not (_is_end(error) or bare.is_closed()):  # else whoever holds the connection ends it
            await bare.execute("rollback")
        raise


def is_unreplicated(connection: AsyncConnection) -> bool:
    """Whether its last commit was one that no synchronous standby has."""
    bare = driver(connection)
    found, bare.unreplicated = bare.unreplicated, False
    return bool(found)


def is_left(connection: AsyncConnection, system: int, timeline: int) -> bool:
    """Whether the server that a connection leads to, by its own word, is known to be the primary no more."""
    return bool(driver(connection).hosts.left(system, timeline))


def _watched(watchdog: Watchdog | None, connection: AsyncConnection) -> AbstractContextManager[None]:
    bare = driver(connection)
    return watchdog.over(bare) if watchdog and bare.direct else nullcontext()


class Session:
    """One held connection, made when first needed and made anew after it broke. For one task at a time."""

    def __init__(self, engine: AsyncEngine, watchdog: Watchdog | None = None) -> None:
        self._engine = engine
        self._watchdog = watchdog
        self._connection: AsyncConnection | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncConnection]:
        """The connection; whatever fails in it leaves no half-open transaction behind."""
        if self._watchdog:
            await self._watchdog.hosts.heed()
        if self._connection is None:
            async with asyncio.timeout(PREPARED_WITHIN):
                self._connection = await self._engine.connect()
        try:
            with _watched(self._watchdog, self._connection):
                yield self._connection
        except BaseException as error:
            await self._recover(error)
            raise

    async def _recover(self, error: BaseException) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if sqlstate(error) and not is_lost(error):
            self._connection = connection  # the server answered: the transaction is rolled back, the connection fine
            return
        await connection.invalidate()
        await connection.close()

    async def close(self) -> None:
        """Gives the connection and its engine back."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        await self._engine.dispose()


class Readers:
    """A few connections for reads, each lent for one statement or one snapshot."""

    def __init__(self, engine: AsyncEngine, watchdog: Watchdog) -> None:
        self._engine = engine
        self._watchdog = watchdog

    @asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement sees the newest commits."""
        await self._watchdog.hosts.heed()
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(PREPARED_WITHIN):
                connection = await stack.enter_async_context(self._engine.connect())
            stack.enter_context(_watched(self._watchdog, connection))
            bare = driver(connection)  # SQLAlchemy has none any more where it saw the end itself
            try:
                yield connection
            except BaseException as error:
                # what SQLAlchemy has not seen it would lend again; and given up between a statement's preparing and
                # its run, a connection stands in a transaction that nobody knows of, and the next one would be in it
                if _is_end(error) or not isinstance(error, Exception):
                    bare.terminate()
                    await connection.invalidate()
                raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which all statements see one moment."""
        async with self.use() as connection, transaction(connection, SNAPSHOT):
            yield connection

    async def close(self) -> None:
        """Gives the connections back."""
        await self._engine.dispose()


class Database:
    """About eleven connections, each for one kind of work, so that none waits for another's."""

    def __init__(self, url: str, read_connections: int) -> None:
        self.hosts = hosts = Hosts(url)
        self.watchdog = watchdog = Watchdog(hosts)
        # heartbeats and metrics may lose the last second; a change of the fleet may not, whatever the server's default
        self.turns = Session(engine_of(hosts, name="turns", synchronous_commit="on"), watchdog)
        self.checks = Session(engine_of(hosts, name="checks", synchronous_commit="off"), watchdog)
        self.samples = Session(engine_of(hosts, name="samples", synchronous_commit="off"), watchdog)
        self.lookups = Session(engine_of(hosts, name="lookups"), watchdog)
        self.upkeep = Session(engine_of(hosts, name="upkeep", enable_seqscan="on"), watchdog)
        reads = engine_of(hosts, name="reads", connections=read_connections)
        self.readers = Readers(reads, watchdog)

    async def close(self) -> None:
        """Gives all connections back; those that a silent server does not take back end with the process."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSED_WITHIN):
                for each in (self.turns, self.checks, self.lookups, self.samples, self.upkeep, self.readers):
                    await each.close()


def sqlstate(error: BaseException) -> str:
    """The five characters that PostgreSQL gives an error, or nothing where it was not PostgreSQL's."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", None) or "")


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, and with it the knowledge of what the server did."""
    state = sqlstate(error)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return not state or state in ("25P03", "53300") or (state[:2] in ("08", "57") and state != "57014")


def _is_end(error: BaseException) -> bool:
    """Whether an error is the database's, and the end of its connection."""
    return isinstance(error, (DBAPIError, *DRIVERS)) and is_lost(error)


def is_bad_data(error: BaseException) -> bool:
    """Whether one item of a batch is to blame, so that the others deserve a try without it."""
    return sqlstate(error)[:2] in BAD_DATA


def is_too_long(error: BaseException) -> bool:
    """Whether a statement met its timeout."""
    return sqlstate(error) == "57014"


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed if it is simply run again."""
    return sqlstate(error) in RETRIED


def refusal_of(error: BaseException) -> Refusal | None:
    """What a failure of the database means to a client; None where it is a fault of ours."""
    if isinstance(error, Refusal):
        return error
    if is_too_long(error):
        return Exhausted("the request took longer than a statement may; ask for less at once", timedelta(seconds=5))
    return Unavailable() if is_passing(error) or _is_away(error) else None


def why(error: BaseException) -> str:
    """What an error says, in a line: without the statement that it befell, and SQLAlchemy's wrappings."""
    while isinstance(error, DBAPIError) or type(error).__module__.startswith("sqlalchemy."):
        inner = getattr(error, "orig", None) or error.__cause__
        if inner is None:
            break
        error = inner
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _is_away(error: BaseException) -> bool:
    if isinstance(error, (OSError, TimeoutError, PoolTimeoutError)):
        return True
    if not isinstance(error, (DBAPIError, *DRIVERS)):
        return False
    # full disks, refused logins, read-only servers, and servers that are starting, stopping or in recovery
    return is_lost(error) or sqlstate(error)[:2] in ("28", "3D", "53", "58") or sqlstate(error) in ("25006", "55000")
