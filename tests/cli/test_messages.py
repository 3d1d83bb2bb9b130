import pytest

from manager.cli.messages import ADVICE_OF_REASON, death, report, spoken
from manager.cli.say import say
from manager.client import BackInReach, MetricsFailed, Notice, NotLinked, RegisteredAgain
from manager.pb.fleet_pb2 import InstanceReport
from manager.pb.instance_manager_pb2 import (
    CAUSE_EXPIRED,
    CAUSE_KILLED,
    CAUSE_PARENT_DIED,
    REASON_CYCLE,
    REASON_DEAD,
    REASON_ID_TAKEN,
    REASON_PARENT_DEAD,
    REASON_UNKNOWN_PARENT,
    Cause,
    InstanceDescription,
)


def test_a_refused_connection_is_told_in_plain_words() -> None:
    told = (
        "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:50052:"
        " Failed to connect to remote host: Connection refused"
    )
    assert spoken(Exception(told)) == "nobody answers (connection refused)"
    assert spoken(Exception("too many calls are waiting")) == "too many calls are waiting"


def dead(instance_id: str, cause: Cause.ValueType) -> InstanceDescription:
    return InstanceDescription(instance_id=instance_id, death_cause=cause)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (InstanceReport(instance=dead("a", CAUSE_KILLED), actor="eve", note="why"), "it was killed by eve: why"),
        (InstanceReport(instance=dead("a", CAUSE_KILLED)), "it was killed"),
        (InstanceReport(instance=dead("a", CAUSE_EXPIRED)), "it had expired: no health check came in time"),
        (
            InstanceReport(
                instance=dead("a", CAUSE_PARENT_DIED),
                causes=[dead("b", CAUSE_PARENT_DIED), dead("c", CAUSE_KILLED)],
                actor="eve",
            ),
            "its ancestor c was killed by eve",
        ),
    ],
)
def test_a_death_is_told_in_a_line(told: InstanceReport, line: str) -> None:
    assert death(told) == line


def test_every_refusal_of_a_registration_has_its_advice() -> None:
    assert set(ADVICE_OF_REASON) == {REASON_DEAD, REASON_ID_TAKEN, REASON_UNKNOWN_PARENT, REASON_PARENT_DEAD}


@pytest.mark.parametrize(
    "notice", [BackInReach(3), RegisteredAgain(), NotLinked(REASON_CYCLE), MetricsFailed(OSError("x"))]
)
def test_every_notice_is_one_line_on_stderr(notice: Notice, capsys: pytest.CaptureFixture[str]) -> None:
    report(notice)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("imctl: ")
    assert told.err.count("\n") == 1


def test_what_to_do_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    say("what", "then")
    assert capsys.readouterr().err == "imctl: what\n       then\n"
