import asyncio
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
        # channels of a process share what they know of an address; where another one's server had this port a moment
        # ago, that is that nobody listens
        await asyncio.wait_for(connected.channel.channel_ready(), 60)
        yield connected
