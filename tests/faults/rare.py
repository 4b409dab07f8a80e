"""Parameters that CI leaves to `make faults`: others inject the same."""

from __future__ import annotations

from functools import partial

import pytest

RARE = partial(pytest.param, marks=pytest.mark.fault_slow)
