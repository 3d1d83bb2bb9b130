"""The trail as whoever verifies it sees it: where it begins, where it ends, and what is wrong with it."""

from dataclasses import dataclass

from manager.domain.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Head:
    """A row of the trail by its number and hash. Whoever has kept one elsewhere can tell later if it was changed."""

    number: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.hash.hex()}"

    @staticmethod
    def parsed(written: str) -> "Head":
        """As it was logged. Raises ValueError where it is none."""
        number, _, digits = written.partition(":")
        found = bytes.fromhex(digits)
        if len(found) != 32:
            raise ValueError(f"{written} is not NUMBER:HASH, as the log has it")
        return Head(int(number), found)


@dataclass(frozen=True, slots=True)
class Verified:
    """From the seal (what was before it is past its retention) to the head, every row is as it was written."""

    seal: Head
    head: Head

    @property
    def rows(self) -> int:
        """How many."""
        return self.head.number - self.seal.number


class Broken(Refusal):
    """The trail is not as it was written; which row says so, and how."""
