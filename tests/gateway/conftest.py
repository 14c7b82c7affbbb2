from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.gateway.live import Live, gateway


@pytest.fixture(scope="module")
def pair() -> Iterator[Live]:
    """A pair whose device answers easy questions and hands off hard ones."""
    with gateway() as live:
        yield live
