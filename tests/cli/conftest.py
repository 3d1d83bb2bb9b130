import signal
from collections.abc import AsyncIterator

import pytest

from manager.server import Serving
from tests.cli.scene import Scene, scene_of
from tests.client.standin import StandIn, standing_in
from tests.conftest import Database

# a job in the background of a shell ignores Ctrl-C, and so would all that it starts
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with standing_in() as manager:
        yield manager


@pytest.fixture
async def scene(server: Serving, database: Database) -> AsyncIterator[Scene]:
    """A manager, and the words to fill its fleet and to look at it by `imctl`."""
    async with scene_of(server, database) as made:
        yield made
