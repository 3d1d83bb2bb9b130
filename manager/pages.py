"""Pages of the stream: gone through, encoded and joined once for all subscriptions that are shown the same."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from manager.domain.filter import ResumeToken
from manager.domain.lens import Sight

T = TypeVar("T")
U = TypeVar("U")

MOST = 1_000  # pages
SIZE = 2 * 2**20  # bytes of the events in them, as stored; as objects, and what is made of them, it is eight times that


@dataclass(frozen=True, slots=True)
class Update:
    """One message: a sight (none for a bookmark), the place after it, and whether its revision ends with it.

    A bookmark at a place within a revision, where a subscriber went on, can speak of the one before it alone.
    """

    place: ResumeToken
    sight: Sight | None = None
    last: bool = False


class Page(Generic[T]):
    """Some in a row; nobody changes them, since others may have the same page in hand."""

    __slots__ = ("_made", "shown")

    def __init__(self, shown: Sequence[T]) -> None:
        self.shown = shown
        self._made: dict[object, Any] = {}

    def __len__(self) -> int:
        return len(self.shown)

    def __iter__(self) -> Iterator[T]:
        return iter(self.shown)

    def once(self, make: Callable[["Page[T]"], U]) -> U:
        """What is made of the page, at the first who asks."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast(U, self._made[make])


@dataclass(frozen=True, slots=True)
class Seen:
    """What a lens shows between two places, and what it holds back there: before the first of them, and at the end."""

    page: Page[Update]
    before: Update | None
    held: Update | None

    @property
    def size(self) -> int:
        """Bytes, as stored."""
        return sum(each.sight.told.size for each in self.page if each.sight)


class Pages:
    """Those that were made last, by who sees them and from where to where."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Seen, int]] = {}
        self._size = 0

    def get(self, key: Hashable) -> Seen | None:
        """What somebody who sees the same has gone through."""
        seen, _ = self._seen.get(key, (None, 0))
        return seen

    def keep(self, key: Hashable, seen: Seen) -> None:
        """For those who come next."""
        size = seen.size
        self._seen[key] = seen, size
        self._size += size
        while self._size > SIZE or len(self._seen) > MOST:
            _, size = self._seen.pop(next(iter(self._seen)))
            self._size -= size

    def clear(self) -> None:
        """Forgets them all."""
        self._seen, self._size = {}, 0
