"""GetService: the living alone, each filter by itself and with every other, and pages that miss nobody."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import Any

import grpc
import pytest

from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from tests.wire.caller import Refused, refusal
from tests.wire.fleet import Fleet, debug_port, request

LABEL = {"of": "this test"}


async def ids(fleet: Fleet, **criteria: Any) -> list[str]:
    """Who is in the list of all that match, in its order."""
    found = await fleet.caller.gets.GetAllInstances(pb.InstanceFilter(**criteria))
    return [each.instance_id for each in found.instances]


# single instances

ONE: dict[str, Callable[[Fleet, str], Awaitable[object]]] = {
    "GetInstance": lambda fleet, of: fleet.caller.gets.GetInstance(request(of)),
    "GetHealthCheck": lambda fleet, of: fleet.caller.gets.GetHealthCheck(request(of)),
    "GetParent": lambda fleet, of: fleet.caller.gets.GetParent(request(of)),
    "GetChildren": lambda fleet, of: fleet.caller.gets.GetChildren(request(of)),
    "GetProxyMetrics": lambda fleet, of: fleet.caller.gets.GetProxyMetrics(request(of)),
    "GetSystemMetrics": lambda fleet, of: fleet.caller.gets.GetSystemMetrics(request(of)),
    "GetGpuMetrics": lambda fleet, of: fleet.caller.gets.GetGpuMetrics(request(of)),
    "GetLlmMetrics": lambda fleet, of: fleet.caller.gets.GetLlmMetrics(request(of)),
}


def test_every_question_about_one_instance_is_asked_below() -> None:
    service = pb.DESCRIPTOR.services_by_name["GetService"]
    asked = {each.name for each in service.methods if each.input_type.name == "InstanceRequest"}
    assert asked == set(ONE)


@pytest.mark.parametrize("question", ONE.values(), ids=ONE)
async def test_the_unknown_the_stale_and_the_dead_are_not_found_and_not_told_apart(
    fleet: Fleet, question: Callable[[Fleet, str], Awaitable[object]]
) -> None:
    stale, dead, (parent, orphan) = await fleet.add(), await fleet.add(), await fleet.chain(2)
    await fleet.age(stale)
    await fleet.kill(dead)
    await fleet.kill(parent)
    for instance in (str(new_id()), stale, dead, orphan):
        answer = await refusal(question(fleet, instance))
        assert answer == Refused(
            grpc.StatusCode.NOT_FOUND, f"no instance {instance} is registered and alive", details=()
        )


async def test_an_instance_is_found_with_its_services_by_its_id_in_either_case(fleet: Fleet) -> None:
    services = [debug_port(9222, path="/devtools"), debug_port(9223)]
    instance = await fleet.add(services=services)
    found = await fleet.get(instance.upper())
    assert (found.instance_id, list(found.services)) == (instance, services)


async def test_a_health_check_is_told_with_the_time_at_which_it_is_too_old(fleet: Fleet) -> None:
    await fleet.database.run("update control set grace_from = null, grace_until = null")
    instance = await fleet.add(timeout_ms=20_000)
    check = await fleet.caller.gets.GetHealthCheck(request(instance))
    last = (await fleet.get(instance)).last_health_check_ms
    assert (check.last_health_check_ms, check.deadline_ms, check.healthy) == (last, last + 22_000, True)


async def test_the_parent_is_told_or_none(fleet: Fleet) -> None:
    top, bottom = await fleet.chain(2)
    assert (await fleet.caller.gets.GetParent(request(bottom))).instance == await fleet.get(top)
    assert not (await fleet.caller.gets.GetParent(request(top))).HasField("instance")


async def test_a_stale_parent_is_in_no_answer(fleet: Fleet) -> None:
    top, bottom = await fleet.chain(2)
    await fleet.age(top)
    assert not (await fleet.caller.gets.GetParent(request(bottom))).HasField("instance")


async def test_children_are_the_direct_and_living_ones(fleet: Fleet) -> None:
    top = await fleet.add()
    first, second, stale, dead = [await fleet.add(parent_id=top) for _ in range(4)]
    await fleet.add(parent_id=first)
    await fleet.age(stale)
    await fleet.kill(dead)
    children = await fleet.caller.gets.GetChildren(request(top))
    assert list(children.instances) == [await fleet.get(each) for each in sorted((first, second))]
    assert (await fleet.caller.gets.GetChildren(request(second))).instances == []


# lists


@dataclass
class Model:
    """What one instance is, and whom it is below."""

    description: pb.InstanceDescription
    above: set[str] = field(default_factory=set)


Judge = Callable[[Model], bool]


async def population(fleet: Fleet) -> dict[str, Model]:
    """Twenty instances that differ in everything that a filter can ask for."""
    kinds = [pb.CHROME_BROWSER, pb.VLLM, pb.BROWSER_BACKEND]
    models: dict[str, Model] = {}
    for place in range(20):
        parent = list(models)[place // 3] if place % 4 else ""
        instance = await fleet.add(
            instance_type=kinds[place % 3],
            hostname=["alpha", "beta", ""][place % 3 - place % 2],
            labels={**LABEL, **({"pool": "a"} if place % 2 else {}), **({"zone": "1"} if place % 5 else {})},
            services=[debug_port()] * (place % 3 == 1) + [vllm()] * (place % 4 == 1),
            parent_id=parent,
        )
        above = {instance} | (models[parent].above if parent else set())
        models[instance] = Model(await fleet.get(instance), above)
    return models


def vllm() -> pb.Service:
    return pb.Service(service_type=pb.VLLM_OPENAI_COMPATIBLE, host="10.0.0.2", port=8000)


def criteria(models: dict[str, Model]) -> dict[str, tuple[object, Judge]]:
    """For each field of the filter a value and what it means."""
    every = sorted(models)
    parent = next(each for each in models if any(other.description.parent_id == each for other in models.values()))
    prefix = every[0][:36].rstrip("0123456789abcdef")[:13]
    some = every[: len(every) * 2 // 3]
    return {
        "ids": ([*some, str(new_id())], lambda one: one.description.instance_id in some),
        "id_prefix": (prefix.upper(), lambda one: one.description.instance_id.startswith(prefix)),
        "types": (
            [pb.VLLM, pb.CHROME_BROWSER],
            lambda one: one.description.instance_type in (pb.VLLM, pb.CHROME_BROWSER),
        ),
        "service_types": (
            [pb.VLLM_OPENAI_COMPATIBLE, pb.CHROME_DEBUG_PORT],
            lambda one: bool(one.description.services),
        ),
        "hostnames": (["beta", "", "nobody's"], lambda one: one.description.hostname in ("beta", "")),
        "labels": ({**LABEL, "pool": "a"}, lambda one: one.description.labels.get("pool") == "a"),
        "parent_id": (parent, lambda one: one.description.parent_id == parent),
        "subtree_of": (parent, lambda one: parent in one.above),
    }


def subsets(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    every = sorted(names)
    return chain.from_iterable(combinations(every, size) for size in range(len(every) + 1))


async def test_each_filter_alone_and_with_every_other_gives_exactly_what_matches(lone: Fleet) -> None:
    models = await population(lone)
    given = criteria(models)
    fields = set(pb.InstanceFilter.DESCRIPTOR.fields_by_name)
    assert set(given) == fields - {"page_size", "page_token"}
    for names in subsets(given):
        found = await ids(lone, **{name: given[name][0] for name in names})
        expected = sorted(each for each, model in models.items() if all(given[name][1](model) for name in names))
        assert [each for each in found if each != lone.serving.instance_id] == expected, names


async def test_a_list_gives_each_instance_as_it_is_found_alone(lone: Fleet) -> None:
    models = await population(lone)
    found = await lone.caller.gets.GetAllInstances(pb.InstanceFilter(labels=LABEL))
    assert list(found.instances) == [models[each].description for each in sorted(models)]
    assert found.revision == await lone.head()
    assert found.resume_token
    assert not found.next_page_token


async def test_the_stale_and_the_dead_are_in_no_list_and_come_back_by_a_health_check(fleet: Fleet) -> None:
    healthy, stale, dead = [await fleet.add(labels={"list": "liveness"}) for _ in range(3)]
    await fleet.age(stale)
    await fleet.kill(dead)
    for given in ({"labels": {"list": "liveness"}}, {"ids": [healthy, stale, dead]}):
        assert await ids(fleet, **given) == [healthy]
    await fleet.caller.tries.TryHealthCheck(request(stale))
    assert await ids(fleet, labels={"list": "liveness"}) == sorted((healthy, stale))


async def test_the_subtree_of_the_stale_is_there_without_it_and_that_of_the_dead_is_empty(fleet: Fleet) -> None:
    top, middle, bottom = await fleet.chain(3)
    await fleet.age(middle)
    assert await ids(fleet, subtree_of=top) == [top, bottom]
    assert await ids(fleet, subtree_of=middle) == await ids(fleet, parent_id=middle) == [bottom]
    await fleet.kill(middle)
    assert await ids(fleet, subtree_of=middle) == await ids(fleet, parent_id=middle) == []
    assert await ids(fleet, subtree_of=str(new_id())) == []


@pytest.mark.parametrize("length", range(1, 37))
async def test_an_id_is_found_by_any_beginning_of_it(fleet: Fleet, length: int) -> None:
    instance = await fleet.add()
    assert instance in await ids(fleet, id_prefix=instance[:length])
    other = "f" if instance[0] != "f" else "e"
    assert instance not in await ids(fleet, id_prefix=other + instance[1:length])


# pages


async def pages(fleet: Fleet, size: int, between: Callable[[], Awaitable[None]] | None = None) -> list[pb.InstanceList]:
    """All pages of the instances of this test, with something happening between any two."""
    wanted = pb.InstanceFilter(labels=LABEL, page_size=size)
    read = [await fleet.caller.gets.GetAllInstances(wanted)]
    while read[-1].next_page_token:
        if between:
            await between()
        wanted.page_token = read[-1].next_page_token
        read.append(await fleet.caller.gets.GetAllInstances(wanted))
    return read


def shown(read: list[pb.InstanceList]) -> list[str]:
    return [each.instance_id for page in read for each in page.instances]


@pytest.mark.parametrize("size", [1, 3, 19, 20, 21, 10_000])
async def test_pages_together_are_the_list(lone: Fleet, size: int) -> None:
    models = await population(lone)
    read = await pages(lone, size)
    assert shown(read) == sorted(models)
    assert all(len(page.instances) <= size for page in read)
    assert len(read) == -(-20 // size)
    assert len({page.revision for page in read}) == len({page.resume_token for page in read}) == 1


async def test_over_the_pages_who_stays_is_given_once_and_who_came_later_never(lone: Fleet) -> None:
    staying = {await lone.add(labels=LABEL) for _ in range(12)}
    leaving = [await lone.add(labels=LABEL) for _ in range(12)]
    low = iter(f"00000000-0000-7000-8000-{place:012x}" for place in range(100))
    high = iter(f"ffffffff-ffff-7fff-bfff-{place:012x}" for place in range(100))
    later: set[str] = set()

    async def churn() -> None:
        await lone.kill(leaving.pop())
        later.update([await lone.add(next(low), labels=LABEL), await lone.add(next(high), labels=LABEL)])

    read = await pages(lone, 4, churn)
    given = shown(read)
    assert len(given) == len(set(given))
    assert staying <= set(given)
    assert not later & set(given)
    assert len({page.revision for page in read}) == 1


async def test_who_ceases_to_match_between_pages_does_no_harm(lone: Fleet) -> None:
    every = sorted([await lone.add(labels=LABEL) for _ in range(9)])

    async def change() -> None:
        await lone.age(every[4])
        for gone in (every[0], every[8]):
            await lone.caller.tries.TryUpdateInstance(
                pb.InstanceDescription(instance_id=gone, instance_type=pb.CHROME_BROWSER)
            )

    given = shown(await pages(lone, 2, change))
    assert len(given) == len(set(given))
    assert set(every) - {every[0], every[4], every[8]} <= set(given)


async def test_a_page_token_is_for_its_own_filter_alone(fleet: Fleet) -> None:
    labels = {"token": "of one filter", "and": "another label"}
    for _ in range(2):
        await fleet.add(labels=labels)
    first = await fleet.caller.gets.GetAllInstances(pb.InstanceFilter(labels=labels, page_size=1))
    other = pb.InstanceFilter(labels=labels, hostnames=[""], page_size=1, page_token=first.next_page_token)
    answer = await refusal(fleet.caller.gets.GetAllInstances(other))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])
    same = pb.InstanceFilter(labels=dict(reversed(labels.items())), page_size=500, page_token=first.next_page_token)
    assert len((await fleet.caller.gets.GetAllInstances(same)).instances) == 1


async def test_what_is_no_page_token_is_refused(fleet: Fleet) -> None:
    for _ in range(2):
        await fleet.add(labels={"token": "real"})
    wanted = pb.InstanceFilter(labels={"token": "real"}, page_size=1)
    token = (await fleet.caller.gets.GetAllInstances(wanted)).next_page_token
    for wrong in (b"x", token[:-1], token + b"\0", b"\x02" + token[1:], b"\0" * len(token), b"\xff" * len(token)):
        wanted.page_token = wrong
        answer = await refusal(fleet.caller.gets.GetAllInstances(wanted))
        assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])
    without_size = pb.InstanceFilter(labels={"token": "real"}, page_token=token)
    answer = await refusal(fleet.caller.gets.GetAllInstances(without_size))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize("size", [-1, 10_001, 2**31 - 1, -(2**31)])
async def test_a_page_is_of_one_to_ten_thousand(fleet: Fleet, size: int) -> None:
    answer = await refusal(fleet.caller.gets.GetAllInstances(pb.InstanceFilter(page_size=size)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_size"])


async def test_a_page_token_of_another_history_says_so(lone: Fleet) -> None:
    for _ in range(2):
        await lone.add(labels=LABEL)
    wanted = pb.InstanceFilter(labels=LABEL, page_size=1)
    wanted.page_token = (await lone.caller.gets.GetAllInstances(wanted)).next_page_token
    await lone.restore()
    answer = await refusal(lone.caller.gets.GetAllInstances(wanted))
    assert (answer.code, answer.reasons) == (grpc.StatusCode.FAILED_PRECONDITION, ["EPOCH_CHANGED"])


# what is too much for one answer

MANY = """
with added as (
    insert into instance (id, type, hostname, labels, timeout, digest, created_at, created_revision, updated_revision)
    select gen_random_uuid(), 1, $1, cast($2 as jsonb), interval '30 s', sha256(''), clock_timestamp(), 1, 1
    from generate_series(1, cast($3 as integer))
    returning id
)
insert into heartbeat (instance_id, timeout, last_seen) select id, interval '30 s', clock_timestamp() from added
"""


async def test_without_a_page_size_ten_thousand_are_given_and_one_more_is_too_many(lone: Fleet) -> None:
    await lone.database.run(MANY, "many", "{}", 10_000)
    assert len(await ids(lone, hostnames=["many"])) == 10_000
    await lone.add(hostname="many")
    answer = await refusal(lone.caller.gets.GetAllInstances(pb.InstanceFilter(hostnames=["many"])))
    assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "use page_size" in answer.message
    assert answer.retries == []
    page = pb.InstanceFilter(hostnames=["many"], page_size=10_000)
    first = await lone.caller.gets.GetAllInstances(page)
    page.page_token = first.next_page_token
    assert [len(first.instances), len((await lone.caller.gets.GetAllInstances(page)).instances)] == [10_000, 1]


FAT = "{" + ",".join(f'"{place:063}":"{"é" * 255}"' for place in range(32)) + "}"


async def test_an_answer_holds_three_mebibytes_and_a_page_fewer_instances_when_they_are_full(lone: Fleet) -> None:
    await lone.database.run(MANY, "fat", FAT, 200)
    answer = await refusal(lone.caller.gets.GetAllInstances(pb.InstanceFilter(hostnames=["fat"])))
    assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "use page_size" in answer.message
    page = pb.InstanceFilter(hostnames=["fat"], page_size=10_000)
    first = await lone.caller.gets.GetAllInstances(page)
    page.page_token = first.next_page_token
    second = await lone.caller.gets.GetAllInstances(page)
    assert 2.9 * 2**20 < first.ByteSize() <= 3 * 2**20
    assert len(set(shown([first, second]))) == len(shown([first, second])) == 200
    assert not second.next_page_token


async def test_too_many_children_for_one_answer_are_to_be_listed_in_pages(lone: Fleet) -> None:
    parent = await lone.add()
    await lone.database.run(MANY, "child", "{}", 10_001)
    await lone.database.run(
        "insert into parent_link (child_id, parent_id, revision) select id, $1, 1 from instance where hostname = $2",
        parent,
        "child",
    )
    answer = await refusal(lone.caller.gets.GetChildren(request(parent)))
    assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "GetAllInstances" in answer.message
    assert "use page_size" in answer.message
