"""
Chunks: what one piece of a stream carries, in the formats of the providers.

Text is what the model wrote: answers, reasoning, refusals, arguments of tool calls. The text of
an error is none of it, nor are the summaries that some events repeat at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quota_engine.extraction.reading import fields_of, look, look_list, look_text

#: Ends of a stream, as events name them.
_DONE_KINDS = frozenset(
    {
        *("message_stop", "response.completed", "response.incomplete", "response.failed"),
        *("response.cancelled", "response.done", "transcript.text.done", "speech.audio.done"),
        *("image_generation.completed", "image_edit.completed"),
    }
)
#: Events whose ``delta`` is text in an encoding, not written words.
_SOUND_KINDS = frozenset({"response.audio.delta", "response.output_audio.delta"})
_STARTS = frozenset({"message_start", "response.created"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    One piece of a stream, read.

    ``text`` continues what came before; ``whole`` is all of the text so far (DashScope's way
    unless asked for increments). ``has_data`` says that output came that is no text, like sound.
    """

    text: str = ""
    whole: str | None = None
    error: str | None = None
    is_done: bool = False
    is_start: bool = False
    has_data: bool = False


def read_chunk(chunk: Any) -> Chunk:
    """Return what a chunk, event or piece of text carries."""
    if isinstance(chunk, str):
        return Chunk(text=chunk)
    if isinstance(chunk, bytes | bytearray):
        return Chunk(has_data=bool(chunk))
    kind = look_text(chunk, "type") or ""
    error = _error_in(chunk, kind)
    if error is not None:
        return Chunk(error=error, is_done=kind in _DONE_KINDS)
    if look_list(chunk, "choices"):
        return _read_choices(look_list(chunk, "choices"))
    if look_list(chunk, "candidates"):
        return _read_candidates(look_list(chunk, "candidates"))
    if fields_of(look(chunk, "output")) and not kind:
        return _read_dashscope(look(chunk, "output"))
    return _read_event(chunk, kind)


def _error_in(chunk: Any, kind: str) -> str | None:
    """Return the error a chunk reports, whatever the provider calls it."""
    for holder in (look(chunk, "error"), look(chunk, "response", "error")):
        told = holder if isinstance(holder, str) and holder else look_text(holder, "message")
        if told:
            return told
        if fields_of(holder):
            return look_text(holder, "type") or look_text(holder, "code") or "error"
    if kind == "error":
        return look_text(chunk, "message") or look_text(chunk, "code") or "error"
    if look_text(chunk, "code") and look_text(chunk, "message") and not look(chunk, "choices"):
        return f"{look_text(chunk, 'code')}: {look_text(chunk, 'message')}"
    return None


def _read_choices(choices: list[Any] | tuple[Any, ...]) -> Chunk:
    texts: list[str] = []
    is_done = False
    for choice in choices:
        delta = look(choice, "delta") or look(choice, "message")
        texts.extend(_written(delta))
        texts.append(look_text(choice, "text") or "")
        is_done = is_done or _is_finished(look_text(choice, "finish_reason"))
    sound = look_text(look(choices[0], "delta"), "audio", "data")
    return Chunk(text="".join(texts), is_done=is_done, has_data=sound is not None)


def _written(delta: Any) -> Iterator[str]:
    """Yield what a delta or a message of OpenAI's shape writes."""
    yield from _texts_of_content(look(delta, "content"))
    reasoning = look_text(delta, "reasoning_content") or look_text(delta, "reasoning")
    yield reasoning or ""
    yield look_text(delta, "refusal") or ""
    yield look_text(delta, "audio", "transcript") or ""
    for call in (*look_list(delta, "tool_calls"), look(delta, "function_call")):
        function = look(call, "function") or call
        yield look_text(function, "name") or ""
        yield look_text(function, "arguments") or ""


def _texts_of_content(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | tuple):
        for part in content:
            yield part if isinstance(part, str) else look_text(part, "text") or ""


def _is_finished(reason: str | None) -> bool:
    return reason is not None and reason not in ("null", "FINISH_REASON_UNSPECIFIED")


def _read_candidates(candidates: list[Any] | tuple[Any, ...]) -> Chunk:
    texts: list[str] = []
    is_done = has_data = False
    for candidate in candidates:
        for part in look_list(candidate, "content", "parts"):
            texts.append(look_text(part, "text") or "")
            call = look(part, "functionCall") or look(part, "function_call")
            if fields_of(call):
                texts.append(_arguments_text(call, "args"))
            has_data = has_data or bool(look(part, "inlineData") or look(part, "inline_data"))
        reason = look(candidate, "finishReason") or look(candidate, "finish_reason")
        name = reason if isinstance(reason, str) else look_text(reason, "value")
        is_done = is_done or _is_finished(name)
    return Chunk(text="".join(texts), is_done=is_done, has_data=has_data)


def _arguments_text(call: Any, name: str) -> str:
    arguments = look(call, name)
    text = "" if not arguments else json.dumps(arguments, ensure_ascii=False, default=str)
    return (look_text(call, "name") or "") + text


def _read_dashscope(output: Any) -> Chunk:
    """Read DashScope's own shape; whether texts continue or repeat, the tally finds out."""
    choices = look_list(output, "choices")
    finished = _is_finished(look_text(output, "finish_reason"))
    if not choices:
        sound = look(output, "audio", "data")
        return Chunk(
            whole=look_text(output, "text"), is_done=finished, has_data=isinstance(sound, str)
        )
    read = _read_choices(choices)
    return Chunk(whole=read.text or None, is_done=finished or read.is_done)


def _read_event(chunk: Any, kind: str) -> Chunk:
    """Read the events of Anthropic, OpenAI's Responses, transcriptions and sound."""
    text = ""
    delta = look(chunk, "delta")
    if kind == "content_block_delta":
        for name in ("text", "thinking", "partial_json"):
            text += look_text(delta, name) or ""
    elif kind == "content_block_start":
        text = look_text(chunk, "content_block", "name") or ""
        text += look_text(chunk, "content_block", "text") or ""
    elif kind == "AIMessageChunk":  # LangChain's
        text = "".join(_texts_of_content(look(chunk, "content")))
    elif kind.endswith(".delta") and kind not in _SOUND_KINDS and isinstance(delta, str):
        text = delta
    is_done = kind in _DONE_KINDS or look_text(delta, "stop_reason") is not None
    has_data = kind in _SOUND_KINDS or kind == "speech.audio.delta"
    return Chunk(text=text, is_done=is_done, is_start=kind in _STARTS, has_data=has_data)
