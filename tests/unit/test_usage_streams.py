"""
A stream is tallied to the usage its provider reports, or to what was seen of it.

Goal: exact where the provider counted, estimated where it did not, whatever is repeated, cut or
told as an error. Method: the chunks of the providers' public references, as mappings, as the
SDKs' models and as lines on the wire.
"""

from __future__ import annotations

import json
from typing import Any

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest

from quota_engine.extraction import Observed, Reported, StreamTally
from quota_engine.tokens import count_tokens
from quota_engine.usage import Usage

PIECES = ["The harbour", " was quiet", " when the last", " ferry came in."]
TEXT = "".join(PIECES)
USAGE = {"prompt_tokens": 20, "completion_tokens": 11, "total_tokens": 31}
EXACT = Usage(input_tokens=20, output_tokens=11)


def chat_chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": choices,
        **more,
    }


CHAT = [chat_chunk(""), *map(chat_chunk, PIECES), chat_chunk(None, "stop")]
CHAT_COUNTED = [*CHAT, {**chat_chunk(), "choices": [], "usage": USAGE}]
ANTHROPIC: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    *(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in PIECES
    ),
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 15},
    },
    {"type": "message_stop"},
]
ANTHROPIC_USAGE = Usage(input_tokens=125, cached_input_tokens=100, output_tokens=15)
RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "resp_1", "model": "gpt-4.1", "usage": None}},
    *({"type": "response.output_text.delta", "delta": piece} for piece in PIECES),
    {"type": "response.output_text.done", "text": TEXT},
    {
        "type": "response.completed",
        "response": {
            "id": "resp_1",
            "model": "gpt-4.1",
            "usage": {"input_tokens": 20, "output_tokens": 11, "total_tokens": 31},
        },
    },
]
GEMINI = [
    {
        "candidates": [{"content": {"parts": [{"text": piece}]}}],
        "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 2 * number},
    }
    for number, piece in enumerate(PIECES, 1)
]
GEMINI[-1]["candidates"][0]["finishReason"] = "STOP"  # type: ignore[index]


def dashscope(text: str, count: int, finish: str = "null") -> dict[str, Any]:
    return {
        "status_code": 200,
        "request_id": "q-1",
        "code": "",
        "message": "",
        "output": {"text": text, "finish_reason": finish},
        "usage": {"input_tokens": 20, "output_tokens": count},
    }


DASHSCOPE_WHOLE = [
    dashscope("".join(PIECES[:number]), number, "stop" if number == 4 else "null")
    for number in range(1, 5)
]
DASHSCOPE_PARTS = [dashscope(piece, number) for number, piece in enumerate(PIECES, 1)]


def tally_of(chunks: list[Any], **options: Any) -> StreamTally:
    tally = StreamTally(**options)
    for chunk in chunks:
        tally.feed(chunk)
    return tally


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (CHAT_COUNTED, EXACT),
        (ANTHROPIC, ANTHROPIC_USAGE),
        (RESPONSES, EXACT),
        (GEMINI, Usage(input_tokens=20, output_tokens=8)),
        (DASHSCOPE_WHOLE, Usage(input_tokens=20, output_tokens=4)),
        (DASHSCOPE_PARTS, Usage(input_tokens=20, output_tokens=4)),
    ],
    ids=["chat", "anthropic", "responses", "gemini", "dashscope", "dashscope, increments"],
)
def test_a_stream_that_reports_is_exact(chunks: list[Any], expected: Usage) -> None:
    tally = tally_of(chunks)
    assert tally.is_reported
    found = tally.finding(input_tokens=999)
    assert isinstance(found, Reported)
    assert found.usage == expected
    # Told again, it is the same.
    again = tally_of([*chunks, chunks[-1], chunks[-1]]).finding()
    assert again == found


