"""What takes longer than a second says so, on stderr, and only to a person."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

SECOND = 1.0
# gone in the end; and stdout stays where it is, for it may be a file
ASIDE: dict[str, Any] = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}


@asynccontextmanager
async def spinning(what: str, quiet: bool) -> AsyncIterator[None]:
    """A line that moves, from the second second on, for as long as it is not known how long it takes."""
    task = asyncio.create_task(_spin(what)) if shown(quiet) else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])  # the line is to be gone before anything else is said


async def _spin(what: str) -> None:
    await asyncio.sleep(SECOND)
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    with Live(Spinner("dots", Text(what)), console=Console(stderr=True), **ASIDE):
        await asyncio.Event().wait()


class Advance(Protocol):
    """Says that so many more are done."""

    def __call__(self, more: float = 1) -> None: ...


@contextmanager
def bar(what: str, total: float, quiet: bool) -> Iterator[Advance]:
    """A bar that fills up."""
    if not shown(quiet):
        yield lambda more=1: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), **ASIDE) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more=1: progress.advance(task, more)


class Fill(Protocol):
    """Says how much of what is done, from 0 to 1; None where nobody can know. May be called from any thread."""

    def __call__(self, what: str, share: float | None) -> None: ...


@contextmanager
def bars() -> Iterator[Fill]:
    """A bar for each that is spoken of, below each other: for who is `shown` it."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), **ASIDE) as progress:
        tasks: dict[str, Any] = {}

        def fill(what: str, share: float | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None)
            if share is not None:
                progress.update(tasks[what], total=1.0, completed=share)

        yield fill


def shown(quiet: bool) -> bool:
    """Whether a person is there to see it."""
    return not quiet and sys.stderr.isatty()
