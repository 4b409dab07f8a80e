"""
The price book's rules: what a price is, and what a call costs by some. No I/O, no clock.

``price`` values and their checks · ``cost`` the cost of a usage · ``catalog`` providers and
models · ``litellm``, ``genai`` lists that others keep, read as prices · ``importing`` what an
import would change.
"""

from quota_engine.prices.cost import Cost, CostLine, cost_of
from quota_engine.prices.price import NewPrice, Origin, Price, PricingType, Unit, new_price

__all__ = [
    "Cost",
    "CostLine",
    "NewPrice",
    "Origin",
    "Price",
    "PricingType",
    "Unit",
    "cost_of",
    "new_price",
]
