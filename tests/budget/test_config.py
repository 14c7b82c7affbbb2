"""Budgets as they are written in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfroute.budget.base import Estimate, Unlimited
from selfroute.budget.controller import CompetingBudget
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.sqlite import SQLiteLedger
from selfroute.config import BudgetOptions, build, make_budget
from selfroute.errors import BudgetExceeded, ConfigError
from selfroute.types import Usage


def read(values: Mapping[str, Any]) -> Any:
    return make_budget(build(BudgetOptions, values, where="serve.yaml: budget"))


async def test_everything_at_once(tmp_path: Path) -> None:
    file = str(tmp_path / "b.sqlite")
    budget = read(
        {
            "share": 0.3,
            "burst": 5,
            "calls": {"per_day": 1000, "per_minute": 10},
            "tokens": {"total": 10_000},
            "usd": {"per_month": 5},
            "ledger": f"sqlite:{file}",
            "scope": "bot",
        }
    )
    assert isinstance(budget, CompetingBudget) and budget.controller.gain == 2 / 5
    assert [(state.limit, state.cap) for state in await budget.status()] == [
        ("share", 0.3),
        ("calls_per_minute", 10),
        ("calls_per_day", 1000),
        ("tokens_total", 10_000),
        ("usd_per_month", 5),
    ]
    assert isinstance(budget.budget, LedgerBudget) and isinstance(budget.budget.ledger, SQLiteLedger)
    assert budget.budget.ledger.scope == "bot"
    lease = await budget.reserve(Estimate(Usage(10, 10), 0.5))
    await lease.spend(Usage(5, 5), 0.25)
    assert [state.spent for state in await budget.status()] == [1, 1, 1, 10, 0.25]
    with pytest.raises(
        BudgetExceeded,
        match=r"'usd_per_month' has no room for this call: it may take 4\.76, and 4\.75 is left: 0\.25 of 5 spent; it",
    ):
        await budget.reserve(Estimate(cost_usd=4.76))
    await budget.aclose()


def test_without_options_there_is_no_limit() -> None:
    assert isinstance(make_budget(None), Unlimited)


def test_the_zone_is_that_of_the_windows() -> None:
    budget = read({"usd": {"per_day": 1}, "ledger": "memory", "zone": "Europe/Berlin"})
    assert [str(limit.zone) for limit in budget.limits.windows] == ["Europe/Berlin"]


def test_without_a_share_nothing_competes() -> None:
    assert isinstance(read({"usd": {"total": 1}, "ledger": "memory"}), LedgerBudget)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shar": 0.3}, r"^serve\.yaml: budget: unknown key 'shar'; did you mean 'share'\?$"),
        ({"calls": {"per_dya": 3}}, r"budget: calls: unknown key 'per_dya'; did you mean 'per_day'\?$"),
        ({"calls": 5}, r"calls: 5 must be a mapping, e\.g\. \{per_minute: …\}$"),
        ({"calls": {"per_day": 1.5}}, r"calls: per_day: 1\.5 is not a whole number$"),
        ({"usd": {"total": -1}}, r"usd: total: -1 is not at least 0$"),
        ({"share": 2}, r"share: 2 is not between 0 and 1$"),
        ({"share": 0}, r"share: 0 is not in \(0, 1\]"),
        ({"share": 0.3, "burst": 0}, r"burst: 0 is not at least 1$"),
        (
            {"share": 0.3, "zone": "Europe/Berlni"},
            r"zone: unknown time zone 'Europe/Berlni'; did you mean 'Europe/Berlin'",
        ),
        (
            {"share": 0.3, "zone": "../etc/passwd"},
            r"budget\.zone: unknown time zone '\.\./etc/passwd'.*; write e\.g\. Europe",
        ),
        ({}, r"budget: it sets no limit; write e\.g\. "),
        ({"share": 0.3, "ledger": "sqlit"}, r"unknown ledger 'sqlit'; did you mean 'sqlite'\?"),
        ({"share": 0.3, "ledger": "memory:x"}, r"memory takes no 'x'; write ledger: memory$"),
        ({"share": 0.3, "ledger": {"sqlite": {"pth": "x"}}}, r"unknown key 'pth'; did you mean 'path'\?"),
        ({"share": 0.3, "ledger": "redis:redis://127.0.0.1:1"}, r"^Redis at redis://127\.0\.0\.1:1 does not answer"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(values)


def test_the_gateway_reads_it() -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install 'selfroute[serve]'")
    from selfroute.assemble.serving import make_service
    from selfroute.config.serving import ServeRecipe

    cloud = {"openai": {"base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key_env": None}}
    values = {
        "device": cloud,
        "cloud": cloud,
        "budget": {"share": 0.5, "ledger": "memory"},
        "on_budget": "reject",
    }
    service = make_service(build(ServeRecipe, values, where="serve.yaml"))
    assert isinstance(service.budget, CompetingBudget)
    assert service.on_budget == "reject"
