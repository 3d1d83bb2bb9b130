"""The primary of a Patroni cluster dies under load, is switched over, comes back: no acknowledged change is lost.

`make patroni`: with Debian's packages patroni, etcd-server, haproxy and postgresql-15; two to three minutes. The
cluster is that of deploy/patroni, the managers are two: one knows all hosts of the database, the other HAProxy alone.
"""

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest

from manager.client import Client as Sdk
from manager.client.errors import EpochChangedError
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.wire import decode, encode
from tests.drilling import add, checked, managing, sound
from tests.faults.managers import Manager
from tests.faults.record import CHANGES
from tests.faults.server import NAME
from tests.faults.world import World, inhabited
from tests.recipes.patroni import TTL, Cluster, started

pytestmark = [
    pytest.mark.skipif("IM_PATRONI" not in os.environ, reason="takes minutes, and Debian's packages: make patroni"),
    pytest.mark.timeout(600),
]

WARM_UP = 2.0
# the key expires, the standby's Patroni notices at its next look, and HAProxy and the managers after it
FAILED_OVER = TTL + 5 + 10
SWITCHED_OVER = 20.0
LOST = "and is lost"  # as tests.faults.invariants says it


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with started() as made:
        yield made


@asynccontextmanager
async def fleet_on(cluster: Cluster, folder: Path) -> AsyncIterator[World]:
    """A fleet at work on a database of its own in the cluster; nothing may be lost of what it was told."""
    await cluster.settled()
    await cluster.run("prepare")
    managers = [Manager(cluster.several), Manager(cluster.proxied)]
    async with inhabited(folder, random.randrange(10**6), cluster.database, managers) as world:
        await asyncio.sleep(WARM_UP)
        yield world
        await asyncio.sleep(WARM_UP)
        await world.rest()
        found = await world.judged()
        lost = [each for each in found if each.endswith(LOST)]
        assert not found, "\n".join([*lost, *found][:20])
    await cluster.settled()
    await cluster.database.value(f"drop database {NAME} with (force)")


def longest_pause(world: World, since: float) -> float:
    """The longest time in which no change was acknowledged, since then."""
    told = sorted(
        each.returned
        for each in world.recorder.operations
        if each.returned is not None and each.returned > since and each.call.method in CHANGES
    )
    return max(later - earlier for earlier, later in pairwise([since, *told]))


async def place_now(world: World) -> bytes:
    """A token of the present."""
    async with Sdk(*world.addresses) as sdk:
        page = await sdk.get.GetAllInstances(pb.InstanceFilter(page_size=1))
    return page.resume_token


async def epochs(world: World) -> list[tuple[int, int]]:
    """Number and base of each."""
    rows = await world.database.run("select number, base_revision from audit.epochs order by number")
    return [(each["number"], each["base_revision"]) for each in rows]


async def begun(world: World, number: int) -> int:
    """Once that epoch is open, and everybody has its grace: up to which revision the ones before are good."""
    async with asyncio.timeout(10):
        while len(found := await epochs(world)) < number:
            await asyncio.sleep(0.1)
    assert len(found) == number
    assert await world.database.value("""
        select grace_until > opened_at from control, audit.epochs order by number desc limit 1""")
    return found[-1][1]


async def tokens_are_judged(world: World, token: bytes, base: int) -> None:
    """One of before is good still, one of changes that never were is refused."""
    place = decode.resume_token("resume_token", token)
    assert place.revision <= base
    lost = encode.resume_token(replace(place, revision=base + 1_000_000))
    for address in world.addresses:
        async with Sdk(address) as sdk:
            async for update in sdk.subscribe.SubscribeToInstanceUpdates(pb.SubscribeRequest(resume_token=token)):
                assert update.revision > place.revision
                break
            with pytest.raises(EpochChangedError):
                async for _ in sdk.subscribe.SubscribeToInstanceUpdates(pb.SubscribeRequest(resume_token=lost)):
                    pass


async def strangers_register_again(world: World) -> None:
    """Whom the database does not know may have been lost with it, and is not told to terminate."""
    async with Sdk(*world.addresses) as sdk:
        with pytest.raises(EpochChangedError):
            await sdk.try_.TryHealthCheck(pb.InstanceRequest(instance_id=str(new_id())))


