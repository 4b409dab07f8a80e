"""
Pictures of series, for people: on paper, in black and white, too. Needs ``quota-engine[plots]``.

* drawing   usage in layers, cost by currency: one figure for each series
* balance   the balance of one quota, with its grants' begins and ends
* looks     what they share: fonts, greys and hatches, ticks, legends, and how they are written

A figure draws the numbers of its series as they are; it adds up nothing and reads nothing. What
tells layers apart is hatch and lightness first, colour beside it. Names are drawn letter by
letter: no name is read as mathematics or as a reason to leave it out.
"""

try:
    import matplotlib  # noqa: F401  # the only place where it may be missing
except ImportError as missing:
    raise ImportError("pictures need the extra: pip install 'quota-engine[plots]'") from missing
