"""
Responses of the providers, in the shapes of their public references, and what they used.

The values are our own; the names and the nesting are the providers'.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from quota_engine.usage import Usage

OPENAI_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_730_000_000,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
        }
    ],
    "usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 0},
    },
}
OPENAI_RESPONSES = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_730_000_000,
    "model": "gpt-4.1",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 500,
        "input_tokens_details": {"cached_tokens": 256, "cache_write_tokens": 100},
        "output_tokens": 90,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 590,
    },
}
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 21,
        "cache_creation_input_tokens": 188,
        "cache_read_input_tokens": 1000,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 88},
        "output_tokens": 393,
        "service_tier": "standard",
    },
}
ANTHROPIC_USAGE = Usage(
    input_tokens=1209,
    cached_input_tokens=1000,
    cache_write_tokens=100,
    cache_write_1h_tokens=88,
    output_tokens=393,
)
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": {
        "promptTokenCount": 40,
        "cachedContentTokenCount": 16,
        "candidatesTokenCount": 12,
        "thoughtsTokenCount": 30,
        "toolUsePromptTokenCount": 8,
        "totalTokenCount": 90,
    },
    "modelVersion": "gemini-2.5-flash",
    "responseId": "r-1",
}
GEMINI_USAGE = Usage(
    input_tokens=48, cached_input_tokens=16, output_tokens=42, reasoning_tokens=30
)


def chat(**usage: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [], "usage": usage}


CASES: dict[str, tuple[Any, str | None, Usage]] = {
    "openai chat": (
        OPENAI_CHAT,
        "openai",
        Usage(
            input_tokens=1200, cached_input_tokens=1024, output_tokens=300, reasoning_tokens=128
        ),
    ),
    "openai responses": (
        OPENAI_RESPONSES,
        "openai",
        Usage(
            input_tokens=500,
            cached_input_tokens=256,
            cache_write_tokens=100,
            output_tokens=90,
            reasoning_tokens=64,
        ),
    ),
    "openai embeddings": (
        {"object": "list", "data": [{"embedding": [0.1]}], "model": "text-embedding-3-small",
         "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        "openai",
        Usage(input_tokens=8),
    ),
    "openai image with tokens": (
        {"created": 1, "size": "1024x1024", "data": [{"b64_json": "aa"}, {"b64_json": "bb"}],
         "usage": {"input_tokens": 50, "output_tokens": 8320, "total_tokens": 8370,
                   "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}},
        "openai",
        Usage(input_tokens=50, output_tokens=8320, images=2, resolution="1024x1024"),
    ),
    "openai image without tokens": (
        {"created": 1, "data": [{"url": "https://images.example/1.png"}]},
        "openai",
        Usage(images=1),
    ),
    "openai transcription by tokens": (
        {"text": "hi", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 45,
                                 "total_tokens": 59, "input_token_details": {"audio_tokens": 14}}},
        "openai",
        Usage(input_tokens=14, output_tokens=45),
    ),
    "openai transcription by duration": (
        {"text": "hi", "usage": {"type": "duration", "seconds": 27}},
        "openai",
        Usage(audio_seconds=27),
    ),
    "openai transcription, verbose": (
        {"task": "transcribe", "language": "english", "duration": 8.47, "text": "hi"},
        "openai",
        Usage(audio_seconds=Decimal("8.47")),
    ),
    "openai video": (
        {"id": "video_1", "object": "video", "model": "sora-2", "seconds": "8",
         "size": "1280x720", "status": "completed"},
        "openai",
        Usage(video_seconds=8, resolution="1280x720"),
    ),
    "anthropic": (ANTHROPIC, "anthropic", ANTHROPIC_USAGE),
    "anthropic, not named": (ANTHROPIC, None, ANTHROPIC_USAGE),
    "anthropic without caches": (
        {"type": "message", "usage": {"input_tokens": 5, "output_tokens": 6}},
        "anthropic",
        Usage(input_tokens=5, output_tokens=6),
    ),
    "gemini": (GEMINI, "gemini", GEMINI_USAGE),
    "gemini through its compatible door": (
        {**chat(prompt_tokens=10, completion_tokens=5, total_tokens=215),
         "model": "gemini-2.5-pro"},
        None,
        Usage(input_tokens=10, output_tokens=205, reasoning_tokens=200),
    ),
    "dashscope": (
        {"status_code": 200, "request_id": "q-1", "output": {"text": "你好"},
         "usage": {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42,
                   "prompt_tokens_details": {"cached_tokens": 20},
                   "output_tokens_details": {"reasoning_tokens": 7}}},
        "dashscope",
        Usage(input_tokens=30, cached_input_tokens=20, output_tokens=12, reasoning_tokens=7),
    ),
    "qwen, compatible": (
        chat(prompt_tokens=3019, completion_tokens=104, total_tokens=3123,
             prompt_tokens_details={"cached_tokens": 2048,
                                    "cache_creation": {"ephemeral_5m_input_tokens": 200},
                                    "cache_creation_input_tokens": 200}),
        "dashscope",
        Usage(input_tokens=3019, cached_input_tokens=2048, cache_write_tokens=200,
              output_tokens=104),
    ),
    "dashscope picture": (
        {"request_id": "q", "output": {"task_status": "SUCCEEDED"},
         "usage": {"image_count": 2, "width": 1328, "height": 1328}},
        "dashscope",
        Usage(images=2, resolution="1328x1328"),
    ),
    "dashscope film": (
        {"request_id": "q", "output": {"video_url": "https://films.example/1.mp4"},
         "usage": {"video_duration": 5, "video_count": 2, "SR": 720}},
        "dashscope",
        Usage(video_seconds=10, resolution="720p"),
    ),
    "dashscope film, billed duration": (
        {"request_id": "q", "output": {},
         "usage": {"duration": 12.5, "output_video_duration": 10, "size": "1280*720"}},
        "dashscope",
        Usage(video_seconds=Decimal("12.5"), resolution="1280*720"),
    ),
    "dashscope speech": (
        {"request_id": "q", "output": {"audio": {"url": "u"}}, "usage": {"characters": 195}},
        "dashscope",
        Usage(characters=195),
    ),
    "dashscope recognition": (
        {"request_id": "q", "output": {}, "usage": {"duration": 9}},
        "dashscope",
        Usage(audio_seconds=9),
    ),
    "dashscope embedding": (
        {"request_id": "q", "output": {"embeddings": []}, "usage": {"total_tokens": 26}},
        "dashscope",
        Usage(input_tokens=26),
    ),
    "deepseek": (
        chat(prompt_tokens=900, completion_tokens=80, total_tokens=980,
             prompt_cache_hit_tokens=640, prompt_cache_miss_tokens=260,
             completion_tokens_details={"reasoning_tokens": 50}),
        "deepseek",
        Usage(input_tokens=900, cached_input_tokens=640, output_tokens=80, reasoning_tokens=50),
    ),
    "moonshot": (
        chat(prompt_tokens=90, completion_tokens=8, total_tokens=98, cached_tokens=64),
        "moonshot",
        Usage(input_tokens=90, cached_input_tokens=64, output_tokens=8),
    ),
    "xai: reasoning is beside the completion": (
        chat(prompt_tokens=37, completion_tokens=11, total_tokens=348,
             completion_tokens_details={"reasoning_tokens": 300}),
        "xai",
        Usage(input_tokens=37, output_tokens=311, reasoning_tokens=300),
    ),
    "litellm, of an anthropic answer": (
        chat(prompt_tokens=1209, completion_tokens=393, total_tokens=1602,
             cache_creation_input_tokens=188, cache_read_input_tokens=1000,
             prompt_tokens_details={"cached_tokens": 1000, "cache_creation_tokens": 188,
                                    "cache_creation_token_details":
                                        {"ephemeral_5m_input_tokens": 100,
                                         "ephemeral_1h_input_tokens": 88}}),
        None,
        ANTHROPIC_USAGE,
    ),
    "openrouter, with its cost": (
        chat(prompt_tokens=10, completion_tokens=4, total_tokens=14, cost=0.00014,
             prompt_tokens_details={"cached_tokens": 0}),
        "openrouter",
        Usage(input_tokens=10, output_tokens=4),
    ),
    "cohere rerank": (
        {"id": "r", "results": [], "meta": {"billed_units": {"search_units": 2}}},
        "cohere",
        Usage(requests=2),
    ),
    "jina rerank": (
        {"model": "jina-reranker", "results": [], "usage": {"total_tokens": 815}},
        "jina",
        Usage(input_tokens=815),
    ),
    "bedrock, read by genai-prices": (
        {"output": {}, "usage": {"inputTokens": 5, "outputTokens": 6, "totalTokens": 25,
                                 "cacheReadInputTokens": 10, "cacheWriteInputTokens": 4}},
        "aws",
        Usage(input_tokens=19, cached_input_tokens=10, cache_write_tokens=4, output_tokens=6),
    ),
    "perplexity, read by genai-prices": (
        chat(prompt_tokens=5, completion_tokens=6, total_tokens=11, reasoning_tokens=10,
             citation_tokens=4),
        "perplexity",
        Usage(input_tokens=5, output_tokens=20, reasoning_tokens=10),
    ),
    "langchain": (
        {"content": "Hi", "usage_metadata": {"input_tokens": 60, "output_tokens": 9,
                                             "total_tokens": 69,
                                             "input_token_details": {"cache_read": 40},
                                             "output_token_details": {"reasoning": 3}}},
        None,
        Usage(input_tokens=60, cached_input_tokens=40, output_tokens=9, reasoning_tokens=3),
    ),
    "a bare usage object": (
        {"prompt_tokens": 3, "completion_tokens": 4}, None, Usage(input_tokens=3, output_tokens=4)
    ),
    "whole numbers written as floats": (
        chat(prompt_tokens=12.0, completion_tokens=3.0), None,
        Usage(input_tokens=12, output_tokens=3),
    ),
}  # fmt: skip
