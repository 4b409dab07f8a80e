"""How a worker's processes log: one line per event on stderr, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def begin_logging(*, as_json: bool) -> None:
    """Send the log of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(TEXT))
    handler.addFilter(_is_news)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("quota_engine").setLevel(logging.INFO)
    logging.getLogger("rq.worker").setLevel(logging.ERROR)


def _is_news(record: logging.LogRecord) -> bool:
    """
    Shorten what RQ says to a line, and leave out what the keeper says, once instead of often.

    A job logs its own failure; what RQ then fails to keep in its books loses nothing.
    """
    if record.name != "rq.worker":
        return True
    record.msg, record.args = record.getMessage().splitlines()[0], ()
    record.exc_info = None
    return "could not connect" not in record.msg
