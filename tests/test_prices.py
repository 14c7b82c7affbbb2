from __future__ import annotations

import pytest

from selfroute.errors import ConfigError
from selfroute.prices import Price
from selfroute.types import Usage


def test_price_is_per_million_tokens() -> None:
    assert Price(prompt_usd=2, completion_usd=8).cost_usd(Usage(500_000, 250_000)) == pytest.approx(3.0)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_price_that_is_none(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"completion_usd: .* is not a price"):
        Price(completion_usd=wrong)
