"""
OpenAI's own client, metered. Run it: `./run python examples/openai_metered.py`.

It asks the server that OPENAI_BASE_URL names, with OPENAI_API_KEY.
"""

from collections.abc import Iterator

from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

from quota_engine import QuotaEngine, QuotaInsufficientError

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
engine = QuotaEngine.open()  # no URLs are set: it starts servers of its own
MODEL = "gpt-4o-mini"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What are quotas?"}]


@engine.requires_quota("text_token", provider="openai")  # the rest is told by the arguments
def ask(
    user_id: str, model: str, messages: list[ChatCompletionMessageParam], max_tokens: int
) -> ChatCompletion:
    return client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens)


@engine.requires_quota("text_token", provider="openai", model=MODEL)
def tell(
    user_id: str, messages: list[ChatCompletionMessageParam]
) -> Iterator[ChatCompletionChunk]:
    yield from client.chat.completions.create(
        model=MODEL,
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},  # the last chunk says exactly what was used
    )


with engine:
    engine.issue_grant("user:42", "text_token", 100_000)
    engine.prices.set("openai", MODEL, "input_token", "0.15")  # per million tokens
    engine.prices.set("openai", MODEL, "cached_input_token", "0.075")
    engine.prices.set("openai", MODEL, "output_token", "0.6")

    print(ask("user:42", MODEL, QUESTION, max_tokens=500).choices[0].message.content)
    for chunk in tell("user:42", QUESTION):
        print("".join(choice.delta.content or "" for choice in chunk.choices), end="")
    print()
    print(engine.read_balance("user:42", "text_token").spendable, "tokens are left")

    try:
        ask("user:43", MODEL, QUESTION, max_tokens=500)
    except QuotaInsufficientError as refusal:
        print(refusal)  # and OpenAI was not asked
