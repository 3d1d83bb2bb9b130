"""HTTP: the contract for browsers and curl, what Prometheus asks, health, and the console."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from pathlib import Path

from grpc import StatusCode
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from manager import __version__
from manager.domain.refusals import Unauthenticated
from manager.pb.version import PROTO_VERSION
from manager.repository.database import Readers
from manager.wire.authority import NO_LONGER, Authority, Caller
from manager.wire.connect import application
from manager.wire.guard import Guard
from manager.wire.headed import Headed
from manager.wire.interceptors import Handler as RpcHandler
from manager.wire.limits import Limits
from manager.wire.live import Live
from manager.wire.quotas import NONE, Quota, Quotas
from manager.wire.rights import RIGHTS
from manager.wire.scrape import Discovery, Metrics
from manager.wire.session import PATH as SESSION
from manager.wire.session import Session
from manager.wire.status import status_of
from manager.wire.subscribing import Streams, Subscribing

CONSOLE = Path(__file__).parents[1] / "console"
MUCH = 64 * 1024  # bytes of a request that are read before it is asked who sends them
VIEWS = ("/", "/instances/{id}", "/events")  # each of them is the console's one page
ENCODING = re.compile(rb"[\w.,* -]{0,40}"), "must name an encoding"
# headers whose values connectrpc repeats, in words of its own, where they are not so
REPEATED: Mapping[str, tuple[re.Pattern[bytes], str]] = {
    "connect-timeout-ms": (re.compile(rb"\d{0,10}"), "must be 10 digits at most"),
    "connect-protocol-version": (re.compile(rb"1"), "must be 1"),
    "grpc-timeout": (re.compile(rb"\d{1,8}[HMSmun]"), "must be 8 digits at most and a unit: H, M, S, m, u or n"),
    "content-encoding": ENCODING,
    "connect-content-encoding": ENCODING,
    "grpc-encoding": ENCODING,
}
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}


@dataclass(frozen=True)
class Backstage:
    """What the HTTP side works with: `handlers` are those behind the gate, by path.

    `serving` is the health of the server, `degraded` what is amiss with it, `names` who it may be asked as,
    `metrics_kept` for how long it is known what was measured, `past_kept` who lived, and `grpc_port` where gRPC is,
    once that is known. `authority`: whom to ask who calls; None: nobody is asked. `secure`: this side speaks TLS.
    """

    handlers: Mapping[str, RpcHandler]
    readers: Readers
    streams: Streams
    subscribing: Subscribing
    registry: CollectorRegistry
    serving: Callable[[], bool]
    degraded: Callable[[], Mapping[str, str]]
    names: tuple[str, ...]
    metrics_kept: timedelta
    past_kept: timedelta
    grpc_port: Callable[[], int]
    authority: Authority | None = None
    secure: bool = False
    limits: Limits = field(default_factory=Limits)
    quotas: Quotas | None = None


class Site:
    """What is answered where."""

    def __init__(self, stage: Backstage) -> None:
        self._stage = stage
        self._live = Live(stage.streams, stage.subscribing, stage.degraded)
        self._rpc = application(stage.handlers, stage.limits.message)
        self._metrics = Metrics(stage.registry, stage.readers)
        self._discovery = Discovery(stage.readers)

    def application(self) -> Starlette:
        """All of it, behind the guard."""
        services = sorted({path.split("/")[1] for path in self._rpc.paths})
        return Starlette(
            routes=[
                *(Route(each, self._console, methods=["GET"]) for each in VIEWS),
                Mount("/console", StaticFiles(directory=CONSOLE)),
                Route("/healthz", self._health, methods=["GET"]),
                self._asked("/live", self._stream),
                self._asked("/metrics", self._metrics.show),
                self._asked("/sd/prometheus", self._discovery.show),
                *self._sessions(),
                *(Mount(f"/{each}", self._call) for each in services),
            ],
            middleware=[Middleware(Guard, names=self._stage.names, most=self._stage.limits.metadata)],
        )

    def _asked(self, path: str, handler: "Handler") -> Route:
        """What is answered to those alone who may ask."""
        door = self._stage.authority.door(path) if self._stage.authority else None
        quota = self._quota(path)

        async def answer(request: Request) -> Response:
            if door:
                request.state.door = door
                request.state.caller = caller = await door.enter(Headed(request))
                quota.take(caller.principal.name, request)
            with quota.crowded():
                return await handler(request)

        return Route(path, discreet(answer), methods=["GET"])

    def _quota(self, path: str) -> Quota:
        return self._stage.quotas.of(path) if self._stage.quotas else NONE

    def _sessions(self) -> list[Route]:
        """Where a browser shows its token once; nowhere, where nobody is asked for any."""
        if self._stage.authority is None:
            return []
        session = Session(self._stage.authority, secure=self._stage.secure)
        return [Route(SESSION, discreet(session.change), methods=["POST", "DELETE"])]

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type: bytes = dict(scope["headers"]).get(b"content-type", b"")
        if not all(_is_text(value) for _, value in scope["headers"]):
            # connectrpc takes other bytes for a fault of its own, and tells of it
            await PlainTextResponse("headers must be text in UTF-8\n", 400)(scope, receive, send)
        elif problem := _unfit(scope["headers"]):
            told = {"code": "invalid_argument", "message": problem}
            await JSONResponse(told, 400)(scope, receive, send)
        elif refusal := await self._turned_away(scope):
            await refusal(scope, receive, send)
        elif content_type.split(b";")[0].split(b"+")[0] == b"application/grpc":
            text = "plain gRPC is served on the gRPC port; here are Connect, gRPC-Web and JSON\n"
            await PlainTextResponse(text, 415)(scope, receive, send)
        else:
            await self._rpc(scope, receive, send)

    async def _turned_away(self, scope: Scope) -> Response | None:
        """What is said to somebody who may not call, where he would have us keep much until the gate is reached."""
        request, path = Request(scope), scope["path"]
        if not self._stage.authority or path not in RIGHTS or not _brings_much(request.headers):
            return None
        door, welcome = self._stage.authority.door(path), Response()

        async def enter(request: Request) -> Response:
            await door.enter(Headed(request))
            return welcome

        answer = await discreet(enter)(request)
        return None if answer is welcome else answer

    async def _health(self, _: Request) -> Response:
        if self._stage.serving():
            return PlainTextResponse("serving\n")
        return PlainTextResponse("not serving: the database takes no ticks\n", 503)

    async def _stream(self, request: Request) -> Response:
        last = request.headers.get("last-event-id") or request.query_params.get("last", "")
        frames = self._frames(request, last)
        first = await anext(frames)  # so that a refusal has a status of its own

        async def all_frames() -> AsyncIterator[bytes]:
            async with aclosing(frames):
                yield first
                async for each in frames:
                    yield each

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(all_frames(), media_type="text/event-stream", headers=headers)

    async def _frames(self, request: Request, last: str) -> AsyncGenerator[bytes, None]:
        """The stream, for as long as whoever asked may ask; then the browser comes again, and is told why not."""
        ended = asyncio.Event()

        async def sure() -> None:
            if self._stage.authority:
                await request.state.door.sure()
            if ended.is_set():
                raise Unauthenticated(NO_LONGER)

        with ExitStack() as known:
            if self._stage.authority:
                caller: Caller = request.state.caller
                known.enter_context(self._quota("/live").stream(caller.principal.name))
                known.enter_context(request.state.door.held(caller, ended.set))
            async with aclosing(self._live.frames(last, ended, sure)) as frames:
                async for each in frames:
                    yield each

    async def _console(self, _: Request) -> Response:
        """The page, with what it has to know beforehand."""
        told = {
            "version": __version__,
            "proto_version": PROTO_VERSION,
            "metrics_kept": self._stage.metrics_kept.total_seconds(),
            "past_kept": self._stage.past_kept.total_seconds(),
            "grpc_port": self._stage.grpc_port(),
        }
        page = (CONSOLE / "index.html").read_text()
        return HTMLResponse(page.replace("{{told}}", escape(json.dumps(told))))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unfit(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What is wrong with the first header that would be repeated."""
    for name, value in headers:
        pattern, problem = REPEATED.get(name.decode("latin-1"), (None, ""))
        if pattern is not None and not pattern.fullmatch(value):
            return f"{name.decode()}: {problem}"
    return None


def _brings_much(headers: Headers) -> bool:
    """Whether the body may be more than is kept of a stranger's."""
    return "transfer-encoding" in headers or int(headers.get("content-length", "0")) > MUCH


Handler = Callable[[Request], Awaitable[Response]]


def discreet(handler: Handler) -> Handler:
    """Tells of a failure in the words that a call would have, with a status that HTTP knows, and nothing of ours."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            code, message, _ = status_of(error)
        headers = {"www-authenticate": "Bearer"} if code is StatusCode.UNAUTHENTICATED else None
        told = {"code": code.name.lower(), "message": message}
        return JSONResponse(told, HTTP_STATUS.get(code.name, 500), headers)

    return answer