async def test_a_killed_primary_costs_no_acknowledged_change_and_comes_back_as_a_standby(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fleet_on(cluster, tmp_path) as world:
        token, old = await place_now(world), await cluster.leader()
        await old.kill9()
        killed = monotonic()
        well = await world.lively(FAILED_OVER)
        assert (await cluster.leader()).name != old.name
        await tokens_are_judged(world, token, await begun(world, 2))
        await strangers_register_again(world)
        again = longest_pause(world, killed)

        await cluster.settled(2)
        token, second = await place_now(world), await cluster.leader()
        asked = monotonic()
        await cluster.run("switchover", LEADER=second.name)
        await world.lively(SWITCHED_OVER)
        third = await cluster.leader()
        assert third.name not in (old.name, second.name)
        await tokens_are_judged(world, token, await begun(world, 3))
        switched = longest_pause(world, asked)

        old.patroni.start()
        back = await cluster.settled()
        assert await old.value("select pg_is_in_recovery()")
        assert await cluster.database.value("select current_setting('synchronous_standby_names')")
        await asyncio.sleep(WARM_UP)
    with capsys.disabled():
        print(
            f"\nkilled: no change acknowledged for {again:.1f} s, all calls on both managers after {well:.1f} s;"
            f" switched over: none for {switched:.1f} s; the old primary a standby after {back:.1f} s;"
            f" {len(world.recorder.operations)} operations, none lost"
        )


async def test_a_primary_whose_patroni_alone_dies_acknowledges_nothing_that_is_lost(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its PostgreSQL takes writes all along: without its synchronous standby it can acknowledge none of them."""
    async with fleet_on(cluster, tmp_path) as world:
        old = await cluster.leader()
        killed = monotonic()
        await old.kill9_patroni()
        await cluster.until(lambda told: any(each.role == "leader" and each.name != old.name for each in told))
        moved = monotonic() - killed
        assert old.postgres is not None
        await world.lively(FAILED_OVER)
        await begun(world, 2)
        old.patroni.start()
        back = await cluster.settled()
    with capsys.disabled():
        print(
            f"\nPatroni killed: another primary after {moved:.1f} s; the old one a standby after {back:.1f} s;"
            f" {len(world.recorder.operations)} operations, none lost"
        )


async def lose(cluster: Cluster, folder: Path) -> None:
    """Kills the primary of a fleet at work while no standby hears of anything any more."""
    async with fleet_on(cluster, folder) as world:
        old = await cluster.leader()
        receivers = [each.receiver for each in cluster.members if each is not old]
        for each in receivers:
            assert each is not None
            each.suspend()
        await asyncio.sleep(WARM_UP)
        await old.kill9()
        for each in receivers:
            assert each is not None
            each.kill()  # what has come for it and is not written down is gone, as on a wire that is cut
        await world.lively(FAILED_OVER)


async def test_where_commits_wait_for_no_standby_a_lost_change_is_found_out(tmp_path: Path) -> None:
    """A mutant of deploy/patroni, which the tests above would not let pass."""
    async with started(synchronous=False) as cluster:
        with pytest.raises(AssertionError, match=LOST):
            await lose(cluster, tmp_path)


async def test_without_etcd_the_primary_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    async with fleet_on(cluster, tmp_path) as world:
        leader = await cluster.leader()
        await cluster.etcd.end()
        gone = monotonic()
        await asyncio.sleep(TTL * 1.5)
        await world.lively(3.0)
        assert longest_pause(world, since=gone) < 3.0
        cluster.etcd.start()
        await cluster.settled()
        assert (await cluster.leader()).name == leader.name
        assert len(await epochs(world)) == 1


async def test_a_cluster_that_is_lost_with_all_its_disks_comes_back_from_a_backup(
    cluster: Cluster, tmp_path: Path
) -> None:
    await cluster.settled()
    await cluster.run("prepare")
    async with managing(cluster.several) as client:
        kept = await add(client, 300)
        await cluster.run("patroni-backup", BACKUPS=str(tmp_path))
        late = await add(client, 20)
    for each in cluster.members:
        await each.kill9()
        shutil.rmtree(each.data)
    first, *others = cluster.members
    # the leader's key expires by itself
    await asyncio.sleep(TTL)
    await cluster.run("patroni-restore", BACKUPS=str(tmp_path), PGDATA=str(first.data))
    first.patroni.start()
    await cluster.until(lambda told: any(each.role == "leader" for each in told))
    for each in others:
        each.patroni.start()
    await cluster.settled()
    async with managing(cluster.several) as client:
        assert await checked(client, [*kept, *late]) == (len(kept), len(late))
    await sound(cluster.database.url(NAME))
    assert await cluster.database.value("select count(*) from audit.epochs", database=NAME) == 2
    await cluster.database.value(f"drop database {NAME} with (force)")


@pytest.mark.parametrize("where", [lambda cluster: cluster.database.port, lambda cluster: cluster.standbys])
async def test_haproxy_leads_to_the_primary_by_one_port_and_to_standbys_by_the_other(
    cluster: Cluster, where: Callable[[Cluster], int]
) -> None:
    await cluster.settled()
    server = replace(cluster.database, port=where(cluster))
    is_standby = await server.value("select pg_is_in_recovery()")
    assert is_standby == (server.port == cluster.standbys)
