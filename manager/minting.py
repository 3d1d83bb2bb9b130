"""Tokens for instances that have just been registered: those that wait together are one statement."""

import logging
from collections.abc import Sequence
from datetime import timedelta

from manager.domain.instance import InstanceId
from manager.domain.principal import Principal
from manager.domain.refusals import Refusal
from manager.domain.token import digest, new_token
from manager.lane import Lane
from manager.repository import tokens
from manager.repository.database import Readers, refusal_of, why
from manager.repository.tokens import Mint

log = logging.getLogger(__name__)

LINGER = timedelta(milliseconds=5)
BATCH, QUEUE = 1_000, 20_000


class Minting:
    """Gives those who register what their instances may call with."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self.lane: Lane[Mint, bool] = Lane(self._mint, linger=LINGER, size=BATCH, queue=QUEUE)

    async def mint(self, instance: InstanceId, revision: int, registrar: Principal) -> str | None:
        """A token for an instance that was registered by the change of that revision; None for whoever it was not by.

        Raises Unavailable where nobody can say: the registration holds all the same, and may be repeated for it.
        """
        token = new_token()
        made = await self.lane.submit(Mint(instance, revision, registrar.name, digest(token)))
        return token if made else None

    async def _mint(self, wanted: Sequence[Mint]) -> Sequence[bool | Refusal]:
        singly = {each.instance: each for each in wanted}  # of calls at once about one instance the last one gets it
        try:
            async with self._readers.use() as connection:
                made = await tokens.mint(connection, list(singly.values()))
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            log.warning("%d tokens could not be made: %s", len(wanted), why(error))
            return [refusal] * len(wanted)
        return [each.hash in made for each in wanted]
