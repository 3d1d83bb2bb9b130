"""Whatever bytes come: a value or a refusal in our own words, at once; never an exception of another kind."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.domain.refusals import Refusal
from tests.fuzz.amount import INPUTS, chance
from tests.fuzz.decoders import BINARY, JSON, OTHERS, READ, Decoder
from tests.fuzz.judge import LONGEST, leak
from tests.fuzz.spoiler import Spoiler
from tests.fuzz.strategies import documents, messages
from tests.wire.caller import METHODS

LINES = (b"90s", b"@120", b"a=b", b"CHROME_DEBUG_PORT=[::1]:9222/x", b"2026-01-31T12:00:00Z", b"[::1]:1,b:2", b"-1h")
HEADERS: tuple[bytes, ...] = (
    b"Bearer imt_" + b"a" * 49,
    b"im_session=imt_x; a=b",
    b"[::1]:50053",
    b"http://127.0.0.1:1",
    b"100m",
    b"A" * 40,
)
HEADERS += (b"service_type=CHROME_DEBUG_PORT&hostname=a%00b&type=%ff", b"application/openmetrics-text; version=1.0.0")
HEADERS += (b"text/plain; version=1.x; escaping=\xff", b'im_session="imt_\\303\\377"; $Path=x; expires=1', b"AQ" * 24)


def tried(decoder: Decoder, content: bytes) -> None:
    """A value, or a refusal that is fit to be shown."""
    told = ""
    try:
        decoder(content)
    except Refusal as refusal:
        told = str(refusal)
    assert leak(told) is None, (leak(told), told, content)
    assert told.isprintable(), (told, content)
    assert len(told) <= LONGEST, (len(told), content)


def test_every_method_is_read_here() -> None:
    assert READ.keys() == {each.name for each in METHODS}


# a million at random: the contract's bytes, its JSON, and all that is not of the contract, a third each

EACH = INPUTS // 3


@pytest.mark.timeout(3600)
def test_no_bytes_of_a_request_end_in_a_fault_of_ours() -> None:
    of = list(BINARY.values())
    spoiler = Spoiler(chance("binary"))
    for number in range(EACH):
        method, decoder = of[number % len(of)]
        tried(decoder, spoiler.request(method.input_type))


@pytest.mark.timeout(3600)
def test_no_json_of_a_request_ends_in_a_fault_of_ours() -> None:
    of, random = list(JSON.values()), chance("json")
    spoiler = Spoiler(random)
    for number in range(EACH):
        method, decoder = of[number % len(of)]
        tried(decoder, spoiler.json(method.input_type))


@pytest.mark.timeout(3600)
def test_no_token_no_header_and_no_argument_ends_in_a_fault_of_ours() -> None:
    of, random = list(OTHERS.values()), chance("others")
    spoiler = Spoiler(random)
    for number in range(EACH):
        seeds = random.choice((LINES, HEADERS, (spoiler.token(),)))
        tried(of[number % len(of)], spoiler.damaged(random.choice(seeds)))


# the same by Hypothesis, which finds fewer and shows the smallest

derandomized = settings(
    derandomize=True, max_examples=max(50, INPUTS // 200), deadline=None, suppress_health_check=list(HealthCheck)
)


@derandomized
@given(sent=st.sampled_from(METHODS).flatmap(lambda each: st.tuples(st.just(each), messages(each.input_type))))
@pytest.mark.timeout(3600)
def test_no_message_ends_in_a_fault_of_ours(sent: tuple[Any, Message]) -> None:
    tried(BINARY[sent[0].name][1], sent[1].SerializeToString())


@derandomized
@given(sent=st.sampled_from(METHODS).flatmap(lambda each: st.tuples(st.just(each), documents(each.input_type))))
@pytest.mark.timeout(3600)
def test_no_document_ends_in_a_fault_of_ours(sent: tuple[Any, object]) -> None:
    tried(JSON[sent[0].name][1], json.dumps(sent[1]).encode())


@derandomized
@given(name=st.sampled_from(sorted(OTHERS)), content=st.binary(max_size=80))
@pytest.mark.timeout(3600)
def test_no_text_ends_in_a_fault_of_ours(name: str, content: bytes) -> None:
    tried(OTHERS[name], content)


# how long one may take: everybody else waits for it

MEBIBYTE = 2**20
AT_MOST = 0.2  # seconds of this process; a batch of 10,000 registrations is the most that is meant to be read at once


def swollen() -> Iterator[Any]:
    """For each method, and each field of its request that may come often: a mebibyte of that, right and wrong."""
    for method in METHODS:
        for field in method.input_type.fields:
            if field.is_repeated:
                yield pytest.param(method.name, field, id=f"{method.name}-{field.name}")


@pytest.mark.parametrize(("name", "field"), list(swollen()))
def test_a_mebibyte_of_many_small_things_is_read_or_refused_at_once(name: str, field: Any) -> None:
    method, decoder = BINARY[name]
    spoiler = Spoiler(chance("swollen", name, field.name))
    for one in (spoiler.plain(field), spoiler.plain(field, empty=True)):
        for end in (b"", b"\xff", spoiler.not_utf8(method.input_type)):
            content = one * (MEBIBYTE // len(one)) + end
            taken: list[float] = []
            while not taken or (min(taken) >= AT_MOST and len(taken) < 5):  # whatever else the machine does only adds
                begun = time.process_time()
                tried(decoder, content)
                taken.append(time.process_time() - begun)
            assert min(taken) < AT_MOST, (one, end)
