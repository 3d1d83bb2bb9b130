"""Everything that reads what a stranger has sent, as the services and the gate call it, by name."""

import base64
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import typer
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request

from manager.cli import parse
from manager.domain.actor import Actor
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, SystemSample
from manager.domain.refusals import Refusal
from manager.domain.token import digest, well_formed
from manager.wire import batches, decode, framing, moments
from manager.wire.authority import certified, shown
from manager.wire.connect import Json
from manager.wire.guard import Guard
from manager.wire.rights import ABOUT, about_only
from manager.wire.scrape import _encoder, _wanted
from manager.wire.undecodable import Undecodable, tolerant
from tests.fuzz.strategies import IDS
from tests.wire.caller import METHODS, path

Decoder: TypeAlias = Callable[[bytes], object]

ACTOR = Actor(address="ipv4:127.0.0.1:1")
OWN = decode.instance_id("", IDS[0])


def _one(message: Any) -> object:
    return decode.instance_id("instance_id", message.instance_id)


def _subscription(message: Any) -> object:
    token = decode.resume_token("resume_token", message.resume_token) if message.resume_token else None
    return decode.wanted(message), decode.event_types(message), token


def _page(message: Any) -> object:
    return decode.page(message, decode.wanted(message))


def _all(read: Coroutine[Any, Any, object]) -> object:
    """What is read a few items at a time."""
    while True:
        try:
            read.send(None)
        except StopIteration as end:
            return end.value


READ: Mapping[str, Callable[[Any], object]] = {
    "TryAddInstance": lambda message: decode.registration(message, ACTOR),
    "TryUpdateInstance": lambda message: decode.update(message, ACTOR),
    "TryKillInstance": lambda message: decode.kill(message, ACTOR),
    "TryHealthCheck": _one,
    "TryAddChild": lambda message: decode.link(message, ACTOR),
    "TryAddService": lambda message: decode.offer(message, ACTOR),
    "SubscribeToInstanceUpdates": _subscription,
    "PostProxyMetrics": partial(decode.sample, ProxySample),
    "PostSystemMetrics": partial(decode.sample, SystemSample),
    "PostGpuMetrics": partial(decode.sample, GpuSample),
    "PostLlmMetrics": partial(decode.sample, LlmSample),
    "GetAllInstances": _page,
    "GetInstance": _one,
    "GetHealthCheck": _one,
    "GetParent": _one,
    "GetChildren": _one,
    "GetProxyMetrics": _one,
    "GetSystemMetrics": _one,
    "GetGpuMetrics": _one,
    "GetLlmMetrics": _one,
    "UploadStats": decode.stats,
    "GetStats": lambda message: decode.hostname(message.hostname),
    "HealthChecks": lambda message: _all(
        batches.read("instance_ids", message.instance_ids, lambda each: decode.instance_id("", each))
    ),
    "AddInstances": lambda message: _all(
        batches.read("instances", message.instances, lambda each: decode.registration(each, ACTOR))
    ),
    "KillInstances": lambda message: _all(batches.read("kills", message.kills, lambda each: decode.kill(each, ACTOR))),
    "PostMetrics": lambda message: list(batches.samples(message)),
    "WatchInstances": _subscription,
    "DescribeInstance": _one,
    "ListEvents": moments.excerpt,
    "GetMetricsHistory": lambda message: (_one(message), moments.window(message)),
    "GetInstancesAt": lambda message: (moments.moment_at(message), _page(message)),
    "Diff": lambda message: (moments.both(message), moments.diff_page(message)),
}


def _of(method: MethodDescriptor, read: Callable[[bytes], Any]) -> Decoder:
    """As a call is read: its bytes, whom it is about, and then what it says."""

    def decoded(content: bytes) -> object:
        message = read(content)
        if isinstance(message, Undecodable):
            raise message.refusal()
        if method.input_type.name in ABOUT:
            about_only(message, OWN)
        return READ[method.name](message)

    return decoded


def _binary(method: MethodDescriptor) -> Decoder:
    return _of(method, tolerant(path(method), GetMessageClass(method.input_type).FromString))


def _json(method: MethodDescriptor) -> Decoder:
    return _of(method, lambda content: Json().decode(content, GetMessageClass(method.input_type)))


def _credential(content: bytes) -> object:
    for encoding in ("latin-1", "utf-8"):
        text = content.decode(encoding, "replace")
        for name in ("authorization", "cookie"):
            with suppress(Refusal):
                token = shown(((name, text),))
                if token is not None and well_formed(token):
                    digest(token)
    return certified((content, b"spiffe://" + content))


def _metadata(content: bytes) -> object:
    name = content[:8].hex().encode() + (b"-bin" if content[:1] < b"\x80" else b"")
    return framing.asked(((b":method", b"POST"), (b":path", content), (name, content), (b"grpc-timeout", content)))


def _query(content: bytes) -> object:
    raw = content.hex() if content[:1] < b"\x20" else content.decode("latin-1")
    return _wanted(Request({"type": "http", "query_string": raw.encode("latin-1"), "headers": []}))


def _page_of_console(content: bytes) -> object:
    text = content.decode("latin-1")
    with suppress(ValueError):  # who cannot go on begins anew
        return decode.resume_token("Last-Event-ID", base64.urlsafe_b64decode(text))
    return None


async def _nothing(*_: object) -> None: ...


GUARD = Guard(_nothing, ("im.example",), 8 * 1024)


def _host(content: bytes) -> object:
    headers = [(b"host", content), (b"origin", content)]
    return GUARD._refusal(Request({"type": "http", "headers": headers}).headers)


def _typed(read: Callable[[str], object]) -> Decoder:
    """What people write on a command line: wrong is what typer tells them."""

    def decoded(content: bytes) -> object:
        with suppress(typer.BadParameter):
            return read(content.decode("utf-8", "replace"))
        return None

    return decoded


OTHERS: Mapping[str, Decoder] = {
    "a resume token": lambda content: decode.resume_token("resume_token", content),
    "a credential": _credential,
    "metadata": _metadata,
    "a timeout": framing.seconds,
    "a query for targets": _query,
    "the id of an event": _page_of_console,
    "a host": _host,
    "what a scraper accepts": lambda content: _encoder(content.decode("latin-1")),
    **{
        f"imctl: {each.__name__}": _typed(each)
        for each in (
            parse.addresses,
            parse.duration,
            parse.event_type,
            parse.instance_type,
            parse.label,
            parse.moment,
            parse.point,
            parse.service_type,
            parse.status,
            parse.whole_service,
        )
    },
}
BINARY: Mapping[str, tuple[MethodDescriptor, Decoder]] = {each.name: (each, _binary(each)) for each in METHODS}
JSON: Mapping[str, tuple[MethodDescriptor, Decoder]] = {each.name: (each, _json(each)) for each in METHODS}
