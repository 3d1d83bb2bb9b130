"""Degraded states: each is a gauge, and a line in the log when it begins and when it ends."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from urllib.request import urlopen

import pytest

from manager.domain.calls import Beat, Ticked
from manager.domain.grace import Why
from manager.domain.preservation import FLEET, Group, Mode, Watch
from manager.settings import Settings
from manager.standing import MEANING, Lately, Standing
from tests.conftest import serving

S = timedelta(seconds=1)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def ticked(
    *, grace: timedelta = 0 * S, why: Why | None = None, stretch: float = 1.0, watches: dict[Group, Watch] | None = None
) -> Ticked:
    return Ticked(beat=Beat(NOW, 0.0), why=why, grace=grace, watches=watches or {}, stretch=stretch)


def value(standing: Standing, name: str, **labels: str) -> float:
    found = standing.gauges.get_sample_value(name, labels)
    assert found is not None
    return found


def degraded(standing: Standing) -> set[str]:
    return {each for each in MEANING if value(standing, "im_degraded", state=each)}


def test_a_fleet_in_order_has_every_gauge_at_nought() -> None:
    standing = Standing({})
    standing.hear(ticked())
    assert degraded(standing) == set()


def test_each_state_is_told_once_when_it_begins_and_once_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    standing = Standing({})
    for each in (ticked(grace=60 * S, why=Why.OUTAGE), ticked(grace=58 * S), ticked(), ticked()):
        standing.hear(each)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "grace for everybody alive",
        "degraded",
        "over",
    ]
    assert Why.OUTAGE.value in caplog.text


def test_who_is_held_back_is_named(caplog: pytest.LogCaptureFixture) -> None:
    standing = Standing({})
    watches = {Group(1, "host-7"): Watch(NOW, Mode.STOPPED), FLEET: Watch(NOW, Mode.SLOWED)}
    standing.hear(ticked(watches=watches))
    assert degraded(standing) == {"self_preservation"}
    assert "CHROME_BROWSER on host-7 STOPPED" in caplog.text
    assert "the fleet SLOWED" in caplog.text
    assert value(standing, "im_held_back_groups", mode="stopped") == 1


def test_while_the_database_is_away_what_was_known_stays_known() -> None:
    standing = Standing({})
    standing.hear(ticked(grace=60 * S))
    standing.hear(None)
    assert degraded(standing) == {"grace", "database_away"}
    standing.hear(ticked(stretch=1.5))
    assert degraded(standing) == {"stretched_intervals"}
    assert value(standing, "im_interval_stretch") == 1.5


def test_what_is_counted_is_degraded_for_a_while() -> None:
    count, now = 0, 0.0
    probe = Lately(lambda: count, lambda: now)
    assert not probe()
    count = 3
    assert probe()
    now = 59.0
    assert probe()
    now = 61.0
    assert not probe()


async def test_a_manager_that_polls_says_so_where_prometheus_looks(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    polling = settings.model_copy(update={"notify": False, "reaper_interval": S / 10})
    async with serving(polling) as started, asyncio.timeout(10):
        while "poll_only" not in caplog.text:
            await asyncio.sleep(0.05)
        text = await asyncio.to_thread(lambda: urlopen(f"http://{started.http[0]}/metrics").read().decode())
    assert 'im_degraded{state="poll_only"} 1.0' in text
    assert 'im_degraded{state="database_away"} 0.0' in text


@pytest.mark.parametrize(("unarchived", "told"), [(True, {"archive_failing"}), (False, set[str]())])
def test_an_archive_that_fails_is_a_degraded_state(unarchived: bool, told: set[str]) -> None:
    standing = Standing({"archive_failing": lambda: unarchived})
    standing.hear(ticked())
    assert degraded(standing) == told
