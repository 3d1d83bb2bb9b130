"""Who is given the token of an instance: whoever registered it, also when the history of that is gone."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from manager.domain.actor import Actor
from manager.domain.calls import Registration
from manager.domain.instance import InstanceType
from manager.domain.token import digest, new_token
from manager.ids import new_id
from manager.repository import tokens, trail, trim
from manager.repository.tokens import Mint
from manager.repository.trim import Retention
from tests.fleet import Fleet

DAY = timedelta(days=1)


async def minted(fleet: Fleet, registrar: str, registered: Sequence[Any]) -> list[bool]:
    """For which of these a token was made when `registrar` asked for all at once."""
    wanted = [Mint(each["id"], each["created_revision"], registrar, digest(new_token())) for each in registered]
    async with fleet.connections.readers.use() as connection:
        made = await tokens.mint(connection, wanted)
    return [each.hash in made for each in wanted]


async def noted(fleet: Fleet) -> None:
    """A row of the trail that has no revision."""
    async with fleet.connections.upkeep.use() as connection, connection.begin():
        await trail.note(connection, "GRACE", Actor("an operator"), "a network is mended")


async def forgotten(fleet: Fleet) -> None:
    """The history is trimmed to none."""
    await fleet.sql.execute("update event set at = at - interval '8 days'")
    async with fleet.connections.upkeep.use() as connection:
        await trim.keep(connection, Retention(DAY, 7 * DAY, 30 * DAY))
        while await trim.step(connection):
            pass
    assert await fleet.value("select count(*) from event") == 0


async def forgotten_once(fleet: Fleet) -> None:
    """The same, where it has not happened yet."""
    if await fleet.value("select count(*) from event"):
        await forgotten(fleet)


async def registered_by_two(fleet: Fleet) -> tuple[list[Any], list[Any]]:
    """By ann, whose turns are of one and of many, and by ben, once in a turn of hers; among other acts."""
    await noted(fleet)
    for length in (1, 5, 1, 1):
        fleet.actor = "ann"
        await fleet.chain(length)
        await noted(fleet)
    mixed = [Registration(new_id(), InstanceType.VLLM, actor=Actor(who)) for who in ("ann", "ben", "ann")]
    await fleet.do(*mixed)
    await fleet.kill(mixed[0].id)
    await noted(fleet)
    await noted(fleet)
    rows = await fleet.rows("select id, created_revision from instance order by created_revision")
    assert len(rows) == 11
    return [each for each in rows if each["id"] != mixed[1].id], [each for each in rows if each["id"] == mixed[1].id]


async def test_whoever_registered_an_instance_is_given_its_token_as_long_as_the_trail_tells(fleet: Fleet) -> None:
    anns, bens = await registered_by_two(fleet)
    for _ in range(2):
        assert await minted(fleet, "ann", anns) == [True] * len(anns)
        assert await minted(fleet, "ben", bens) == [True]
        await forgotten_once(fleet)


async def test_nobody_else_is_given_it_whether_the_history_tells_or_the_trail(fleet: Fleet) -> None:
    anns, bens = await registered_by_two(fleet)
    for _ in range(2):
        assert await minted(fleet, "ann", bens) == [False]
        assert await minted(fleet, "ben", anns) == [False] * len(anns)
        assert await minted(fleet, "an operator", [*anns, *bens]) == [False] * 11
        await forgotten_once(fleet)


async def test_of_one_call_each_is_judged_by_itself(fleet: Fleet) -> None:
    anns, bens = await registered_by_two(fleet)
    for _ in range(2):
        mixed = [*anns[:6], *bens, *anns[6:]]
        assert await minted(fleet, "ann", mixed) == [each not in bens for each in mixed]
        await forgotten_once(fleet)


async def test_a_revision_that_nothing_tells_of_makes_none(fleet: Fleet) -> None:
    anns, _ = await registered_by_two(fleet)
    await forgotten(fleet)
    wrong = [{"id": each["id"], "created_revision": number} for each, number in zip(anns, (0, 3, 10**9), strict=False)]
    assert await minted(fleet, "ann", wrong) == [False] * 3


async def test_a_trail_of_nothing_makes_none(fleet: Fleet) -> None:
    assert await minted(fleet, "ann", [{"id": new_id(), "created_revision": 1}]) == [False]