def test_the_models_of_the_sdks_are_tallied_like_mappings() -> None:
    for number, chunk in enumerate(CHAT_COUNTED):
        assert openai.types.chat.ChatCompletionChunk.model_validate(chunk), number
    chat = [openai.types.chat.ChatCompletionChunk.model_validate(chunk) for chunk in CHAT_COUNTED]
    found = tally_of(chat).finding()
    assert isinstance(found, Reported)
    assert (found.usage, found.origin.model) == (EXACT, "gpt-4o-mini")
    classes = {
        "message_start": anthropic.types.RawMessageStartEvent,
        "content_block_start": anthropic.types.RawContentBlockStartEvent,
        "content_block_delta": anthropic.types.RawContentBlockDeltaEvent,
        "content_block_stop": anthropic.types.RawContentBlockStopEvent,
        "message_delta": anthropic.types.RawMessageDeltaEvent,
        "message_stop": anthropic.types.RawMessageStopEvent,
    }
    events = [
        classes[event["type"]].model_validate(event)  # type: ignore[attr-defined]
        for event in ANTHROPIC
        if event["type"] != "ping"
    ]
    found = tally_of(events).finding()
    assert isinstance(found, Reported)
    assert (found.usage, found.origin.request_id) == (ANTHROPIC_USAGE, "msg_1")
    delta = openai.types.responses.ResponseTextDeltaEvent.model_construct(**RESPONSES[1])
    assert tally_of([delta]).output_tokens == count_tokens(PIECES[0])


def test_a_stream_without_a_report_is_counted_by_its_text() -> None:
    found = tally_of(CHAT).finding(input_tokens=33)
    assert isinstance(found, Observed)
    assert found.usage == Usage(input_tokens=33, output_tokens=count_tokens(TEXT))
    by_tokenizer = tally_of(CHAT, tokenizer=str.split).finding()
    assert isinstance(by_tokenizer, Observed)
    assert by_tokenizer.usage.output_tokens == len(TEXT.split())


def test_a_broken_stream_is_charged_what_came_through() -> None:
    cut = tally_of(CHAT[:3]).finding(input_tokens=33, is_complete=False)
    assert isinstance(cut, Observed)
    assert cut.usage.output_tokens == count_tokens("".join(PIECES[:2]))
    assert tally_of(CHAT[:1]).finding(input_tokens=33, is_complete=False) is None
    assert tally_of([]).finding(input_tokens=33) is None


def test_a_broken_anthropic_stream_keeps_the_input_that_was_reported() -> None:
    cut = tally_of(ANTHROPIC[:5]).finding(input_tokens=7, is_complete=False)
    assert isinstance(cut, Observed)
    assert (cut.usage.input_tokens, cut.usage.cached_input_tokens) == (125, 100)
    assert cut.usage.output_tokens == count_tokens("".join(PIECES[:2]))
    # Even read to its end, a message that never said its final count is an estimate.
    assert isinstance(tally_of(ANTHROPIC[:-2]).finding(), Observed)


def test_a_running_count_is_not_final_in_a_broken_stream() -> None:
    cut = tally_of(GEMINI[:2]).finding(is_complete=False)
    assert isinstance(cut, Observed)
    assert cut.usage.output_tokens == max(4, count_tokens("".join(PIECES[:2])))
    whole = tally_of(GEMINI).finding(is_complete=False)
    assert isinstance(whole, Reported)  # it had said that it was done


def test_dashscope_repeats_its_text_and_it_counts_once() -> None:
    chunks = [{**chunk, "usage": None} for chunk in DASHSCOPE_WHOLE]
    found = tally_of(chunks).finding()
    assert isinstance(found, Observed)
    assert found.usage.output_tokens == count_tokens(TEXT)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "Provider overloaded, please retry later", "code": 502}},
        {
            "id": "gen-1",
            "error": {"code": "server_error", "message": "Provider disconnected"},
            "choices": [{"delta": {"content": "Sorry"}, "finish_reason": "error"}],
        },
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        {"type": "error", "message": "The server had an error", "code": None},
        {"type": "response.failed", "response": {"error": {"message": "Failed", "code": "x"}}},
        {"status_code": 400, "code": "InvalidParameter", "message": "Bad", "output": None},
        'event: error\ndata: {"message": "gone", "code": "x"}\n\n',
    ],
)
def test_the_text_of_an_error_is_no_output(error: Any) -> None:
    tally = tally_of([error])
    assert tally.error
    assert not tally.has_output
    assert tally.output_tokens == 0
    assert tally.finding(input_tokens=10, is_complete=False) is None


