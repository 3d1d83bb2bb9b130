"""Registrations are the same when what was sent is the same."""

from dataclasses import replace
from datetime import timedelta

from manager.domain.actor import Actor
from manager.domain.calls import Registration
from manager.domain.instance import InstanceType, Service, ServiceType
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
