"""What PostgreSQL remembers: tables, and the questions asked of them."""

from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.pricing import PriceTables

__all__ = ["Ledger", "PriceTables"]
