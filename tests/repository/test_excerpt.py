"""Excerpts of the history: exactly what matches, once, in either direction, whatever the size of the pages."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from manager.domain.event import Entry, EventType
from manager.domain.excerpt import Bookmark, Excerpt
from manager.domain.instance import InstanceId, InstanceType
from manager.domain.refusals import EpochChanged, HistoryGone
from manager.presence import new_id
from manager.repository import excerpt
from tests.fleet import Fleet, service

Key = tuple[int, int]
EVERYTHING = Excerpt()


async def pages(fleet: Fleet, wanted: Excerpt, most: int) -> list[excerpt.Page]:
    """All the pages."""
    read: list[excerpt.Page] = []
    after: Bookmark | None = None
    while not read or after is not None:
        async with fleet.connections.readers.snapshot() as connection:
            read.append(await excerpt.read(connection, wanted, after, most))
        after = read[-1].next
        assert len(read) < 1_000
    return read


async def listed(fleet: Fleet, wanted: Excerpt = EVERYTHING, most: int = 3) -> list[Entry]:
    """What all the pages together hold."""
    return [entry for page in await pages(fleet, wanted, most) for entry in page.entries]


def keys(entries: Sequence[Entry]) -> list[Key]:
    return [entry.told.key for entry in entries]


async def history(fleet: Fleet) -> list[Key]:
    """All that was told, oldest first."""
    return [(revision, ordinal) for revision, ordinal, *_ in await fleet.story()]


@pytest.mark.parametrize("most", [1, 2, 3, 1_000])
async def test_pages_of_any_size_hold_the_history_once_in_either_direction(fleet: Fleet, most: int) -> None:
    top, *_ = await fleet.chain(4)
    await fleet.kill(top, note="the end")
    await fleet.add()
    told = await history(fleet)
    assert keys(await listed(fleet, Excerpt(oldest_first=True), most)) == told
    newest = await listed(fleet, EVERYTHING, most)
    assert keys(newest) == told[::-1]
    assert {entry.actor for entry in newest} == {fleet.actor}
    assert {entry.told.instance: entry.note for entry in newest if entry.note} == {top: "the end"}


async def test_pages_that_are_cut_by_what_they_look_at_lose_and_repeat_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpt, "LOOK", 3)
    vllm = await fleet.add(of=InstanceType.VLLM)
    await fleet.chain(10)
    await fleet.kill(vllm)
    for oldest_first in (False, True):
        wanted = Excerpt(types=(InstanceType.VLLM,), oldest_first=oldest_first)
        assert len(await pages(fleet, wanted, 10)) > 5
        found = [entry.told.type for entry in await listed(fleet, wanted)]
        expected = [EventType.ADDED, EventType.REMOVED]
        assert found == (expected if oldest_first else expected[::-1])


async def test_each_criterion_and_all_together_admit_what_matches_alone(fleet: Fleet) -> None:
    top, middle, bottom = await fleet.chain(3)
    other = await fleet.add(of=InstanceType.VLLM, services=(service(),))
    await fleet.link(bottom, other)
    await fleet.kill(middle)

    async def seen(wanted: Excerpt) -> set[tuple[InstanceId, EventType]]:
        return {(entry.told.instance, entry.told.type) for entry in await listed(fleet, wanted)}

    everything = await seen(EVERYTHING)
    of = {each: {one for one in everything if one[0] == each} for each in (top, middle, bottom, other)}
    assert await seen(Excerpt(ids=(middle, bottom, middle))) == of[middle] | of[bottom]
    assert await seen(Excerpt(ids=(new_id(),))) == set()
    assert await seen(Excerpt(subtree_of=middle)) == of[middle] | of[bottom] | of[other]
    assert await seen(Excerpt(subtree_of=middle, ids=(top, other))) == of[other]
    assert await seen(Excerpt(types=(InstanceType.VLLM,))) == of[other]
    assert await seen(Excerpt(hostnames=("host",))) == of[other]
    assert await seen(Excerpt(hostnames=("hos",))) == set()
    removed = {(each, EventType.REMOVED) for each in (middle, bottom, other)}
    assert await seen(Excerpt(kinds=(EventType.REMOVED,))) == removed
    assert await seen(
        Excerpt(
            kinds=(EventType.REMOVED,), types=(InstanceType.VLLM,), hostnames=("host",), subtree_of=top, ids=(other,)
        )
    ) == {(other, EventType.REMOVED)}


async def test_revisions_bound_an_excerpt_on_both_sides(fleet: Fleet) -> None:
    await fleet.chain(6)
    told = await history(fleet)
    for first, last in ((2, 4), (0, 3), (4, 2**62), (5, 4), (100, 200)):
        expected = [each for each in told if first <= each[0] <= last]
        for oldest_first in (False, True):
            found = keys(await listed(fleet, Excerpt(first=first, last=last, oldest_first=oldest_first)))
            assert found == (expected if oldest_first else expected[::-1])


async def test_times_bound_an_excerpt_on_both_sides(fleet: Fleet) -> None:
    await fleet.chain(9)
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    await fleet.sql.execute("update event set at = $1::timestamptz + revision * interval '1 second'", begin)
    told = await history(fleet)
    for since in range(12):
        for until in (0, 3, 9, 10, 11):
            expected = [each for each in told if since <= each[0] < until]
            wanted = Excerpt(
                since=begin + timedelta(seconds=since), until=begin + timedelta(seconds=until), oldest_first=True
            )
            assert keys(await listed(fleet, wanted)) == expected
    wanted = Excerpt(since=begin + timedelta(seconds=3.5), until=begin + timedelta(seconds=5.5))
    assert {revision for revision, _ in keys(await listed(fleet, wanted))} == {4, 5}


async def test_an_empty_history_is_an_empty_page(fleet: Fleet) -> None:
    await fleet.turns.recognize()
    for oldest_first in (False, True):
        moment = datetime(2020, 1, 1, tzinfo=UTC)
        (page,) = await pages(fleet, Excerpt(since=moment, until=moment, oldest_first=oldest_first), 10)
        assert (list(page.entries), page.oldest, page.head) == ([], 1, 0)


async def compact(fleet: Fleet, revision: int) -> None:
    """Cuts the history off behind a revision, whose events nobody has deleted yet."""
    await fleet.sql.execute("update control set compacted_revision = $1", revision)


async def test_what_was_cut_off_is_not_shown_and_a_page_that_leads_into_it_says_so(fleet: Fleet) -> None:
    await fleet.chain(6)
    async with fleet.connections.readers.snapshot() as connection:
        oldest = await excerpt.read(connection, Excerpt(oldest_first=True), None, 1)
        newest = await excerpt.read(connection, EVERYTHING, None, 1)
    await compact(fleet, 3)
    entries = await listed(fleet, Excerpt(oldest_first=True))
    assert keys(entries)[0][0] == 4
    async with fleet.connections.readers.snapshot() as connection:
        rest = await excerpt.read(connection, EVERYTHING, newest.next, 100)
        assert rest.oldest == 4
        assert {revision for revision, _ in keys(rest.entries)} == {4, 5, 6}
        with pytest.raises(HistoryGone, match="from revision 4 on"):
            await excerpt.read(connection, Excerpt(oldest_first=True), oldest.next, 100)


async def test_a_bookmark_of_another_history_is_refused(fleet: Fleet) -> None:
    await fleet.chain(3)
    async with fleet.connections.readers.snapshot() as connection:
        page = await excerpt.read(connection, EVERYTHING, None, 1)
    assert page.next is not None
    await fleet.sql.execute("""
        insert into history_epoch (number, system_identifier, timeline, database_oid, event_oid, base_revision, reason)
        select number + 1, system_identifier, timeline, database_oid, event_oid, base_revision, 'a test'
        from history_epoch order by number desc limit 1""")
    async with fleet.connections.readers.snapshot() as connection:
        with pytest.raises(EpochChanged):
            await excerpt.read(connection, EVERYTHING, page.next, 1)
