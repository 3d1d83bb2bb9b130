"""The credentials that are good, in memory: how long they are trusted, how many are kept, who says that they end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from manager.domain.principal import Role
from manager.domain.refusals import Unauthenticated, Unavailable
from manager.domain.token import digest, new_token
from manager.keyring import FORGOTTEN, KEPT, TRUSTED, Keyring
from manager.presence import new_id
from manager.repository import tokens
from manager.repository.database import Database as Connections
from tests.conftest import Database
from tests.credentials import granted, revoked


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def ring_of(database: Database, clock: Clock, most: int = 100) -> AsyncIterator[Keyring]:
    """A keyring that asks by itself only when it has to."""
    connections = Connections(database.url, read_connections=2)
    keyring = Keyring(connections.readers, most=most, clock=clock)
    serving = asyncio.ensure_future(keyring.lane.serve())
    try:
        yield keyring
    finally:
        keyring.lane.close()
        await serving
        await connections.close()


async def test_what_is_known_is_not_looked_up_again(database: Database) -> None:
    token, clock = await granted(database, Role.READER), Clock()
    async with ring_of(database, clock) as keyring:
        assert keyring.known(digest(token)) is None
        principal = await keyring.principal(digest(token))
        assert (principal.role, principal.instance) == (Role.READER, None)
        await database.run("alter table token rename to hidden")
        assert keyring.known(digest(token)) is await keyring.principal(digest(token)) is principal


async def test_a_token_of_an_instance_is_bound_to_it(database: Database) -> None:
    instance = new_id()
    token = await granted(database, Role.INSTANCE, str(instance))
    async with ring_of(database, Clock()) as keyring:
        assert (await keyring.principal(digest(token))).instance == instance


async def test_strangers_are_not_known_and_not_remembered(database: Database) -> None:
    async with ring_of(database, Clock()) as keyring:
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await keyring.principal(digest(new_token()))
        assert not keyring._known


async def test_who_could_not_ask_for_five_seconds_trusts_nobody(database: Database) -> None:
    token, clock = await granted(database, Role.READER), Clock()
    async with ring_of(database, clock) as keyring:
        await keyring.principal(digest(token))
        clock.now += TRUSTED
        assert keyring.known(digest(token))
        clock.now += 0.001
        assert keyring.known(digest(token)) is None
        await database.run("alter role im_server connection limit 0")
        await database.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'im_server'")
        try:
            with pytest.raises(Unavailable, match="which tokens are revoked"):
                await keyring.principal(digest(token))
        finally:
            await database.run("alter role im_server connection limit -1")
        assert await keyring.principal(digest(token))  # which asks by itself, once it can


async def test_what_was_revoked_is_forgotten_with_the_next_question(database: Database) -> None:
    token, other, clock = await granted(database, Role.READER), await granted(database, Role.READER), Clock()
    ended: list[str] = []
    async with ring_of(database, clock) as keyring:
        await keyring.principal(digest(token))
        await keyring.principal(digest(other))
        with (
            keyring.held(digest(token), lambda: ended.append("token")),
            keyring.held(digest(other), lambda: ended.append("other")),
        ):
            await revoked(database, token)
            clock.now += 1
            await keyring._ask()
            assert ended == ["token"]
            assert keyring.known(digest(token)) is None
            assert keyring.known(digest(other))
        assert not keyring._held


async def test_whoever_was_shut_out_meanwhile_is_told_before_others_may_be_sure(database: Database) -> None:
    token, clock = await granted(database, Role.READER), Clock()
    ended: list[str] = []
    async with ring_of(database, clock) as keyring:
        await keyring.principal(digest(token))
        with keyring.held(digest(token), lambda: ended.append("token")):
            await revoked(database, token)
            clock.now += TRUSTED
            await keyring.sure()
            assert ended == []  # so long a message may pass
            clock.now += 0.001
            await keyring.sure()
            assert ended == ["token"]


async def test_nobody_may_be_sure_who_cannot_ask(database: Database) -> None:
    clock = Clock()
    async with ring_of(database, clock) as keyring:
        await keyring.sure()
        await database.run("alter role im_server connection limit 0")
        await database.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'im_server'")
        try:
            await keyring.sure()
            clock.now += TRUSTED + 0.001
            with pytest.raises(Unavailable, match="which tokens are revoked"):
                await keyring.sure()
        finally:
            await database.run("alter role im_server connection limit -1")


async def test_after_a_long_silence_all_are_asked_about_anew(database: Database) -> None:
    token, other, clock = await granted(database, Role.READER), await granted(database, Role.READER), Clock()
    ended: list[str] = []
    async with ring_of(database, clock) as keyring:
        await keyring.principal(digest(token))
        await keyring.principal(digest(other))
        with (
            keyring.held(digest(token), lambda: ended.append("token")),
            keyring.held(digest(other), lambda: ended.append("other")),
        ):
            await database.run(
                "update token set revoked_at = clock_timestamp() - interval '1 hour' where hash = $1", digest(token)
            )
            clock.now += FORGOTTEN + 1
            await keyring._ask()
            assert ended == ["token"]
            assert not keyring._known


async def test_nothing_is_trusted_for_longer_than_ten_minutes(database: Database) -> None:
    token, clock = await granted(database, Role.READER), Clock()
    async with ring_of(database, clock) as keyring:
        await keyring.principal(digest(token))
        await database.run("delete from token where hash = $1", digest(token))  # as after a restore
        clock.now += KEPT
        with pytest.raises(Unauthenticated):
            await keyring.principal(digest(token))


async def test_a_token_is_good_until_it_expires_by_the_database_s_clock(database: Database) -> None:
    token, clock = await granted(database, Role.READER, lasts=timedelta(seconds=4)), Clock()
    async with ring_of(database, clock) as keyring:
        await keyring.principal(digest(token))
        clock.now += 3
        assert keyring.known(digest(token))
        clock.now += 1
        assert keyring.known(digest(token)) is None


async def test_only_so_many_are_remembered_the_latest(database: Database) -> None:
    made = [digest(await granted(database, Role.READER)) for _ in range(5)]
    async with ring_of(database, Clock(), most=3) as keyring:
        for each in made:
            await keyring.principal(each)
        assert [bool(keyring.known(each)) for each in made] == [False, False, True, True, True]


async def test_that_a_token_was_used_is_kept_but_not_of_those_of_instances(database: Database) -> None:
    token, own = await granted(database, Role.READER), await granted(database, Role.INSTANCE, str(new_id()))
    async with ring_of(database, Clock()) as keyring:
        for each in (token, own):
            await keyring.principal(digest(each))
        await keyring._note()
    used = "select last_used_at is not null from token where hash = $1"
    assert await database.value(used, digest(token))
    assert not await database.value(used, digest(own))


async def test_nobody_but_the_server_may_look_into_the_table(database: Database) -> None:
    assert not await database.value("select has_table_privilege('im_auditor', 'token', 'select')")
    granted_to = await database.run(
        "select grantee from information_schema.role_table_grants where table_name = 'token'"
    )
    assert {each[0] for each in granted_to} == {"im_owner", "im_server"}


async def test_tokens_of_the_buried_are_forgotten(database: Database) -> None:
    gone, kept = await granted(database, Role.INSTANCE, str(new_id())), await granted(database, Role.READER)
    connections = Connections(database.url, read_connections=1)
    async with connections.upkeep.use() as connection:
        assert await tokens.forget_buried(connection) == 1
    await connections.close()
    left = {each[0] for each in await database.run("select hash from token")}
    assert left == {digest(kept)}
    assert digest(gone) not in left
