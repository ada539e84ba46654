"""Log format: one line per record, plain or JSON. Writes to a stream.

Nothing in this package logs a prompt, generated text or a key.
"""

import json
import logging
import sys
from typing import Any, Literal, TextIO

from randygpt.terminal import escape_controls, escape_line

Style = Literal["console", "json"]
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(style: Style, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Log everything to a stream (default: stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if style == "json" else _Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _Lines(logging.Formatter):
    """Message and `name=value` facts on one line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        return escape_line(super().formatMessage(record) + facts)

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 (logging's name and type)
        return escape_controls(super().formatException(ei))


class _JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)  # ASCII, so control characters are escaped


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """Return what was passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
