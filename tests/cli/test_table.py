import io
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from manager.cli import words
from manager.cli.document import document
from manager.cli.table import Column, aligned, csv_of, fitted, ordered, plain
from manager.pb.instance_manager_pb2 import (
    CHROME_DEBUG_PORT,
    STATUS_DEAD,
    STATUS_HEALTHY,
    STATUS_STALE,
    HealthCheck,
    InstanceDescription,
    ProxyMetrics,
    Service,
)


def test_columns_stand_below_each_other_and_lines_end_with_their_last_word() -> None:
    assert aligned([("A", "LONG"), ("abc", ""), ("b", "c")]) == ["A    LONG", "abc", "b    c"]
    assert aligned([]) == []


def test_a_table_is_cut_to_the_width_at_its_longest_cells_and_an_id_keeps_its_end() -> None:
    one = "01a212cd-e4f2-7ec9-bd80-89f2d3dba620"
    grid = [("ID", "HOST", "PARENT", "LAST"), (one, "x" * 30, one, "z")]
    assert fitted(grid, 200) == (grid, [])
    rows, gone = fitted(grid, 80)
    assert rows[1] == (one, "x" * 19 + "…", "…-89f2d3dba620", "z")
    assert gone == []
    rows, gone = fitted(grid, 60)
    assert (rows[1], gone) == ((one, "x" * 21 + "…"), ["PARENT", "LAST"])
    assert fitted(grid, 5) == ([("ID",), (one,)], ["HOST", "PARENT", "LAST"])


def test_rows_are_sorted_by_value_and_not_by_text_and_what_has_none_comes_last() -> None:
    number: Column[int | None] = Column("number", lambda row: row)
    assert ordered([10, None, 9], number, descending=False) == [9, 10, None]
    assert ordered([10, None, 9], number, descending=True) == [10, 9, None]


def test_values_for_programs() -> None:
    east = datetime(2026, 1, 2, 3, 4, 5, 678_900, timezone(timedelta(hours=2)))
    assert plain(east) == "2026-01-02T01:04:05.678Z"
    assert [plain(each) for each in (None, True, 1.5, "x")] == ["", "true", "1.5", "x"]


def test_csv_quotes_what_must_be_quoted() -> None:
    assert csv_of([["a", 'b,"c"', "d\ne"]]) == 'a,"b,""c""","d\ne"\n'


def test_a_document_has_times_in_words_long_numbers_as_text_and_every_field() -> None:
    told = document(InstanceDescription(created_at_ms=1, timeout_ms=5, labels={"b_ms": "1", "a": "2"}))
    assert told["created_at"] == "1970-01-01T00:00:00.001Z"
    assert told["timeout_ms"] == "5"
    assert told["died_at"] is None
    assert told["parent_id"] == ""
    assert told["labels"] == {"a": "2", "b_ms": "1"}
    assert document(ProxyMetrics(bytes_sent=2**64 - 1))["bytes_sent"] == str(2**64 - 1)
    assert document(HealthCheck())["healthy"] is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (90_061, "1d1h"), (-3, "0s")],
)
def test_spans_are_told_in_two_units(seconds: float, text: str) -> None:
    assert words.span(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**34, "16.0 GiB")])
def test_sizes_are_told_in_the_unit_that_fits(number: int, text: str) -> None:
    assert words.size(number) == text


@pytest.mark.parametrize(("encoding", "signs"), [("utf-8", "●◐✕"), ("ascii", "+~!")])
def test_every_state_has_a_sign_that_the_terminal_knows(
    encoding: str, signs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    told = [words.status(each) for each in (STATUS_HEALTHY, STATUS_STALE, STATUS_DEAD)]
    monkeypatch.undo()
    assert told == [f"{signs[0]} healthy", f"{signs[1]} stale", f"{signs[2]} dead"]


def test_a_service_is_written_as_the_command_line_takes_it() -> None:
    assert (
        words.service(Service(service_type=CHROME_DEBUG_PORT, host="::1", port=7, path="/x"))
        == "CHROME_DEBUG_PORT=[::1]:7/x"
    )


def test_what_began_just_now_is_no_time_ago() -> None:
    assert words.ago(datetime.now(UTC)) == "0s ago"
    assert words.ago(None) == ""
