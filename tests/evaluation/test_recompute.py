from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.evaluation.counting.test_summary import fixed, made
from tests.evaluation.recompute import main

from selfroute.evaluation.counting.costs import PriceTable
from selfroute.evaluation.records import Record, append
from selfroute.evaluation.results import write_results
from selfroute.network.link import Network
from selfroute.prices import Price, Prices

PRICES = PriceTable(prices=Prices(device=Price(completion_usd=0.1), cloud=Price(prompt_usd=2, completion_usd=8)),
                    as_of="2026-11-01")  # fmt: skip


def folder(out: Path, records: list[Record], **options: object) -> Path:
    out.mkdir()
    with (out / "records.jsonl").open("w", encoding="utf-8") as file:
        for record in records:
            append(file, record)
    (out / "samples.jsonl").touch()
    write_results(out, share=0.3, seed=3, task="toy", **options)  # type: ignore[arg-type]
    return out


def world() -> list[Record]:
    rows = [
        *fixed("always_device", wants=False),
        *fixed("always_cloud", wants=True),
        *made("sees"),
        *made("asks", scored=False),
    ]
    rows += [replace(r, strategy="coarse", score=round(r.score or 0, 1)) for r in made("sees")]
    work = [
        replace(r, attempt_prompt_tokens=5, attempt_tokens=i % 30 if r.strategy != "asks" else 0,
                local_prompt_tokens=5, local_tokens=30 + i % 30, cloud_answer_prompt_tokens=4,
                cloud_answer_tokens=50 + i % 90, solve_rate=(i % 5) / 4, solve_samples=4)
        for i, r in enumerate(rows)
    ]  # fmt: skip
    broken = [r.key for r in work if r.id == "p0017"][:1]
    return [replace(r, device_correct=None, error="down") if r.key in broken else r for r in work]


def judged(records: list[Record]) -> list[Record]:
    """The same with qualities between right and wrong."""
    return [
        replace(
            r,
            device_correct=None if r.device_correct is None else 0.3 * r.device_correct + (int(r.id[1:]) % 7) / 10,
            cloud_correct=None if r.cloud_correct is None else 0.9 * r.cloud_correct + 0.05,
        )
        for r in records
    ]


def joint(records: list[Record]) -> list[Record]:
    """With a strategy in which both sides write one answer, at two points, and traffic that was counted."""
    own = [r for r in records if r.strategy == "sees"]
    together = [
        replace(
            r, strategy="together", source="both", wants_cloud=True, joint=True, point=point,
            attempt_tokens=None, attempt_prompt_tokens=None, correct=int(r.id[1:]) % 10 < 5 + point,
            device_prompt_tokens=5, device_tokens=20, cloud_prompt_tokens=9 + i % 3,
            cloud_tokens=int(5 * point) + i % 5, cloud_calls=1 + i % 2, up_bytes=50 + i % 7, down_bytes=20,
            cloud_layer_tokens=300 + i % 11, device_layer_tokens=70, void_tokens=i % 2,
        )
        for point in (1.0, 3.0)
        for i, r in enumerate(own)
    ]  # fmt: skip
    counted = [
        replace(r, cloud_calls=1, up_bytes=31, cloud_prompt_tokens=7, cloud_tokens=60, cloud_layer_tokens=400)
        if r.wants_cloud and r.strategy in ("always_cloud", "sees", "always_device")
        else r
        for r in records
    ]
    return [*counted, *together]


AXES = ("calls", "round_trips", "cloud_tokens", "cloud_prompt_tokens", "layer_tokens", "bytes", "seconds", "usd")


def test_a_second_script_finds_every_number_of_the_summary(tmp_path: Path) -> None:
    out = folder(
        tmp_path / "out",
        world(),
        prices=PRICES,
        network=Network(rtt_s=0.2, cloud_extra_s_per_token=0.01),
        resamples=400,
    )
    assert main(out) == []


def test_it_finds_every_number_of_qualities_and_of_answers_that_both_wrote(tmp_path: Path) -> None:
    fast = Network(rtt_s=0.01, device_tokens_per_s=400.0, device_prompt_tokens_per_s=9000.0)
    rows = [replace(r, values_leaked=i % 3, values_lost=i % 2) for i, r in enumerate(judged(joint(world())))]
    out = folder(tmp_path / "out", rows, prices=PRICES, network=fast, resamples=400, axes=AXES)
    assert main(out) == []
    summary = json.loads((out / "summary.json").read_text())
    assert all(axis["lines"][-1]["accuracy"][-1] is not None for axis in summary["axes"])


def test_the_cloud_alone_spends_what_was_counted_where_it_was_asked(tmp_path: Path) -> None:
    rows = [replace(r, up_bytes=30, down_bytes=70) if r.strategy == "always_cloud" else r for r in world()]
    out = folder(tmp_path / "out", rows, resamples=50, axes=("bytes",))
    assert main(out) == []
    (axis,) = json.loads((out / "summary.json").read_text())["axes"]
    as_run = {line["name"]: line["points"][0]["spent"] for line in axis["lines"]}
    assert axis["cloud_spent"] == pytest.approx(as_run["always_cloud"])


@pytest.mark.parametrize("place", ["accuracy", "over_random"])
def test_it_would_notice_on_an_axis(tmp_path: Path, place: str) -> None:
    out = folder(tmp_path / "out", world(), resamples=50, axes=("calls", "cloud_tokens"))
    summary = json.loads((out / "summary.json").read_text())
    summary["axes"][1]["lines"][2][place][1] += 0.001
    summary["axes"][1]["lines"][2]["ci95"][0] = [0.1, 0.2]
    (out / "summary.json").write_text(json.dumps(summary))
    found = [line.split(" is ")[0] for line in main(out)]
    assert found == [f"cloud_tokens: sees: {place}.1", "cloud_tokens: sees: ci95.0"]


def test_it_would_notice(tmp_path: Path) -> None:
    out = folder(tmp_path / "out", world(), resamples=50)
    summary = json.loads((out / "summary.json").read_text())
    summary["strategies"][2]["apgr"] += 0.001
    summary["n"] = 7
    summary["strategies"][2]["ci95"]["overall_accuracy"] = [0.1, 0.2]
    (out / "summary.json").write_text(json.dumps(summary))
    assert [line.split(" is ")[0] for line in main(out)] == ["summary: n", "sees: apgr", "sees: ci95.overall_accuracy"]


@pytest.mark.parametrize("name", ["overall_accuracy", "usd", "latency_p95_s"])
def test_every_number_of_a_strategy_is_looked_at(tmp_path: Path, name: str) -> None:
    out = folder(tmp_path / "out", world(), prices=PRICES, resamples=50)
    summary = json.loads((out / "summary.json").read_text())
    summary["strategies"][3][name] += 0.01
    (out / "summary.json").write_text(json.dumps(summary))
    assert any(f"asks: {name} is" in line for line in main(out))
