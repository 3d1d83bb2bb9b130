"""What the client verbs share: a client, and what the end of a question means to a shell."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

import typer

from manager.cli.codes import Exit
from manager.cli.connection import Connection, Target
from manager.cli.exits import exit_of
from manager.cli.messages import ADVICE_OF_EXIT, spoken
from manager.cli.say import say
from manager.client import Client, ManagerError

Question = Callable[[Client], Awaitable[int]]


def ask(at: Connection, question: Question) -> NoReturn:
    """Puts a question to the manager, and exits with the question's code or that of its failure."""
    logging.getLogger("manager.client").addHandler(logging.NullHandler())  # what is to be said is said here
    raise typer.Exit(asyncio.run(_ask(at.target(), question)))


async def _ask(target: Target, question: Question) -> int:
    try:
        async with Client(*target.addresses, access=target.access) as client:
            return await question(client)
    except ManagerError as error:
        return failed(target, error)
    except (TimeoutError, EOFError) as error:
        say(f"{target}: {error or 'no answer in time'}", "look at it with `imctl doctor`")
        return Exit.UNREACHABLE
    except OSError as error:  # none of several names is known
        say(f"{target}: {error}", ADVICE_OF_EXIT[Exit.UNREACHABLE])
        return Exit.UNREACHABLE


def failed(target: Target, error: ManagerError) -> int:
    """Says what became of a call, and what to do; the exit code."""
    code = exit_of(error)
    say(f"{target}: {spoken(error)}", ADVICE_OF_EXIT.get(code, "try again, or ask whoever runs the manager"))
    return code
