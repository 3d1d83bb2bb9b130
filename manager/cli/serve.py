"""`imctl serve`: a manager for production, on a database that was migrated before."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from manager import __version__
from manager.domain.refusals import Refusal
from manager.pb.version import PROTO_VERSION
from manager.repository.database import refusal_of
from manager.server import Serving
from manager.server import serve as serve_until
from manager.settings import Settings

Bind = Annotated[
    list[str] | None,
    typer.Option("--bind", help="An address to listen on; may be given several times.", metavar="HOST"),
]
Port = Annotated[int | None, typer.Option("--port", help="The gRPC port; 0 for a free one.", min=0, max=65535)]


def serve(bind: Bind = None, port: Port = None) -> None:
    """Serve on the database that DATABASE_URL names.

    The schema is never touched: `imctl migrate` brings it up to date first. Every setting is an environment
    variable, listed in docs/settings.md.
    """
    settings = settings_of(bind=bind, port=port)
    if not settings.database_url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager")
    run(settings, lambda serving: say(*banner(serving), STOPS))


def settings_of(**chosen: Any) -> Settings:
    """The settings of the environment, with what was chosen on the command line before them."""
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"the setting {'.'.join(map(str, first['loc']))} is wrong: {first['msg']}", "see docs/settings.md")


def run(
    settings: Settings,
    started: Callable[[Serving], None],
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serves until a signal or the manager's own death; exits with a line that says what to do where it cannot."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        asyncio.run(_serve(settings, started, beside))
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        fail(str(refusal) if isinstance(error, Refusal) else f"the database cannot be used: {error}")


async def _serve(
    settings: Settings, started: Callable[[Serving], None], beside: Callable[[], Coroutine[Any, Any, None]] | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 - asyncio.run gives us one

    def asked(sign: signal.Signals) -> None:
        if stop.is_set():
            main.cancel()
        say(f"{sign.name}: draining and stopping; once more to stop at once")
        stop.set()

    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, asked, sign)
    companion = asyncio.create_task(beside()) if beside else None
    try:
        await serve_until(settings, stop, started)
    finally:
        if companion:
            companion.cancel()


STOPS = "  Ctrl-C stops it"


def banner(serving: Serving) -> list[str]:
    """What everybody wants to know of a server that has just started."""
    return [
        f"Instance Manager {__version__}, instance {serving.instance_id}",
        f"  gRPC           {', '.join(serving.addresses)}",
        f"  proto_version  {PROTO_VERSION}",
    ]


def say(*lines: str) -> None:
    """Tells a person, on stderr: stdout is for data."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def fail(what: str, then: str = "") -> NoReturn:
    """A line what is wrong, a line what to do; exit code 1."""
    say(f"imctl: {what}", *([f"       {then}"] if then else []))
    raise typer.Exit(1)
