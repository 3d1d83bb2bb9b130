"""The validators against servers that break a promise each: every mutant is caught, by the promise that it breaks."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from manager import subscription
from manager.domain.event import EventType, Told
from manager.domain.filter import Filter, ResumeToken
from manager.domain.instance import Instance
from manager.domain.lens import Lens
from manager.pages import Update
from manager.repository import history
from manager.wire import encode, subscribing
from tests.stream.conftest import Managers
from tests.stream.scene import play

Patch = pytest.MonkeyPatch
Mutate = Callable[[Patch], None]


def reading(patch: Patch, change: Callable[[list[Told]], list[Told]]) -> None:
    """Every page of the history is changed before anybody sees it."""
    read: Callable[..., Awaitable[history.Page]] = history.read

    async def changed(*arguments: Any, **named: Any) -> history.Page:
        page = await read(*arguments, **named)
        return replace(page, events=change(list(page.events)))

    patch.setattr(history, "read", changed)


def siblings_swapped(patch: Patch) -> None:
    """Two events of one revision change places."""

    def change(events: list[Told]) -> list[Told]:
        for number in range(1, len(events)):
            one, other = events[number - 1], events[number]
            if one.revision == other.revision and not other.last:
                events[number - 1], events[number] = other, one
        return events

    reading(patch, change)


def told_twice(patch: Patch) -> None:
    """Every seventh event comes twice, as where a page overlaps the one before."""
    see = subscription.Subscription._see

    async def twice(self: subscription.Subscription, told: Told) -> list[Update]:
        updates = await see(self, told)
        return updates * (2 if told.revision % 7 == 0 else 1)

    patch.setattr(subscription.Subscription, "_see", twice)


def skipped(patch: Patch) -> None:
    """Every seventh revision is lost, as where a gap was not waited for."""
    reading(patch, lambda events: [each for each in events if each.revision % 7])


def split(patch: Patch) -> None:
    """Every event ends its revision."""

    def change(events: list[Told]) -> list[Told]:
        for each in events:
            each.last = True
        return events

    reading(patch, change)


def held_too_long(patch: Patch) -> None:
    """No event ends its revision where another one follows that the filter keeps back."""
    patch.setattr(encode, "END_OF_REVISION", b"")


def resumed_late(patch: Patch) -> None:
    """A resumption is off by one revision."""

    class Late(subscription.Subscription):
        _late = False

        async def _next(self) -> Sequence[Told]:
            told = await super()._next()
            rest = [each for each in told if each.revision > told[0].revision]
            if not self._late or not rest:
                return told
            self._late = False
            return rest

    def resume(*arguments: Any) -> subscription.Subscription:
        return Late(*arguments)

    place = subscribing.Subscribing._place

    async def noted(self: Any, request: Any) -> ResumeToken:
        Late._late = bool(request.resume_token)
        return await place(self, request)

    patch.setattr(subscribing.Subscribing, "_place", noted)
    patch.setattr(subscribing, "Subscription", resume)


def resumed_early(patch: Patch) -> None:
    """A resumption begins with the event of its token."""
    begin = subscription.Subscription.__init__

    def early(self: subscription.Subscription, *arguments: Any) -> None:
        begin(self, *arguments)
        self._key = (self._key[0], self._key[1] - 1)

    patch.setattr(subscription.Subscription, "__init__", early)


def marked_ahead(patch: Patch) -> None:
    """A bookmark promises the revision after."""
    bookmark = encode.bookmark
    patch.setattr(encode, "bookmark", lambda place, revision: bookmark(place, revision + 1))


def marked_never(patch: Patch) -> None:
    """No bookmark, ever."""
    pages = subscription.Subscription.pages
    patch.setattr(subscription.Subscription, "pages", lambda self, bookmarks: pages(self, bookmarks=False))


def judged_after_only(patch: Patch) -> None:
    """The filter is judged by what is, and not by what was: nobody leaves it."""
    see = Lens.see

    def forgetful(self: Lens, told: Told) -> Any:
        gone = told.type is EventType.UPDATED and told.after is not None and not self.shows(told.after)
        return [] if gone else see(self, told)

    patch.setattr(Lens, "see", forgetful)


def labels_ignored(patch: Patch) -> None:
    """A criterion is forgotten."""
    admits = Filter.admits

    def lax(self: Filter, instance: Instance) -> bool:
        return admits(replace(self, labels={}), instance)

    patch.setattr(Filter, "admits", lax)


def links_unnoticed(patch: Patch) -> None:
    """A link into a subtree adds nobody."""
    patch.setattr(Lens, "opens", lambda self, told: False)


MUTANTS: Sequence[tuple[Mutate, str]] = [
    (siblings_swapped, "ordered"),
    (told_twice, "unique"),
    (skipped, "reliable"),
    (split, "atomic"),
    (held_too_long, "atomic"),
    (resumed_late, "resumable"),
    (resumed_early, "resumable"),
    (marked_ahead, "bookmarkable"),
    (marked_never, "bookmarkable"),
    (judged_after_only, "reliable"),
    (labels_ignored, "filtered"),
    (links_unnoticed, "reliable"),
]


async def test_the_server_itself_breaks_none(managers: Managers, often: None) -> None:
    assert await play(managers, 1, patience=15.0) == {}


@pytest.mark.parametrize(("mutate", "promise"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
async def test_a_server_that_breaks_a_promise_is_caught(
    mutate: Mutate, promise: str, managers: Managers, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert promise in await play(managers, 1)
