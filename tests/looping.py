"""How much is done between two turns of the event loop: what else is ready waits for that long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Calls:
    """How often something was called since the loop's last turn, and at most between two of them."""

    now: int = 0
    most: int = 0

    async def count(self) -> None:
        """For ever, a turn at a time."""
        while True:
            self.most, self.now = max(self.most, self.now), 0
            await asyncio.sleep(0)


@asynccontextmanager
async def counted(patch: pytest.MonkeyPatch, owner: type, name: str) -> AsyncIterator[Calls]:
    """Counts the calls of a method of all its instances, in the loop of the test."""
    calls, method = Calls(), getattr(owner, name)

    def called(*given: Any) -> Any:
        calls.now += 1
        return method(*given)

    patch.setattr(owner, name, called)
    counting = asyncio.create_task(calls.count())
    try:
        yield calls
    finally:
        counting.cancel()
