"""What each caller may ask for, at the wire: by the class of the call, over gRPC and HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from grpc import StatusCode, aio

from manager.domain.principal import Role
from manager.ids import new_id
from manager.pb import fleet_pb2
from manager.pb import instance_manager_pb2 as pb
from manager.server import Serving
from manager.settings import Settings
from manager.wire.quotas import ITEMS, KIND_OF, Kind, Quotas
from manager.wire.rights import RIGHTS
from tests.conftest import Database, serving
from tests.credentials import bearing, granted
from tests.wire.asker import ask, call
from tests.wire.caller import METHODS, VERSION, Caller, Refused, outcome, path, refusal
from tests.wire.fleet import description, request
from tests.wire.test_deadlines import LOCKED, held, waiting

SECOND = timedelta(seconds=1)


def test_every_method_of_the_table_is_of_a_class() -> None:
    assert KIND_OF.keys() == RIGHTS.keys()


def test_what_brings_many_is_charged_for_each() -> None:
    batches = {path(each) for each in METHODS if each.input_type.name.endswith(("Batch", "InstancesRequest"))}
    assert ITEMS.keys() == batches - {path(each) for each in METHODS if each.input_type.name == "InstancesAtRequest"}


def test_a_quota_of_nought_is_none() -> None:
    free = {f"quota_{kind}": 0 for kind in Kind}
    quotas = Quotas(Settings().model_copy(update={**free, "lists_at_once": 0}))
    for method in RIGHTS:
        quota = quotas.of(method)
        assert (quota.buckets, quota.streams, quota.crowd) == (None, None, None)


@dataclass(frozen=True)
class Asking:
    """A manager that asks who calls, and two who do."""

    serving: Serving
    ann: Caller
    ben: Caller
    token: str  # ann's

    async def shown(self) -> str:
        """Its metrics, for which ann pays."""
        return (await ask(self.serving.http[0], "/metrics", authorization=f"Bearer {self.token}")).text


class Bearing(aio.UnaryUnaryClientInterceptor):
    """Shows a token with every single call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.metadata = metadata

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = client_call_details._replace(metadata=aio.Metadata(*self.metadata), timeout=10)
        return await continuation(details, request)


@asynccontextmanager
async def asking(settings: Settings, database: Database, **quotas: Any) -> AsyncIterator[Asking]:
    """With these quotas, and a second of them at once."""
    chosen = settings.model_copy(update={"auth": True, "quota_burst": SECOND, **quotas})
    tokens = [await granted(database, Role.ADMIN) for _ in range(2)]
    async with serving(chosen) as started:
        channels = [
            aio.insecure_channel(started.addresses[0], interceptors=[Bearing((*VERSION, *bearing(each)))])
            for each in tokens
        ]
        yield Asking(started, Caller(channels[0]), Caller(channels[1]), tokens[0])
        for each in channels:
            await each.close()


async def test_who_has_used_up_his_quota_is_told_when_to_come_again_and_nobody_else_is(
    settings: Settings, database: Database
) -> None:
    async with asking(settings, database, quota_reads=2) as it:
        asked = request(str(new_id()))
        ended = [await refusal(it.ann.gets.GetInstance(asked)) for _ in range(3)]
        assert [each.code for each in ended[:2]] == [StatusCode.NOT_FOUND] * 2
        assert ended[2].code is StatusCode.RESOURCE_EXHAUSTED
        assert 0 < ended[2].retries[0] <= 0.5
        http = {"authorization": f"Bearer {it.token}"}
        answer = await call(it.serving.http[0], "GetService/GetInstance", {"instance_id": str(new_id())}, **http)
        assert (answer.status, answer.json["code"]) == (429, "resource_exhausted")
        assert (await refusal(it.ben.gets.GetInstance(asked))).code is StatusCode.NOT_FOUND
        assert (await it.ann.tries.TryAddInstance(description())).value  # another class
        await asyncio.sleep(ended[2].retries[0] + 0.5)
        assert (await refusal(it.ann.gets.GetInstance(asked))).code is StatusCode.NOT_FOUND


async def test_a_batch_is_charged_for_each_of_its_items(settings: Settings, database: Database) -> None:
    async with asking(settings, database, quota_registrations=10) as it:
        batch = fleet_pb2.AddInstancesRequest(instances=[description() for _ in range(30)])
        assert len((await it.ann.fleet.AddInstances(batch)).outcomes) == 30
        told = await refusal(it.ann.tries.TryAddInstance(description()))
        assert told.code is StatusCode.RESOURCE_EXHAUSTED
        assert 1 < told.retries[0] <= 2.1
        shown = await it.shown()
    assert 'im_quota_refused_total{kind="registrations"} 1.0' in shown
    assert 'im_quota_callers{kind="registrations"} 1.0' in shown


async def test_health_checks_on_a_stream_are_charged_for_and_end_it_beyond_the_quota(
    settings: Settings, database: Database
) -> None:
    async with asking(settings, database, quota_checks=10) as it:
        metadata = (*VERSION, *bearing(it.token))
        batch = fleet_pb2.HealthCheckBatch(instance_ids=[str(new_id()) for _ in range(30)])
        stream: Any = it.ann.fleet.HealthChecks(iter([batch, batch]), metadata=metadata, timeout=10)
        assert len((await stream.read()).outcomes) == 30
        told = await outcome(stream.read())
        assert isinstance(told, Refused)
        assert told.code is StatusCode.RESOURCE_EXHAUSTED
        assert told.retries


async def test_a_caller_has_so_many_streams_open_over_grpc_and_http_together(
    settings: Settings, database: Database
) -> None:
    async with asking(settings, database, quota_streams=1) as it:
        metadata = (*VERSION, *bearing(it.token))

        def watching() -> Any:
            return it.ann.fleet.WatchInstances(pb.SubscribeRequest(send_bookmarks=True), metadata=metadata, timeout=10)

        first = watching()
        await first.read()
        told = await refusal(watching().read())
        assert (told.code, told.retries) == (StatusCode.RESOURCE_EXHAUSTED, [1.0])
        answer = await ask(it.serving.http[0], "/live", authorization=f"Bearer {it.token}")
        assert (answer.status, answer.json["message"]) == (429, told.message)
        first.cancel()
        async with asyncio.timeout(5):
            while isinstance(await outcome(watching().read()), Refused):
                await asyncio.sleep(0.05)


async def test_so_many_large_reads_are_under_way_whoever_asks(settings: Settings, database: Database) -> None:
    async with (
        serving(settings.model_copy(update={"lists_at_once": 1})) as started,
        aio.insecure_channel(started.addresses[0]) as channel,
    ):

        def listed() -> Any:
            return Caller(channel).gets.GetAllInstances(pb.InstanceFilter(), metadata=VERSION, timeout=10)

        async with held(database, LOCKED):
            first = listed()
            await waiting(database, "reads", some=True)
            told = await refusal(listed())
            assert (told.code, told.retries) == (StatusCode.RESOURCE_EXHAUSTED, [1.0])
        await first
        await listed()
        shown = (await ask(started.http[0], "/metrics")).text
        assert "im_lists_refused_total 1.0" in shown
        assert "im_lists_under_way 0.0" in shown