def test_first_output_is_signalled_once() -> None:
    calls: list[int] = []
    tally = StreamTally(on_first_output=lambda: calls.append(1))
    tally.feed(chat_chunk(""))
    assert (calls, tally.has_output) == ([], False)
    for piece in PIECES:
        tally.feed(chat_chunk(piece))
    assert (calls, tally.has_output) == ([1], True)
    sound = tally_of([b"\xff\xf3\x00"])
    assert sound.has_output
    assert sound.finding() is None


def test_reasoning_and_arguments_of_tools_are_output() -> None:
    reasoning = [{"choices": [{"delta": {"reasoning_content": "Let me think about that"}}]}]
    assert tally_of(reasoning).output_tokens == count_tokens("Let me think about that")
    call = {"index": 0, "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    assert tally_of([{"choices": [{"delta": {"tool_calls": [call]}}]}]).output_tokens > 5
    thinking = {"type": "content_block_delta", "delta": {"thinking": "Let me think"}}
    assert tally_of([thinking]).output_tokens == count_tokens("Let me think")


def test_text_and_wire_formats_are_understood() -> None:
    assert tally_of(PIECES).output_tokens == sum(map(count_tokens, PIECES))
    wire = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in CHAT_COUNTED) + "data: [DONE]\n"
    for size in (1, 7, 100, len(wire)):
        for text in (wire, wire.encode()):
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            if size == 1:  # the first piece must show what it is
                pieces = [text[:5], *(text[at : at + 1] for at in range(5, len(text)))]
            tally = tally_of(pieces)
            found = tally.finding()
            assert isinstance(found, Reported), size
            assert found.usage == EXACT
            assert tally.is_done


def test_a_second_answer_in_one_stream_is_added() -> None:
    start = {**ANTHROPIC[0], "message": {**ANTHROPIC[0]["message"], "id": "msg_2"}}
    found = tally_of([*ANTHROPIC, start, *ANTHROPIC[1:]]).finding()
    assert isinstance(found, Reported)
    assert found.usage == Usage(
        input_tokens=250, cached_input_tokens=200, output_tokens=30, requests=2
    )
    second = [{**chunk, "id": "chatcmpl-2"} for chunk in CHAT[:2]]
    cut = tally_of([*CHAT_COUNTED, *second]).finding(input_tokens=50, is_complete=False)
    assert isinstance(cut, Observed)
    assert cut.usage.input_tokens == 70
    assert cut.usage.output_tokens == 11 + count_tokens(PIECES[0])


def test_a_streamed_picture_counts() -> None:
    events = [
        {"type": "image_generation.partial_image", "b64_json": "aa", "partial_image_index": 0},
        {
            "type": "image_generation.completed",
            "b64_json": "aabb",
            "size": "1024x1024",
            "usage": {"input_tokens": 50, "output_tokens": 1056, "total_tokens": 1106},
        },
    ]
    found = tally_of(events).finding()
    assert isinstance(found, Reported)
    assert (found.usage.images, found.usage.resolution) == (1, "1024x1024")
    assert found.usage.output_tokens == 1056


def test_the_running_count_grows_with_the_text() -> None:
    tally = StreamTally()
    seen = []
    for piece in PIECES:
        tally.feed(chat_chunk(piece))
        seen.append(tally.output_tokens)
    assert seen == sorted(seen)
    assert seen[0] > 0


def test_a_tokenizer_that_fails_costs_precision_only() -> None:
    def failing(text: str) -> int:
        raise ValueError(text)

    assert tally_of(CHAT, tokenizer=failing).output_tokens > 0
