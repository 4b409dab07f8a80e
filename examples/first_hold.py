"""The README's first hold. Run it: `./run python examples/first_hold.py`."""

from quota_engine import QuotaEngine, QuotaInsufficientError

with QuotaEngine.open() as engine:  # no URLs are set: it starts servers of its own
    engine.issue_grant("user:42", "text_token", 10_000)
    with engine.hold("user:42", "text_token", 2_000) as hold:  # before the model is called
        hold.capture(1_234)  # after it: what was really used; the rest is free again
    try:
        engine.place_hold("user:42", "text_token", 1_000_000_000)
    except QuotaInsufficientError as refusal:
        print(refusal)
    print(engine.read_balance("user:42", "text_token").spendable)
