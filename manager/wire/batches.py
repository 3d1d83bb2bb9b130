"""Batches: many items a message, each with the outcome that its single call would have had."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from manager.domain.calls import Checked, Outcome
from manager.domain.metrics import GpuSample, LlmSample, Post, Posted, ProxySample, SystemSample
from manager.domain.refusals import InvalidRequest
from manager.pb import fleet_pb2 as pb
from manager.wire import decode, encode
from manager.wire.status import failure_of

T = TypeVar("T")
MOST = 10_000
FEW = 100


def items(field: str, given: Sequence[T]) -> Sequence[T]:
    """At most so many in one message."""
    if len(given) > MOST:
        raise InvalidRequest(field, f"must be at most {MOST}, and are {len(given)}: send several batches")
    return given


async def read(field: str, given: Sequence[Any], decoded: Callable[[Any], T]) -> list[T | Exception]:
    """Each item as a value; a malformed one as its refusal, which names it. A few at a time, so that others are served
    meanwhile, and a turn goes on as soon as the database has answered."""
    found: list[T | Exception] = []
    for place, each in enumerate(items(field, given)):
        if place % FEW == FEW - 1:
            await asyncio.sleep(0)
        try:
            found.append(decoded(each))
        except InvalidRequest as refusal:
            found.append(_at(f"{field}[{place}]", refusal))
    return found


def _at(path: str, refusal: InvalidRequest) -> InvalidRequest:
    return InvalidRequest(f"{path}.{refusal.field}" if refusal.field else path, refusal.problem)


async def carried(
    read: Sequence[T | Exception], submit: Callable[[Sequence[T]], Awaitable[Sequence[Outcome | Exception]]]
) -> list[Outcome | Exception]:
    """What became of each: of what could be read, what `submit` says."""
    good = [each for each in read if not isinstance(each, Exception)]
    answers = iter(await submit(good) if good else [])
    return [each if isinstance(each, Exception) else next(answers) for each in read]


def outcomes(values: Iterable[Outcome | Exception]) -> pb.Outcomes:
    """Of changes."""
    failure = cache(failure_of)  # what befell many at once is told to each, and logged once
    message = pb.Outcomes()
    add = message.outcomes.add  # filled in place, since to make each and copy it takes three times as long
    for each in values:
        if isinstance(each, Exception):
            add(failure=failure(each))
        elif each.reason is None:
            answer = add().answer
            answer.value, answer.revision = True, each.revision
        else:
            add(answer=encode.outcome(each))
    return message


def checked(values: Iterable[Outcome | Exception]) -> pb.HealthCheckOutcomes:
    """Of health checks."""
    failure = cache(failure_of)
    message = pb.HealthCheckOutcomes()
    add = message.outcomes.add  # in place, likewise
    for each in values:
        if isinstance(each, Checked):
            outcome = add(next_check_ms=encode.pause(each.pause))
            outcome.answer.value = True
        elif isinstance(each, Exception):
            add(failure=failure(each))
        else:
            add(answer=encode.outcome(each))
    return message


SAMPLES: Mapping[str, type[Any]] = {"proxy": ProxySample, "system": SystemSample, "gpu": GpuSample, "llm": LlmSample}


def samples(request: pb.MetricsBatch) -> tuple[Sequence[Post], Sequence[Exception]]:
    """All of them, of whichever kind; and what is wrong with those that are none."""
    given = {field: messages for field in SAMPLES if (messages := getattr(request, field))}
    total = sum(map(len, given.values()))
    if total > MOST:
        raise InvalidRequest("", f"must be at most {MOST} samples, and are {total}: send several batches")
    good: list[Post] = []
    refused: list[Exception] = []
    for field, messages in given.items():
        kind = SAMPLES[field]
        if (taken := decode.samples(kind, messages)) is None:
            taken, problems = _one_by_one(field, kind, messages)
            refused += problems
        good.append(Post(kind, taken))
    return good, refused


def _one_by_one(field: str, kind: type[Any], messages: Iterable[Any]) -> tuple[list[Posted], list[Exception]]:
    good: list[Posted] = []
    refused: list[Exception] = []
    for place, each in enumerate(messages):
        try:
            good.append(decode.sample(kind, each))
        except InvalidRequest as refusal:
            refused.append(_at(f"{field}[{place}]", refusal))
    return good, refused
