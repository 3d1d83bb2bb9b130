from collections.abc import AsyncIterator

import pytest

from manager.client import Client
from tests.client.standin import StandIn, standing_in


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with standing_in() as manager:
        yield manager


@pytest.fixture
async def client(standin: StandIn) -> AsyncIterator[Client]:
    async with Client(standin.address) as connected:
        yield connected
