"""The log: an entry a line, in words and as JSON, whatever somebody else put into it."""

import asyncio
import io
import json
import logging
import signal
import sys

import pytest

from manager.cli.logs import FORMATTERS, INDENT, form_of
from manager.settings import LogFormat, Settings
from tests.cli.terminal import at_terminal
from tests.conftest import Database
from tests.processes import IMCTL, PATIENCE, environment

# of a hostname, a label, an exception's text: what would begin an entry, colour it, delete it, or turn it round
HOSTILE = [
    "a\n2026-01-01 00:00:00,000 ERROR   manager: forged",
    'a\r\n{"level": "error"}',
    "a\x1b[2J\x1b[31mred\x07\x08\x7f",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "a\u202egnirts\u2066 b\u200b\ufeff",
    "a\0b\ud800c",
]


@pytest.fixture
def heard() -> io.StringIO:
    """What a logger of our own says."""
    return io.StringIO()


def logged(heard: io.StringIO, form: LogFormat, who: str = "") -> logging.Logger:
    """A logger that nobody else hears."""
    log = logging.Logger("manager.test", logging.INFO)
    handler = logging.StreamHandler(heard)
    handler.setFormatter(FORMATTERS[form](who))
    log.addHandler(handler)
    return log


@pytest.mark.parametrize("hostile", HOSTILE)
def test_in_words_an_entry_is_one_line_that_shows_what_was_in_it(heard: io.StringIO, hostile: str) -> None:
    logged(heard, LogFormat.TEXT, "worker 3").warning("group of %s", hostile)
    (line, end) = heard.getvalue().split("\n")
    assert end == ""
    assert line.isprintable()
    assert " WARNING worker 3 manager.test: group of a" in line


@pytest.mark.parametrize("hostile", HOSTILE)
def test_as_json_an_entry_is_one_line_that_gives_back_what_was_in_it(heard: io.StringIO, hostile: str) -> None:
    logged(heard, LogFormat.JSON, "worker 3").warning("group of %s", hostile)
    (line, end) = heard.getvalue().split("\n")
    assert end == ""
    assert line.isprintable()
    assert line.isascii()
    told = json.loads(line)
    assert (told["level"], told["logger"], told["who"]) == ("warning", "manager.test", "worker 3")
    assert told["message"] == f"group of {hostile}"
    assert told["time"].endswith("+00:00")


def failed(text: str) -> None:
    """Fails with this text."""
    raise ValueError(text)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_line_of_a_traceback_can_be_taken_for_an_entry(heard: io.StringIO, hostile: str) -> None:
    for form in LogFormat:
        try:
            failed(hostile)
        except ValueError:
            logged(heard, form).exception("incident")
    *words, as_json, end = heard.getvalue().split("\n")
    assert end == ""
    assert all(each.isprintable() for each in (*words, as_json))
    assert all(each.startswith(INDENT) for each in words[1:])
    assert f"{INDENT}Traceback (most recent call last):" in words
    assert json.loads(as_json)["error"].endswith(f"ValueError: {hostile}")


@pytest.mark.parametrize("chosen", [None, *LogFormat])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_is_told_in_words_and_whatever_else_in_json_unless_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch, heard: io.StringIO, is_terminal: bool, chosen: LogFormat | None
) -> None:
    monkeypatch.setattr(heard, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", heard)
    usual = LogFormat.TEXT if is_terminal else LogFormat.JSON
    assert form_of(Settings(log_format=chosen)) is (chosen or usual)


async def test_whoever_serves_at_a_terminal_reads_words(database: Database) -> None:
    serve = ("serve", "--bind", "127.0.0.1", "--port", "0")
    async with at_terminal("", *serve, DATABASE_URL=database.url, IM_LOG_FORMAT="") as terminal:
        await terminal.shows("\n  Ctrl-C stops it\n")
        terminal.process.send_signal(signal.SIGTERM)
        assert await terminal.ended() == 0
    assert "\nSIGTERM: draining" in terminal.text
    assert "{" not in terminal.text


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.skipif(sys.platform != "linux", reason="workers")
async def test_a_server_whose_log_no_terminal_takes_says_nothing_but_json(database: Database, workers: str) -> None:
    given = environment(DATABASE_URL=database.url, IM_LOG_FORMAT="", IM_WORKERS=workers)
    ports = ("--port", "0", "--http-port", "0") if workers == "1" else ("--port", "0")
    process = await asyncio.create_subprocess_exec(
        *IMCTL,
        *("serve", "--bind", "127.0.0.1", *ports),
        env={**given, "IM_HTTP": "false" if workers == "2" else "true"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    lines: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while b"Ctrl-C stops it" not in (line := await process.stderr.readline()):
            assert line, lines
            lines.append(line)
        process.send_signal(signal.SIGTERM)
        _, rest = await process.communicate()
    told = [json.loads(each) for each in (*lines, line, *rest.splitlines())]
    assert process.returncode == 0
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(each) for each in told))
    assert any("SIGTERM: draining" in each["message"] for each in told)
    if workers == "2":
        assert {each.get("who") for each in told} == {None, "worker 1", "worker 2"}
