from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.counting.test_summary import made

from selfroute.errors import ConfigError
from selfroute.evaluation.counting import costs, work
from selfroute.evaluation.counting.columns import columns_of
from selfroute.evaluation.counting.costs import load_prices
from selfroute.evaluation.counting.split import Split, splits_of
from selfroute.evaluation.records import Record
from selfroute.network.link import Network
from selfroute.prices import Price, Prices

ROOT = Path(__file__).parents[3]


def split(*rows: dict[str, Any]) -> Split:
    base = {"strategy": "s", "source": "device", "wants_cloud": False, "device_correct": True, "cloud_correct": True}
    records = [Record(id=str(i), **{**base, **row}) for i, row in enumerate(rows)]
    return splits_of(columns_of(records), seed=0).splits[0]


WORK = {"attempt_prompt_tokens": 100, "attempt_tokens": 10, "local_prompt_tokens": 200, "local_tokens": 40,
        "cloud_answer_prompt_tokens": 80, "cloud_answer_tokens": 60}  # fmt: skip


def test_kept_pays_the_device_and_sent_pays_the_attempt_and_the_cloud() -> None:
    prices = Prices(device=Price(prompt_usd=1, completion_usd=2), cloud=Price(prompt_usd=10, completion_usd=30))
    kept, sent = (costs.usd(took, prices) for took in (work.kept(split(WORK)), work.sent(split(WORK), Network())))
    assert kept == pytest.approx((200 + 2 * 40) / 1e6)
    assert sent == pytest.approx((100 + 2 * 10 + 10 * 80 + 30 * 60) / 1e6)


def test_latency_by_hand() -> None:
    network = Network(
        rtt_s=0.1, uplink_mbps=1, downlink_mbps=0.001, bytes_per_token=5, device_prompt_tokens_per_s=100,
        device_tokens_per_s=10, cloud_prompt_tokens_per_s=800, cloud_tokens_per_s=100,
    )  # fmt: skip
    found = split(WORK)
    kept, sent = (costs.latency_s(took, network) for took in (work.kept(found), work.sent(found, network)))
    assert kept == pytest.approx(200 / 100 + 40 / 10)
    receiving = 60 * 5 * 8 / 1000  # slower than writing them
    assert sent == pytest.approx((100 / 100 + 10 / 10) + 0.1 + 80 * 5 * 8 / 1e6 + 80 / 800 + receiving)


def test_what_the_clouds_own_network_adds_is_paid_for_each_token_it_writes() -> None:
    found = split(WORK)
    (kept, sent), (slow_kept, slow) = (
        [costs.latency_s(took, network) for took in (work.kept(found), work.sent(found, network))]
        for network in (Network(), Network(cloud_extra_s_per_token=0.5))
    )
    assert slow - sent == pytest.approx(60 * 0.5)
    assert slow_kept == kept, "the device does not wait for it"


def test_records_without_tokens_have_no_costs() -> None:
    assert work.is_known(split(WORK))
    assert not work.is_known(split(WORK, WORK | {"attempt_tokens": None}))
    assert not work.is_known(splits_of(columns_of(made("x", n=3)), seed=0).splits[0])


def test_the_example_is_a_price_table() -> None:
    found = load_prices(ROOT / "recipes" / "prices.yaml", device=["embedded:device", "device"], cloud=["gpt-4o"])
    assert (found.device_model, found.cloud_model, found.as_of) == ("device", "gpt-4o", "2024-10-02")
    assert found.prices.cloud.completion_usd == 10 and np.isfinite(found.prices.device.prompt_usd)


GOOD = "as_of: 2026-11-01\nmodels: {device: {prompt_usd: 0}, cloud: {prompt_usd: 1, completion_usd: 2}}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.replace("2026-11-01", "soon"), "as_of is 'soon', not a date"),
        ("models: {cloud: {prompt_usd: 1}}", "as_of is None, not a date"),
        (GOOD.replace("cloud:", "clout:"), "no price of 'gpt' or 'cloud'"),
        (GOOD.replace("prompt_usd: 1", "prompt_usd: -1"), "cloud.prompt_usd: -1.0 is not a price"),
        (GOOD.replace("prompt_usd: 1", "prompt_usd: cheap"), "cloud.prompt_usd is 'cheap', not a number"),
        (GOOD.replace("prompt_usd: 1", "in: 1"), "write {prompt_usd: …, completion_usd: …}"),
        (GOOD + "currency: EUR\n", "unknown key 'currency'"),
        ("as_of: 2026-11-01\n", "'models' is missing"),
        ("[1]", "is not a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_broken_price_table_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message.replace("{", r"\{").replace("}", r"\}").replace("[", r"\[")):
        load_prices(tmp_path / "p.yaml", device=["device"], cloud=["gpt", "cloud"])


def test_a_missing_price_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml' does not exist; `selfroute recipes prices` shows an example"):
        load_prices(tmp_path / "no.yaml", device=["device"], cloud=["cloud"])


@pytest.mark.parametrize("values", [{"uplink_mbps": 0}, {"rtt_s": -0.1}, {"cloud_extra_s_per_token": -1}])
def test_a_network_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"network\.\w+: .* is not a positive number"):
        Network(**values)
