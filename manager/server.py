"""Wiring: builds the rooms, starts them in order, and stops them in the reverse."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from math import nan
from typing import Any, Protocol

from manager import __version__, safety
from manager.admission import Admission
from manager.checks import Checks
from manager.denials import Denials
from manager.domain.actor import Actor
from manager.domain.calls import Ticked
from manager.domain.grace import Patience
from manager.domain.instance import MANAGER_LABEL
from manager.domain.lease import Lease, leases
from manager.domain.policy import Policy
from manager.domain.preservation import Limits
from manager.feed import Feed
from manager.garbage import spare
from manager.ids import new_id
from manager.keyring import Keyring
from manager.lane import Lane
from manager.meters import Meters, Reading
from manager.minting import Minting
from manager.pb.version import PROTO_VERSION
from manager.presence import Presence, Supervisor
from manager.reads import Reads
from manager.reaper import reap
from manager.repository import bars, privileges
from manager.repository.database import Database, Readers
from manager.repository.doorbell import Doorbell
from manager.repository.versions import require
from manager.safeguards import Safeguards
from manager.samples import Samples
from manager.settings import Settings, Transport
from manager.snapshots import Snapshots
from manager.standing import Lately, Standing
from manager.turns import Turns
from manager.upkeep import keep_up, retention_of
from manager.wire.authority import Authority
from manager.wire.http import Backstage, Site
from manager.wire.interceptors import Gate
from manager.wire.limits import Limits as CallLimits
from manager.wire.listener import Listener, reflect
from manager.wire.quotas import Quotas
from manager.wire.services import Rooms, register
from manager.wire.subscribing import Streams, Subscribing
from manager.wire.tls import tls_of
from manager.wire.transport import usual
from manager.wire.web import Web

log = logging.getLogger(__name__)

PARTING = 3.0  # seconds, at each step of taking leave that asks the database


class Served(Protocol):
    """What serves until it is closed and empty."""

    async def serve(self) -> None:
        """Returns when nothing is left."""

    def close(self) -> None:
        """Takes nothing more."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a started server can be reached, by gRPC and by HTTP, and under which id it is part of the fleet.

    `notice`: what whoever started it should know of its safety.
    """

    addresses: tuple[str, ...]
    instance_id: str
    http: tuple[str, ...] = ()
    tls: bool = False
    notice: str = ""

    @property
    def pages(self) -> tuple[str, ...]:
        """Where a browser finds the console."""
        return tuple(f"{'https' if self.tls else 'http'}://{each}" for each in self.http)


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    started: Callable[[Serving], None],
    supervisor: Supervisor | None = None,
) -> str | None:
    """Serves until `stop` is set or the manager is killed as an instance, then drains and takes itself out.

    Who killed it, if somebody did. A worker shares its port with the others of its supervisor.
    Raises a Refusal where the database, its schema or the port is not to be had, or where it would not be safe.
    """
    safety.require(settings)
    spare()
    database = Database(settings.database_url, settings.read_connections)
    try:
        async with database.readers.use() as connection:
            await require(connection, __version__)
            if not settings.insecure_i_know and (found := await privileges.beyond(connection)):
                raise safety.Unsafe(found, choice=True)
            if _speaks(supervisor) and (open_ := await bars.missing(connection)):
                log.warning("im_auditor may %s: run `imctl migrate` once as a superuser", ", ".join(open_))
        return await _serve(settings, database, stop, started, supervisor)
    finally:
        await database.close()


def _speaks(supervisor: Supervisor | None) -> bool:
    """For all workers of a supervisor: one line, and not one of each."""
    return supervisor is None or supervisor.worker == 1


async def _serve(
    settings: Settings,
    database: Database,
    stop: asyncio.Event,
    started: Callable[[Serving], None],
    supervisor: Supervisor | None,
) -> str | None:
    meters = Meters()
    rooms, safeguards = _rooms(settings, database), Safeguards(database.readers)
    for name, measured in _lanes(rooms).items():
        measured.meter = meters.lane(name)
    await rooms.turns.recognize()
    subscribing = Subscribing(rooms.streams, meters.sent.inc)
    quotas = Quotas(settings)
    tls = tls_of(settings)
    transport = settings.transport or usual()
    if _speaks(supervisor):
        _warn(settings, transport)
    about = {"proto_version": PROTO_VERSION, "transport": transport}
    meters.read(about, (*_readings(settings, rooms, subscribing, safeguards), *quotas.readings()))
    keyring = Keyring(rooms.readers, most=settings.tokens_known) if settings.auth else None
    denials = Denials(rooms.readers, settings.denied_rows)
    authority = Authority(keyring, denials, certificates=bool(settings.tls_client_ca)) if keyring else None
    limits = CallLimits.of(settings)
    gate = Gate(settings.subscriber_patience, meters, authority, limits.deadlines, quotas)
    register(gate, rooms, subscribing)
    if safety.reflects(settings):
        reflect(gate)
    listener = Listener(gate, transport, limits, tls, shared=supervisor is not None)
    health, standing = Health(listener), _standing(settings, rooms, safeguards, meters)
    stage = Backstage(
        handlers=gate.handlers,
        readers=rooms.readers,
        streams=rooms.streams,
        subscribing=subscribing,
        registry=meters.registry,
        serving=lambda: health.serving,
        degraded=lambda: standing.degraded,
        names=settings.http_names,
        metrics_kept=retention_of(settings).hours,
        past_kept=retention_of(settings).tombstones,
        grpc_port=lambda: listener.port,
        authority=authority,
        secure=tls is not None,
        limits=limits,
        quotas=quotas,
    )
    web = Web(Site(stage).application(), settings.drain, limits, tls)
    http, addresses = await _listen(settings, web, listener)
    presence = _presence(settings, rooms, supervisor)
    asked = (each.lane for each in (keyring, rooms.minting) if each)
    lanes: Sequence[Served] = (*_lanes(rooms).values(), rooms.samples, *asked)

    def served(ticked: Ticked | None) -> None:
        health.hear(ticked is not None)
        standing.hear(ticked)

    async with asyncio.TaskGroup() as workers:
        served_by = [workers.create_task(each.serve()) for each in lanes]
        for each in (rooms.streams.feed, *((web,) if http else ())):
            workers.create_task(each.serve())
        ticks = reap(rooms.turns, Actor.manager(presence.id), settings.reaper_interval, settings.away_after, served)
        known = (keyring.watch(), denials.watch()) if keyring else ()
        beating = (ticks, health.show(), safeguards.watch(), *known, *_pulses(settings, database, rooms))
        pulses = [workers.create_task(each) for each in beating]
        drain = settings.drain
        try:
            notice = safety.notice(settings)
            started(Serving(tuple(addresses), str(presence.id), tuple(http), tls is not None, notice))
            return await _until(stop, presence)
        except asyncio.CancelledError:  # at once
            drain = timedelta(0)
            raise
        finally:
            rooms.streams.feed.close()  # which ends the subscriptions: they would outlast any drain
            rooms.checks.stopping.set()
            web.stop()
            await listener.stop(drain)
            for pulse in pulses:
                pulse.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(PARTING):
                    await denials.write()
            await presence.leave()
            for lane in lanes:
                lane.close()
            asyncio.get_running_loop().call_later(PARTING, _give_up, served_by)


def _give_up(lanes: Sequence[asyncio.Task[None]]) -> None:
    """What waits for a database that does not answer has nobody left who would hear of it."""
    if left := [each for each in lanes if not each.done()]:
        log.warning("the database does not answer: what waits for it is left undone")
        for each in left:
            each.cancel()


def _warn(settings: Settings, transport: Transport) -> None:
    """Where strangers reach what they can wear out, and nobody has chosen that."""
    if transport is Transport.GRPCIO and settings.transport is None and not safety.is_local(settings):
        log.warning(
            "gRPC's own server serves %s, and what strangers cost it has no bound: pip install"
            " 'instance-manager[native]', or choose it by --transport grpcio; see docs/security.md",
            ", ".join(each for each in settings.bind if not safety.loopback(each)),
        )


async def _listen(settings: Settings, web: Web, listener: Listener) -> tuple[list[str], list[str]]:
    """The addresses of HTTP, which is not served yet, and of gRPC, which is."""
    try:
        http = web.listen(settings.bind, settings.http_at) if settings.http else []
        return http, await listener.start(settings.bind, settings.port)
    except BaseException:
        web.close()
        raise


async def _until(stop: asyncio.Event, presence: Presence) -> str | None:
    """Returns when asked to stop, or when this manager was killed as an instance: then by whom."""
    asked, present = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(presence.keep())
    try:
        await asyncio.wait([asked, present], return_when=asyncio.FIRST_COMPLETED)
        if not present.done():
            return None
        log.warning("this manager was killed by %s, and drains", present.result())
        return present.result()
    finally:
        asked.cancel()
        present.cancel()


def _pulses(settings: Settings, database: Database, rooms: Rooms) -> tuple[Coroutine[None, None, None], ...]:
    """What beats by itself while the server serves."""
    return (
        *((database.hosts.watch(),) if database.hosts.several else ()),
        database.watchdog.watch(),
        *((Doorbell(database.hosts, rooms.streams.feed).serve(),) if settings.notify else ()),
        keep_up(database.upkeep, settings.partitions_ahead, retention_of(settings), settings.upkeep_interval),
    )


def _lanes(rooms: Rooms) -> dict[str, Lane[Any, Any]]:
    return {"turns": rooms.turns.lane, "checks": rooms.checks.lane, "reads": rooms.reads.lane}


def _readings(
    settings: Settings, rooms: Rooms, subscribing: Subscribing, safeguards: Safeguards
) -> tuple[Reading, ...]:
    """What the rooms count by themselves."""
    turns, samples, feed = rooms.turns, rooms.samples, rooms.streams.feed

    def waiting(name: str, lane: Lane[Any, Any]) -> Reading:
        return Reading("im_lane_waiting_calls", "calls that wait for a batch", lambda: lane.waiting, lane=name)

    return (
        *itertools.starmap(waiting, _lanes(rooms).items()),
        Reading("im_samples_waiting", "samples that wait to be stored", lambda: samples.waiting),
        Reading("im_samples_dropped", "samples lost for want of room", lambda: samples.dropped, total=True),
        Reading("im_samples_orphaned", "samples of nobody alive", lambda: samples.orphaned, total=True),
        Reading("im_turns_unreplicated", "turns on no standby", lambda: turns.unreplicated, total=True),
        Reading("im_subscriptions", "subscriptions that are open", lambda: subscribing.open),
        Reading(
            "im_feed_revision", "the revision that was read last", lambda: feed.place.revision if feed.place else nan
        ),
        Reading("im_durability", "what an acknowledged change survives", lambda: safeguards.holds),
        Reading("im_feed_age_seconds", "since when nobody knows whether there is more", lambda: feed.age),
        Reading("im_unauthenticated", "whether nobody is asked who calls", lambda: not settings.auth),
    )


class Health:
    """The health that the listener shows: whether the last tick was taken by the database."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.serving = True
        self._changed = asyncio.Event()
        self._changed.set()

    def hear(self, serving: bool) -> None:
        """What the reaper's pulse says."""
        if serving != self.serving:
            self.serving = serving
            self._changed.set()

    async def show(self) -> None:
        """Shows each change, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._listener.tell(self.serving)


def _presence(settings: Settings, rooms: Rooms, supervisor: Supervisor | None) -> Presence:
    pace = settings.timeout.total_seconds() / 3
    labels = {MANAGER_LABEL: __version__}
    return Presence(rooms.turns, rooms.checks, rooms.readers, pace, labels, new_id(), supervisor)


def _rooms(settings: Settings, database: Database) -> Rooms:
    """What the services work with, each on its own connection."""
    return Rooms(
        turns=Turns(
            database.turns,
            _policy(settings),
            linger=settings.turn_linger,
            size=settings.turn_size,
            queue=settings.turn_queue,
            admission=Admission(settings.registration_rate, settings.registration_burst),
        ),
        checks=Checks(
            database.checks,
            linger=settings.check_linger,
            size=settings.check_size,
            queue=settings.check_queue,
            patience=settings.check_patience,
        ),
        reads=Reads(
            database.lookups,
            linger=settings.read_linger,
            size=settings.read_size,
            queue=settings.read_queue,
            patience=settings.check_patience,
        ),
        samples=Samples(database.samples, buffer=settings.sample_buffer, interval=settings.flush_interval),
        readers=database.readers,
        streams=_streams(settings, database.readers),
        minting=Minting(database.readers) if settings.auth else None,
    )


def _streams(settings: Settings, readers: Readers) -> Streams:
    feed = Feed(readers, events=settings.feed_events, size=settings.feed_bytes)
    return Streams(feed, readers, Snapshots(readers), settings.subscriptions)


def _policy(settings: Settings) -> Policy:
    return Policy(
        leases=leases(
            Lease(settings.timeout, settings.grace),
            Lease(settings.vllm_timeout, settings.vllm_grace),
            Lease(settings.warmpool_timeout, settings.warmpool_grace),
        ),
        patience=Patience(
            outage_after=settings.outage_after,
            away_after=settings.away_after,
            drift_after=settings.drift_after,
            outage_grace=settings.outage_grace,
            start_grace=settings.start_grace,
            most=settings.grace_per_hour,
        ),
        pace=settings.reaper_interval / 2,
        interval=settings.reaper_interval,
        limits=_limits(settings),
        check_load=settings.check_load,
        notify=settings.notify,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        rate=settings.expiry_rate,
        burst=settings.expiry_burst,
        slow_rate=settings.preserve_rate,
        size=settings.preserve_size,
        slow=settings.preserve_slow,
        stop=settings.preserve_stop,
        stop_fleet=settings.preserve_stop_fleet,
        calm=settings.preserve_calm,
        calm_for=settings.preserve_calm_for,
        stop_most=settings.preserve_stop_per_hour,
    )


def _standing(settings: Settings, rooms: Rooms, safeguards: Safeguards, meters: Meters) -> Standing:
    turns, samples, feed = rooms.turns, rooms.samples, rooms.streams.feed
    return Standing(
        {
            "poll_only": lambda: not (settings.notify and feed.heard),
            "standby_lost": Lately(lambda: turns.unreplicated, time.monotonic),
            "archive_failing": lambda: safeguards.unarchived,
            "samples_dropped": Lately(lambda: samples.dropped, time.monotonic),
        },
        meters.registry,
    )
