"""Offers: services that are found by others."""

import asyncio

import pytest

from manager.domain.calls import Offer, Outcome, Reason
from manager.domain.instance import Service, ServiceType
from manager.domain.refusals import InvalidRequest
from manager.presence import new_id
from manager.repository.offer import LIMIT
from tests.fleet import Fleet, service


async def test_a_service_is_added_with_an_event_that_names_it(fleet: Fleet) -> None:
    one = await fleet.add()
    assert await fleet.offer(one, service(9222, path="/devtools")) == Outcome.done(2)
    (row,) = await fleet.rows("select service_type, host, port, path, revision from service_endpoint")
    assert tuple(row) == ("CHROME_DEBUG_PORT", "10.0.0.1", 9222, "/devtools", 2)
    (row,) = await fleet.rows(
        "select service ->> 'path', jsonb_array_length(before -> 'services'), after = s.state"
        " from event, instance_state s where event.type = 5"
    )
    assert tuple(row) == ("/devtools", 0, True)


async def test_the_same_service_again_gives_the_revision_that_added_it(fleet: Fleet, other: Fleet) -> None:
    one = await fleet.add(services=(service(1),))
    first = await fleet.offer(one, service(2))
    assert await other.do(Offer(one, service(1)), Offer(one, service(2))) == [Outcome.done(1), first]
    assert await fleet.head() == 2


async def test_duplicates_in_one_turn_are_one_service(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    calls = [Offer(one, service(1)), Offer(two, service(1)), Offer(one, service(2)), Offer(one, service(1))]
    assert await fleet.do(*calls) == [Outcome.done(revision) for revision in (3, 4, 5, 3)]


@pytest.mark.parametrize(
    "unlike",
    [
        Service(ServiceType.VLLM_OPENAI_COMPATIBLE, "h", 1, "/p"),
        Service(ServiceType.CHROME_DEBUG_PORT, "i", 1, "/p"),
        Service(ServiceType.CHROME_DEBUG_PORT, "h", 2, "/p"),
        Service(ServiceType.CHROME_DEBUG_PORT, "h", 1, "/q"),
        Service(ServiceType.CHROME_DEBUG_PORT, "h/", 1, "p"),
    ],
    ids=repr,
)
async def test_what_differs_in_anything_is_another_service(fleet: Fleet, unlike: Service) -> None:
    one = await fleet.add(services=(Service(ServiceType.CHROME_DEBUG_PORT, "h", 1, "/p"),))
    assert await fleet.offer(one, unlike) == Outcome.done(2)


async def test_services_keep_the_order_in_which_they_were_added(fleet: Fleet) -> None:
    one = await fleet.add(services=(service(3), service(1)))
    await fleet.do(Offer(one, service(4)), Offer(one, service(2)))
    ports = await fleet.rows("select port from service order by ordinal")
    assert [row["port"] for row in ports] == [3, 1, 4, 2]


async def test_the_33rd_is_refused_naming_the_field_and_leaves_its_turn_alone(fleet: Fleet) -> None:
    one = await fleet.add(services=tuple(service(port) for port in range(1, 31)))
    answers = await fleet.answers(*(Offer(one, service(port)) for port in (31, 32, 33, 5)))
    assert [answers[0], answers[1], answers[3]] == [Outcome.done(2), Outcome.done(3), Outcome.done(1)]
    assert isinstance(answers[2], InvalidRequest)
    assert answers[2].field == "service"
    assert await fleet.value("select count(*) from service") == LIMIT == 32


async def test_the_unknown_and_the_dead_offer_nothing(fleet: Fleet) -> None:
    dead = await fleet.add(services=(service(1),))
    await fleet.kill(dead)
    assert await fleet.do(Offer(new_id(), service()), Offer(dead, service(1))) == [
        Outcome.refused(Reason.UNKNOWN_INSTANCE),
        Outcome.refused(Reason.DEAD),
    ]


async def test_a_path_of_1024_characters_can_be_offered(fleet: Fleet) -> None:
    one = await fleet.add()
    assert (await fleet.offer(one, service(path="ü" * 1024))).reason is None


async def test_two_managers_add_a_service_once(fleet: Fleet, other: Fleet) -> None:
    ids = [await fleet.add() for _ in range(20)]
    calls = [Offer(each, service(port)) for each in ids for port in (1, 2)]
    one, two = await asyncio.gather(fleet.do(*calls), other.do(*calls[::-1]))
    assert one == two[::-1]
    assert await fleet.value("select count(*) from service") == 40
