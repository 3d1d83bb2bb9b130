"""What `imctl doctor` finds: one thing looked at, how it is, and what to do."""

from dataclasses import asdict, dataclass
from enum import StrEnum

from manager.cli import words
from manager.cli.table import Column, Sheet


class State(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    found: str
    advice: str = ""

    def sign(self) -> str:
        """Its state, with the sign of the same colour."""
        return words.signed(SIGN_OF[self.state], self.state)


SIGN_OF = {State.OK: words.GOOD, State.WARNING: words.DOUBTFUL, State.FAILED: words.BAD, State.SKIPPED: words.NONE}
FINDINGS: Sheet[Finding] = Sheet(
    columns=(
        Column("check", lambda one: one.check),
        Column("state", lambda one: one.state, Finding.sign),
        Column("found", lambda one: one.found),
        Column("advice", lambda one: one.advice or None),
    ),
    name=lambda one: one.check,
    document=lambda one: {name: str(value) for name, value in asdict(one).items()},
)


def judged(check: str, value: float, limits: tuple[float, float], found: str, advice: str) -> Finding:
    """Fine up to the first limit, doubtful up to the second."""
    fair, poor = limits
    if value <= fair:
        return Finding(check, State.OK, found)
    return Finding(check, State.WARNING if value <= poor else State.FAILED, found, advice)
