"""
Server-sent events: chunks out of the text that goes over the wire.

Gateways often yield ``data: {…}`` lines rather than objects, cut wherever a packet ended. A
reader is fed such pieces and gives back the chunks that are complete. Text that does not begin
like an event stream is the model's own words and passes through.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

_BEGINNINGS = ("data:", "event:", "id:", "retry:", ":")
_LINE_LENGTH_MAX = 8_000_000
DONE = "[DONE]"


class EventReader:
    """Turns pieces of text or bytes into chunks; one per stream."""

    def __init__(self) -> None:
        self._is_wire: bool | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._event = ""

    def feed(self, piece: str | bytes | bytearray) -> list[Any]:
        """Return the chunks that ``piece`` completes."""
        if self._is_wire is None:
            begins = (
                piece if isinstance(piece, str) else bytes(piece[:64]).decode(errors="replace")
            )
            if not begins.strip():
                return [piece]
            self._is_wire = begins.lstrip().startswith(_BEGINNINGS)
        if not self._is_wire:
            return [piece]
        text = piece if isinstance(piece, str) else self._decoder.decode(bytes(piece))
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > _LINE_LENGTH_MAX:
            self._rest = ""
        return [chunk for line in lines for chunk in self._read_line(line.rstrip("\r"))]

    def finish(self) -> list[Any]:
        """Return the chunk of a last line that no line end closed."""
        rest, self._rest = self._rest, ""
        return self._read_line(rest.strip())

    def _read_line(self, line: str) -> list[Any]:
        if line.startswith("event:"):
            self._event = line[len("event:") :].strip()
        if not line.startswith("data:"):
            return []
        data = line[len("data:") :].strip()
        if data == DONE:
            return [{"type": "response.done"}]
        try:
            chunk = json.loads(data)
        except ValueError:
            is_error = self._event == "error"
            return [{"type": "error", "message": data}] if is_error and data else []
        if isinstance(chunk, dict) and self._event == "error" and "error" not in chunk:
            return [{**chunk, "type": "error"}]
        return [chunk] if isinstance(chunk, dict) else []
