"""Initial states: however many ask at once, what else the manager does goes on."""

import asyncio

import pytest

from manager.domain.lens import Lens
from manager.pb import instance_manager_pb2 as pb
from manager.wire.subscribing import PAGE
from tests.looping import counted
from tests.stream.reader import listening
from tests.wire.fleet import Fleet, description

SUBSCRIBERS = 5


async def test_whoever_is_told_the_fleet_holds_the_others_up_for_a_page_at_most(
    lone: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two turns of the loop no more instances are looked at, though the snapshot is the same for all."""
    await lone.register([description() for _ in range(PAGE * 3)])

    async def told() -> int:
        async with listening(lone.serving.addresses[0], send_initial_state=True) as stream:
            count = 0
            while (await stream.next()).event_type != pb.SYNCED:
                count += 1
            return count

    async with counted(monkeypatch, Lens, "shows") as instances:
        counts = await asyncio.gather(*(told() for _ in range(SUBSCRIBERS)))
    assert set(counts) == {PAGE * 3 + 1}  # with the manager itself
    assert 0 < instances.most <= PAGE
