"""Registrations are the same when what was sent is the same."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as some

from manager.domain.actor import Actor
from manager.domain.calls import Registration
from manager.domain.instance import InstanceId, InstanceType, Service, ServiceType
from manager.presence import new_id

DEBUG, MODEL = (Service(kind, "host", 80) for kind in ServiceType)
ONE = Registration(new_id(), InstanceType.VLLM, "host", {"a": "1", "b": "2"}, new_id(), (DEBUG, MODEL))


def test_the_order_of_labels_and_services_does_not_matter() -> None:
    other = replace(ONE, labels={"b": "2", "a": "1"}, services=(MODEL, DEBUG))
    assert other.digest == ONE.digest


def test_who_asks_does_not_matter() -> None:
    assert replace(ONE, actor=Actor("somebody else")).digest == ONE.digest


def test_everything_else_does() -> None:
    others = [
        replace(ONE, type=InstanceType.CHROME_BROWSER),
        replace(ONE, hostname="other"),
        replace(ONE, labels={"a": "1"}),
        replace(ONE, parent=None),
        replace(ONE, parent=new_id()),
        replace(ONE, services=(DEBUG,)),
        replace(ONE, services=(DEBUG, replace(MODEL, path="/v1"))),
        replace(ONE, timeout=timedelta(seconds=30)),
    ]
    assert len({ONE.digest, *(each.digest for each in others)}) == len(others) + 1


@given(
    hostname=some.text(),
    labels=some.dictionaries(some.text(), some.text(), max_size=3),
    services=some.lists(
        some.builds(Service, some.sampled_from(ServiceType), some.text(), some.integers(1, 65535)), max_size=3
    ),
    parent=some.none() | some.uuids(),
    timeout=some.none() | some.timedeltas(timedelta(seconds=1), timedelta(days=1)),
)
def test_it_is_what_former_releases_wrote(
    hostname: str,
    labels: dict[str, str],
    services: list[Service],
    parent: InstanceId | None,
    timeout: timedelta | None,
) -> None:
    one = replace(ONE, hostname=hostname, labels=labels, services=tuple(services), parent=parent, timeout=timeout)
    content = [
        one.type,
        hostname,
        sorted(labels.items()),
        str(parent),
        [(each.type, each.host, each.port, each.path) for each in sorted(services)],
        None if timeout is None else timeout.total_seconds(),
    ]
    assert one.digest == hashlib.sha256(json.dumps(content).encode()).digest()
