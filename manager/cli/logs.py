"""The log, on stderr: a line an entry, in words or as JSON. Whatever is told in it, nobody else can write an entry."""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from manager.settings import LogFormat, Settings

INDENT = "    "  # no entry begins with it


def form_of(settings: Settings) -> LogFormat:
    """As it was chosen; where nobody did, words for a terminal, and JSON for whatever else takes stderr."""
    return settings.log_format or (LogFormat.TEXT if sys.stderr.isatty() else LogFormat.JSON)


def log_as(who: str, form: LogFormat) -> None:
    """Logs from now on; `who` stands in every entry."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[form](who))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def escaped(text: str) -> str:
    """In one line, and without what a terminal would obey or what would turn the order of letters."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class Words(logging.Formatter):
    """For people. The lines of a traceback are indented, each of them, so that none can be taken for an entry."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = f"{who} " if who else ""

    def format(self, record: logging.LogRecord) -> str:
        """As logging calls it."""
        head = f"{self.formatTime(record)} {record.levelname:<7} {self._who}{record.name}: "
        return "\n".join((head + escaped(record.getMessage()), *self._trace(record)))

    def _trace(self, record: logging.LogRecord) -> Iterator[str]:
        if record.exc_info:
            for line in self.formatException(record.exc_info).split("\n"):
                yield INDENT + escaped(line)


class Json(logging.Formatter):
    """For programs: an object a line, of ASCII alone."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        """As logging calls it."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._who:
            entry["who"] = self._who
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry).replace("\x7f", "\\u007f")


FORMATTERS = {LogFormat.TEXT: Words, LogFormat.JSON: Json}
