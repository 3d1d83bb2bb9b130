"""Events on their way into messages that carry many: whole revisions where they fit, serialized, joined as bytes."""

from collections.abc import Iterable, Iterator, Sequence

from manager.domain.filter import ResumeToken
from manager.pages import Page
from manager.wire import encode
from manager.wire.subscribing import Piece

SIZE = 2**20
UPDATE, TOKEN = b"\x0a", b"\x12"  # fields 1 and 2 of InstanceUpdates
FRAME = 6  # what one event costs beside its content, at most
LAST = 100  # the token, likewise


Message = tuple[bytes, ResumeToken | None]


class Bundle:
    """Pieces that wait for the end of their revision, up to 1 MiB of them."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._size = LAST
        self._whole = 0  # how many of them are of revisions that have ended

    def take(self, page: Page[Piece]) -> Iterable[Message]:
        """Messages, each with the place after it; what is left belongs to a revision that has not ended."""
        if not self._pieces and page.shown[-1].ends:
            return page.once(_joined)  # with nothing left over before it and after it, they are the same for all
        return self._join(page)

    def _join(self, page: Page[Piece]) -> Iterator[Message]:
        for piece in page:
            size = len(piece.content) + FRAME
            while self._pieces and self._size + size > SIZE:
                yield self._message(self._whole or len(self._pieces))
            self._pieces.append(piece)
            self._size += size
            if piece.ends:
                self._whole = len(self._pieces)
        if self._whole:
            yield self._message(self._whole)

    def _message(self, count: int) -> Message:
        pieces, self._pieces, self._whole = self._pieces[:count], self._pieces[count:], 0
        self._size = LAST + sum(len(each.content) + FRAME for each in self._pieces)
        parts = [part for each in pieces for part in (UPDATE, _length(each.content), each.content)]
        place = pieces[-1].place
        if place:
            token = encode.resume_token(place)
            parts += (TOKEN, _length(token), token)
        return b"".join(parts), place


def _joined(page: Page[Piece]) -> Sequence[Message]:
    return list(Bundle()._join(page))


def _length(content: bytes) -> bytes:
    """As protobuf writes it: seven bits a byte, the lowest first."""
    left, written = len(content), bytearray()
    while left > 127:
        written.append(left & 127 | 128)
        left >>= 7
    written.append(left)
    return bytes(written)
