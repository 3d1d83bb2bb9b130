"""The credentials that are good, in memory: what a call costs to be known is a look into a table of this process.

What was found is trusted for ten minutes, and asked about anew by the next call. What is revoked meanwhile is asked for
every second, and forgotten; the streams that it opened are told. Who could not ask for five seconds trusts nothing of
it, and says so: a manager that is cut off cannot know who was shut out. Of a stream each message is judged so, whoever
sends it; one on which nothing is said stays open, or a fleet would come again whenever the database is away.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hmac import compare_digest
from time import monotonic
from uuid import UUID

from manager.domain.principal import Principal
from manager.domain.refusals import Refusal, Unauthenticated, Unavailable
from manager.lane import Lane
from manager.repository import tokens
from manager.repository.database import Readers, refusal_of, why
from manager.repository.tokens import Found

log = logging.getLogger(__name__)

ASK_EVERY = 1.0
TRUSTED = 5.0  # for so long after an answer
FORGOTTEN = 60.0  # after so long without one, what was revoked meanwhile is no longer told
KEPT = 600.0
NOTED_EVERY = 60.0
BATCH, QUEUE = 1_000, 20_000

UNKNOWN = "the token is not valid here: unknown, expired or revoked"
UNSURE = "the database has not said for a while which tokens are revoked; retry"


@dataclass(frozen=True, slots=True)
class Known:
    """A principal, and until when it is known as one, by this process's clock; `ends`: for good."""

    hash: bytes
    principal: Principal
    until: float
    ends: float | None


class Keyring:
    """Whom credentials stand for. `most`: of how many it is remembered.

    Credentials are named by their SHA-256, see `manager.domain.token`.
    """

    def __init__(self, readers: Readers, *, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._readers = readers
        self._most = most
        self._clock = clock
        self._known: dict[bytes, Known] = {}
        self._held: dict[bytes, set[Callable[[], None]]] = {}
        self._shown: set[UUID] = set()
        self._revoked: frozenset[bytes] = frozenset()  # lately
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        # one statement at a time, however many strangers knock
        self.lane: Lane[bytes, Found | None] = Lane(self._find, linger=timedelta(0), size=BATCH, queue=QUEUE)

    def known(self, credential: bytes) -> Principal | None:
        """Whom it stands for, where that is remembered."""
        known, now = self._known.get(credential), self._clock()
        if known is None or now >= known.until or now - self._asked_at > TRUSTED:
            return None
        return known.principal if compare_digest(known.hash, credential) else None

    async def principal(self, credential: bytes) -> Principal:
        """Whom it stands for. Raises Unauthenticated, or Unavailable where nobody can say."""
        remembered = self.known(credential)
        if remembered is not None:
            return remembered
        await self.sure()
        asked_at = self._clock()
        found = await self.lane.submit(credential)
        if found is None:
            self._known.pop(credential, None)
            raise Unauthenticated(UNKNOWN)
        self._remember(credential, found, asked_at)
        return found.principal

    @contextmanager
    def held(self, credential: bytes, ended: Callable[[], None]) -> Iterator[None]:
        """Has `ended` called, once or more, as soon as the credential is no longer good."""
        known = self._known.get(credential)
        timer = None
        if known is not None and known.ends is not None:
            timer = asyncio.get_running_loop().call_later(max(0.0, known.ends - self._clock()), ended)
        self._held.setdefault(credential, set()).add(ended)
        if credential in self._revoked:  # since it was asked about
            ended()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            holders = self._held[credential]
            holders.discard(ended)
            if not holders:
                del self._held[credential]

    async def watch(self) -> None:
        """Asks what was revoked, for ever; and once a minute keeps which tokens were shown."""
        noted_at = self._clock()
        while True:
            try:
                await self._ask()
                if self._clock() - noted_at > NOTED_EVERY:
                    noted_at = self._clock()
                    await self._note()
            except Exception as error:
                if refusal_of(error) is None:
                    log.exception("asking for revoked tokens failed")
                else:
                    log.info("nobody says which tokens are revoked: %s", why(error))
            await asyncio.sleep(ASK_EVERY)

    async def sure(self) -> None:
        """Returns once it is known what was revoked, and who was is told; raises Unavailable where nobody can say."""
        if self._clock() - self._asked_at <= TRUSTED:
            return
        try:
            async with asyncio.timeout(TRUSTED):
                await self._ask()
        except Exception as error:
            if refusal_of(error) is None:
                raise
            raise Unavailable(UNSURE) from None
        await asyncio.sleep(0)  # what has just been ended does not go on with what it waited for

    async def _ask(self) -> None:
        """Forgets what was revoked. Who comes while another asks waits for that answer."""
        came = self._clock()
        async with self._asking:
            if self._asked_at > came:
                return
            begun = self._clock()
            if begun - self._asked_at > FORGOTTEN:
                await self._begin_anew()
            async with self._readers.use() as connection:
                revoked = await tokens.revoked_lately(connection)
            self._revoked = frozenset(revoked)
            for each in revoked:
                self._forget(each)
            self._asked_at = begun

    async def _begin_anew(self) -> None:
        self._known.clear()
        held = list(self._held)
        for start in range(0, len(held), BATCH):
            some = held[start : start + BATCH]
            async with self._readers.use() as connection:
                found = await tokens.find(connection, some)
            for each in some:
                if each not in found:
                    self._forget(each)

    def _forget(self, credential: bytes) -> None:
        self._known.pop(credential, None)
        for ended in tuple(self._held.get(credential, ())):
            ended()

    def _remember(self, credential: bytes, found: Found, asked_at: float) -> None:
        self._known.pop(credential, None)
        while len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        ends = None if found.left is None else asked_at + found.left
        until = asked_at + KEPT if ends is None else min(ends, asked_at + KEPT)
        self._known[credential] = Known(credential, found.principal, until, ends)
        if found.principal.instance is None:  # of instances their health checks say more
            self._shown.add(found.principal.token)

    async def _note(self) -> None:
        """Keeps which tokens were looked up, or have streams open: to ten minutes, how lately each was used."""
        streams = {self._known[each].principal for each in self._held if each in self._known}
        shown, self._shown = self._shown | {each.token for each in streams if each.instance is None}, set()
        if shown:
            async with self._readers.use() as connection:
                await tokens.used(connection, list(shown))

    async def _find(self, credentials: Sequence[bytes]) -> Sequence[Found | Refusal | None]:
        try:
            async with self._readers.use() as connection:
                found = await tokens.find(connection, list(dict.fromkeys(credentials)))
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            log.warning("%d credentials could not be looked up: %s", len(credentials), why(error))
            return [refusal] * len(credentials)
        return [found.get(each) for each in credentials]
