"""A short run with everything in it: two managers, a busy fleet, subscribers who leave and come back elsewhere."""

import asyncio
from collections.abc import Sequence

from manager.pb import instance_manager_pb2 as pb
from tests.stream.changes import Changes
from tests.stream.conftest import Managers
from tests.stream.reader import Story, listening
from tests.stream.validators import broken

EVERYTHING = [pb.EventType.ValueType(each) for each in range(1, 9)]


async def play(managers: Managers, seed: int, count: int = 60, *, patience: float = 0.5) -> dict[str, list[str]]:
    """The promises that were broken."""
    changes = Changes(seed)
    await changes.many(managers.callers[0], 15)
    stories = [
        Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING)),
        Story(pb.SubscribeRequest(send_bookmarks=True, hostnames=["alpha"], labels={"pool": "hot"})),
        Story(pb.SubscribeRequest(send_bookmarks=True, event_types=EVERYTHING, subtree_of=changes.known[0])),
    ]
    stories += [Story(each.request, bundled=True) for each in stories]
    for part in range(3):
        await _act(managers, stories, part, changes, count // 3, patience)
    history = await managers.history()
    found: dict[str, list[str]] = {}
    for story in stories:
        case = await managers.case(story, changes.acknowledged)
        case.history = history
        for promise, violations in broken(case).items():
            found.setdefault(promise, []).extend(violations)
    return found


async def _act(
    managers: Managers, stories: Sequence[Story], part: int, changes: Changes, count: int, patience: float
) -> None:
    """Everybody listens while a part is written; but in the last, they leave in the middle of it."""
    address = managers.addresses[part % 2]
    written = asyncio.Event()
    readers = [asyncio.create_task(_read(address, story, part, changes, written, patience)) for story in stories]
    await asyncio.sleep(0.05)
    await changes.many(managers.callers[0], count)
    written.set()
    await asyncio.gather(*readers)


async def _read(
    address: str, story: Story, part: int, changes: Changes, written: asyncio.Event, patience: float
) -> None:
    async with listening(address, story, token=story.token) as stream:
        try:
            while part == 2 or len(story.updates) < 20 * (part + 1):
                update = await stream.next(patience)
                read = update.event_type == pb.BOOKMARK and update.revision >= changes.acknowledged
                if written.is_set() and read:
                    return
        except TimeoutError:  # a mutant keeps something back
            return
