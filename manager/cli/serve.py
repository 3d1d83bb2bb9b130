"""`imctl serve`: a manager for production, on a database that was migrated before."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError

from manager import __version__
from manager.cli.codes import Exit
from manager.cli.logs import form_of, log_as
from manager.domain.refusals import Refusal
from manager.pb.version import PROTO_VERSION
from manager.settings import LogFormat, Settings, Transport

if TYPE_CHECKING:  # whoever serves imports it; a supervisor does not, and stays small
    from manager.safety import Unsafe
    from manager.server import Serving

log = logging.getLogger("manager")

T = TypeVar("T")

Bind = Annotated[
    list[str] | None,
    typer.Option("--bind", help="An address to listen on; may be given several times.", metavar="HOST"),
]
Port = Annotated[int | None, typer.Option("--port", help="The gRPC port; 0 for a free one.", min=0, max=65535)]
HttpPort = Annotated[
    int | None,
    typer.Option("--http-port", help="The port of the console and of /metrics; 0 for a free one.", min=0, max=65535),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="How many processes share the port; 1 otherwise. Linux.", min=1, max=100)
]


TransportOption = Annotated[
    Transport | None,
    typer.Option(
        "--transport", help="What carries the calls; native, an extra, where it is installed and none is chosen."
    ),
]

Insecure = Annotated[
    bool,
    typer.Option("--insecure-i-know", help="Serve though strangers may read and change everything. Never do it."),
]


def serve(
    bind: Bind = None,
    port: Port = None,
    http_port: HttpPort = None,
    workers: Workers = None,
    transport: TransportOption = None,
    insecure: Insecure = False,
) -> None:
    """Serve on the database that DATABASE_URL names.

    The schema is never touched: `imctl migrate` brings it up to date first. Every setting is an environment
    variable, listed in docs/settings.md. Off the loopback it serves only with TLS and where everybody is asked who
    calls (IM_TLS_CERT, IM_TLS_KEY, IM_AUTH=true), and only with the rights of im_server; otherwise it says what is
    missing, and the exit code is 78.

    \b
    Examples:
      DATABASE_URL=postgresql://im_server@localhost/instance_manager imctl serve --bind 127.0.0.1
      imctl serve --bind 10.0.0.1 --workers 4
    """
    chosen = {"bind": bind, "port": port, "http_port": http_port, "workers": workers, "transport": transport}
    settings = settings_of(**chosen, insecure_i_know=insecure or None)
    if not settings.database_url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://im_server@host/instance_manager")
    if settings.workers > 1:
        from manager.cli.workers import supervise

        supervise(settings)
    run(
        settings, lambda told: tell(settings, *banner(told.instance_id, told.addresses, told.pages, told.notice), STOPS)
    )


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
    started: "Callable[[Serving], None]",
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serves until a signal or the manager's own death; exits with a line that says what to do where it cannot."""
    log_as("", form_of(settings))
    carried_out(_serve(settings, started, beside))


def carried_out(work: Coroutine[Any, Any, T]) -> T:
    """What a server's work returns; exits with a line that says what to do where it is refused."""
    from manager.repository.database import refusal_of
    from manager.safety import Unsafe

    try:
        return asyncio.run(work)
    except asyncio.CancelledError:  # asked to stop at once
        raise typer.Exit(Exit.FAILED) from None
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        if isinstance(error, Unsafe):
            unsafe(error)
        fail(str(refusal) if isinstance(error, Refusal) else f"the database cannot be used: {error}")


async def _serve(
    settings: Settings, started: "Callable[[Serving], None]", beside: Callable[[], Coroutine[Any, Any, None]] | None
) -> None:
    from manager.server import serve as serve_until

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 - asyncio.run gives us one
    companion = asyncio.create_task(beside() if beside else asyncio.sleep(0))
    leaving = False

    def asked(sign: signal.Signals) -> None:
        nonlocal leaving
        if leaving:
            main.cancel()
        tell(settings, asked_to_stop(sign))
        leaving = True
        companion.cancel()
        companion.add_done_callback(lambda _: stop.set())  # it may have to say goodbye to the server

    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, asked, sign)
    try:
        await serve_until(settings, stop, started)
    finally:
        companion.cancel()
    await asyncio.wait([companion])


STOPS = "  Ctrl-C stops it"


def asked_to_stop(sign: signal.Signals) -> str:
    """What a server says to its first signal."""
    return f"{sign.name}: draining and stopping; once more to stop at once"


def banner(instance_id: str, addresses: Sequence[str], pages: Sequence[str] = (), notice: str = "") -> list[str]:
    """What everybody wants to know of a server that has just started."""
    return [
        f"Instance Manager {__version__}, instance {instance_id}",
        f"  gRPC           {', '.join(addresses)}",
        *([f"  console        {', '.join(map(_reachable, pages))}"] if pages else []),
        f"  proto_version  {PROTO_VERSION}",
        *([f"  {notice}"] if notice else []),
    ]


def _reachable(page: str) -> str:
    """What a browser on this machine can open: every address is none."""
    scheme, _, place = page.partition("://")
    host, _, port = place.rpartition(":")
    return f"{scheme}://localhost:{port}" if host in ("[::]", "0.0.0.0") else page  # noqa: S104 - it is compared


def say(*lines: str) -> None:
    """Tells a person, on stderr: stdout is for data."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def tell(settings: Settings, *lines: str) -> None:
    """What a server that serves has to say beside its log; where that is JSON, an entry of it."""
    if form_of(settings) is LogFormat.JSON:
        log.info("%s", "; ".join(each.strip() for each in lines))
    else:
        say(*lines)


def unsafe(refusal: "Unsafe") -> NoReturn:
    """A line for each thing that is missing, a line what may be done without; exit code 78."""
    from manager.safety import CHOSEN

    say(*(f"imctl: {each}" for each in refusal.sentences), *([f"       {CHOSEN}"] if refusal.choice else []))
    raise typer.Exit(Exit.INSECURE)


def fail(what: str, then: str = "") -> NoReturn:
    """A line what is wrong, a line what to do; exit code 1."""
    say(f"imctl: {what}", *([f"       {then}"] if then else []))
    raise typer.Exit(1)
