"""A server that speaks OpenAI's and Anthropic's wire formats, in a thread of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from quota_engine.usage import Usage

WORDS = ["Quotas ", "are ", "held ", "before, ", "and ", "captured ", "after."]
TEXT = "".join(WORDS)
#: What every answer of the server used.
USED = Usage(input_tokens=1_200, cached_input_tokens=1_024, output_tokens=57, reasoning_tokens=16)
#: Anthropic counts cached and written tokens beside the input, and has no reasoning.
USED_ANTHROPIC = Usage(
    input_tokens=1_209, cached_input_tokens=1_000, cache_write_tokens=188, output_tokens=57
)

_CHAT_USAGE = {
    "prompt_tokens": 1_200,
    "completion_tokens": 57,
    "total_tokens": 1_257,
    "prompt_tokens_details": {"cached_tokens": 1_024},
    "completion_tokens_details": {"reasoning_tokens": 16},
}
_RESPONSES_USAGE = {
    "input_tokens": 1_200,
    "input_tokens_details": {"cached_tokens": 1_024},
    "output_tokens": 57,
    "output_tokens_details": {"reasoning_tokens": 16},
    "total_tokens": 1_257,
}
_ANTHROPIC_USAGE = {
    "input_tokens": 21,
    "cache_creation_input_tokens": 188,
    "cache_read_input_tokens": 1_000,
    "output_tokens": 57,
}

Event = tuple[str | None, dict[str, Any]]


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_730_000_000,
        "model": f"{body['model']}-2024-07-18",
        "choices": [choice],
        "usage": _CHAT_USAGE,
    }


def _chat_events(body: dict[str, Any]) -> Iterator[Event]:
    head = {**_chat(body), "object": "chat.completion.chunk"}
    del head["usage"]
    is_counted = (body.get("stream_options") or {}).get("include_usage")
    for word in WORDS:
        delta = {"role": "assistant", "content": word}
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield None, {**head, "choices": [choice]} | ({"usage": None} if is_counted else {})
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield None, {**head, "choices": [choice]}
    if is_counted:
        yield None, {**head, "choices": [], "usage": _CHAT_USAGE}


def _responses(body: dict[str, Any]) -> dict[str, Any]:
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_730_000_000,
        "status": "completed",
        "error": None,
        "model": body["model"],
        "output": [{**message, "content": [part]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _RESPONSES_USAGE,
    }


def _responses_events(body: dict[str, Any]) -> Iterator[Event]:
    whole = _responses(body)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"response": begun}
    item = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    for word in WORDS:
        yield "response.output_text.delta", {**item, "delta": word}
    yield "response.output_text.done", {**item, "text": TEXT}
    yield "response.completed", {"response": whole}


def _message(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": _ANTHROPIC_USAGE,
    }


def _message_events(body: dict[str, Any]) -> Iterator[Event]:
    begun = {**_message(body), "content": [], "stop_reason": None}
    yield (
        "message_start",
        {"message": {**begun, "usage": {**_ANTHROPIC_USAGE, "output_tokens": 1}}},
    )
    block = {"type": "text", "text": ""}
    yield "content_block_start", {"index": 0, "content_block": block}
    yield "ping", {}
    for word in WORDS:
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}
    yield "content_block_stop", {"index": 0}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield "message_delta", {"delta": delta, "usage": {"output_tokens": 57}}
    yield "message_stop", {}


FORMATS = {
    "/v1/chat/completions": (_chat, _chat_events),
    "/v1/responses": (_responses, _responses_events),
    "/v1/messages": (_message, _message_events),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append((self.path, body))
        if body["model"] == "broken":
            self._send(500, {"error": {"type": "api_error", "message": "out of order"}})
            return
        whole, events = FORMATS[self.path.partition("?")[0]]
        if body.get("stream"):
            self._stream(list(events(body)), cut="cut" in body["model"])
        else:
            self._send(200, whole(body))

    def _send(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, events: list[Event], *, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        words = 0
        for kind, content in events:
            data = content if kind is None else {"type": kind, **content}
            name = "" if kind is None else f"event: {kind}\n"
            self._write(f"{name}data: {json.dumps(data)}\n\n")
            words += any(word in json.dumps(content) for word in WORDS)
            if cut and words == 3:
                self.close_connection = True  # without the last chunk: broken off
                return
        if events[0][0] is None:
            self._write("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _write(self, text: str) -> None:
        encoded = text.encode()
        self.wfile.write(f"{len(encoded):x}\r\n".encode() + encoded + b"\r\n")
        self.wfile.flush()

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output quiet."""


class ModelServer:
    """The server, and the requests that it got."""

    def __init__(self) -> None:
        self._server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._server.requests = self.requests
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
