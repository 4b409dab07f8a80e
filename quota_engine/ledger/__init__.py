"""What PostgreSQL remembers: tables, and the questions asked of them."""

from quota_engine.ledger.ledger import Ledger

__all__ = ["Ledger"]
