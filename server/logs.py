"""How the server's log looks: a line each, for people or as JSON. Never a prompt, a text or a key."""

import json
import logging
import sys
from typing import Literal, TextIO

Style = Literal["console", "json"]
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(style: Style, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Have everything that is logged go to a stream, stderr if none is named."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if style == "json" else _Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def printable(text: str) -> str:
    """A text whose control characters are escaped, so that it cannot pass for another line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class _Lines(logging.Formatter):
    """One line for people, with the facts behind it; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        return printable(super().formatMessage(record) + facts)


class _JsonLines(logging.Formatter):
    """One JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)  # in ASCII: a control character is escaped wherever it is from


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What was said with `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
