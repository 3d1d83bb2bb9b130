"""What schemathesis makes of the description of HTTP, right and wrong, for a manager in a process of its own: each
answer is one that is described, and none shows anything of ours."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext, Response
from schemathesis.engine import events, from_schema

from manager.pb import fleet_pb2 as fleet_pb
from manager.pb import instance_manager_pb2 as pb
from manager.settings import Transport
from tests.credentials import bearing
from tests.fuzz.amount import LONG, REQUESTS, SEED, chance
from tests.fuzz.openapi import HOST, ID, WIDE, described
from tests.fuzz.strategies import WHOLE
from tests.fuzz.target import Target
from tests.wire.asker import ask
from tests.wire.caller import VERSION, calling

EACH = REQUESTS // 50  # of every method and page, beside one for each thing that can be wrong with what it takes
IDS = [str(UUID(int=chance("openapi", number).getrandbits(128))) for number in range(60)]
LIVING = IDS[::2]
schemathesis.openapi.format(ID, st.sampled_from(IDS))
schemathesis.openapi.format(HOST, st.sampled_from(["a.example", "b.example"]))
for kind, name in WIDE.items():
    few, most = st.integers(0, 1000), st.integers(*WHOLE[kind])
    schemathesis.openapi.format(name, st.one_of(few, st.sampled_from(WHOLE[kind]), most).map(str))

CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
PATIENCE = 20.0  # seconds for an answer
KEPT = 1000  # bytes of an answer, for whoever looks at a failure: they are judged before
SHOWN = 10  # failures


def settings(it: Target) -> schemathesis.Config:
    """Right and wrong requests, in the order of the description. Nothing is learnt from answers, so that a seed brings
    the same again."""
    seeded = {"operation-ordering": "none", "extra-data-sources": {"responses": False}}
    phases = {
        "examples": {"enabled": False},  # the description has none, and no links either
        "coverage": {**seeded, "unexpected-methods": ["delete"]},
        "fuzzing": {**seeded, "error-feedback": {"enabled": False}},
        "stateful": {"enabled": False},
    }
    return schemathesis.Config.from_dict(
        {
            "seed": SEED,
            "base-url": f"http://{it.http}",
            "headers": {"authorization": f"Bearer {it.token}"},
            "request-timeout": PATIENCE,
            "continue-on-failure": True,
            "generation": {"max-examples": EACH, "database": "none"},
            "phases": phases,
            "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
            "cache": {"enabled": False},
            "output": {"truncation": {"max-recorded-payload-size": KEPT}},
        }
    )


class Asked:
    """What came of all that was asked: the statuses of each method and page, and what was wrong with any answer."""

    def __init__(self, it: Target) -> None:
        self._it = it
        self.answers: dict[str, Counter[int]] = {}
        self.wrong: list[str] = []

    def run(self, description: dict[str, Any]) -> None:
        """Asks, to the end."""
        schema = schemathesis.openapi.from_dict(description, config=settings(self._it))

        @schema.hook
        def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
            self._judge(case, response)

        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                nodes = (node.failure_info for nodes in event.recorder.checks.values() for node in nodes)
                self.wrong += (f"{each.failure!r:.1000}\n{each.code_sample:.1000}" for each in nodes if each)
            elif isinstance(event, events.NonFatalError | events.FatalError):  # no answer is one
                self.wrong.append(repr(event))

    def _judge(self, case: Case[Any], response: Response) -> None:
        judge, status, label = self._it.judge, response.status_code, case.operation.label
        self.answers.setdefault(label, Counter())[status] += 1
        what = (label, response.request.url, repr(response.request.body)[:300])
        try:
            judge.answer(what, repr(response.headers).encode() + response.content)
            if status >= 400 and response.content:
                judge.refusal_over_http(what, status, response.headers["content-type"][0], response.content)
        except AssertionError as error:
            self.wrong.append(str(error))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("it", [Transport.NATIVE], indirect=True, ids=str)  # HTTP is the same beside either
async def test_every_answer_over_http_is_one_that_is_described(it: Target) -> None:
    async with calling(it.grpc, (*VERSION, *bearing(it.token))) as caller:
        living = [pb.InstanceDescription(instance_id=each, instance_type=pb.VLLM) for each in LIVING]
        added = await caller.fleet.AddInstances(fleet_pb.AddInstancesRequest(instances=living))
        assert all(each.answer.value for each in added.outcomes)
    description, asked = described(), Asked(it)
    await asyncio.to_thread(asked.run, description)
    assert not asked.wrong, "\n".join((f"{len(asked.wrong)}:", *asked.wrong[:SHOWN]))
    it.check()
    assert (await ask(it.http, "/healthz")).text == "serving\n"
    assert len(asked.answers) == len(description["paths"])
    answered = [label for label, statuses in asked.answers.items() if statuses[200]]
    assert len(answered) > 0.9 * len(asked.answers), asked.answers.keys() - set(answered)
    assert all(statuses[400] > 10 for label, statuses in asked.answers.items() if label.startswith("POST"))
    if LONG:
        print(f"\n{sum(each.total() for each in asked.answers.values())} answers, peak {it.peak >> 20} MiB", end=" ")
