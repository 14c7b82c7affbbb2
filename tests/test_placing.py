"""`assemble.place_recipe`: the recipes of the repository, what they leave, and what is refused and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

from selfroute.assemble.placing import place_recipe
from selfroute.commands.main import app
from selfroute.config import PlaceRecipe, build, load_recipe
from selfroute.errors import ConfigError
from selfroute.planning.engines import read_placement
from selfroute.planning.shapes import Mixture
from selfroute.planning.solvers.flows import has_flow

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {
    "problem": "sources",
    "cluster": {"fat_tree": {"servers": 2, "leaf": 1}},
    "per_server": 2,
    "load": {"generated": {"sources": 4, "own": 0.5}},
    "model": {"layers": 2, "experts": 8, "top_k": 2, "dense": [0]},
}


def place(folder: Path, **changes: Any) -> dict[str, Any]:
    recipe = build(PlaceRecipe, {**SMALL, "out": str(folder / "out"), **changes}, where="a test's recipe")
    return place_recipe(recipe)


def strict(text: str) -> Any:
    """JSON as everybody reads it: no NaN, no infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("name", ["toy", "slots", "cap", "sources", "r1"])
def test_a_recipe_of_the_repository_leaves_its_files(tmp_path: Path, name: str) -> None:
    file = ROOT / f"recipes/placement/{name}.yaml"
    result = CliRunner().invoke(app, ["place", str(file), f"out={tmp_path}", "pareto=[]"])
    assert result.exit_code == 0, result.output
    plan = strict((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert {"method", "assign", "objective", "bound", "gap", "busiest", "mean", "cpu_s"} <= set(plan)
    assert plan["gap"] == pytest.approx(0, abs=0.01)
    mixture = Mixture(**plan["model"] | {"dense": tuple(plan["model"]["dense"])})
    text = (tmp_path / "sglang.json").read_text(encoding="utf-8")
    held = read_placement("sglang", text, mixture, plan["ranks"], where="sglang.json")
    assert (held.argmax(axis=2) == np.array(plan["assign"])).all()
    assert f"{plan['method']} costs" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [m["method"] for m in plan["methods"][1:]] == ["greedy", "unweighted", "eplb", "linear", "round_robin"]


def test_the_papers_recipe_takes_a_flow_and_no_engine(tmp_path: Path) -> None:
    recipe = load_recipe(
        PlaceRecipe, ROOT / "recipes/placement/paper.yaml", [f"out={tmp_path}", "model.layers=6", "model.dense=[]"]
    )
    best = "flow" if has_flow() else "lp"
    plan = place_recipe(recipe)
    assert (plan["method"], plan["files"]) == (best, [])
    assert plan["slots"] == {"layer": 16, "total": 60, "redundant": 0, "equal": False}


def test_a_network_where_nothing_can_be_saved_says_so(tmp_path: Path) -> None:
    plan = place(tmp_path, load={"generated": {"sources": 4, "own": 0}})
    assert plan["flat"] and plan["saved"] == 0.0
    assert {m["saved"] for m in plan["methods"]} == {0.0}, "exactly"
    assert "Nothing can be saved: every placement costs" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_redundant_copies_are_listed_by_rank(tmp_path: Path) -> None:
    plan = place(tmp_path, slots={"redundant": 4}, formats=["sglang", "vllm-ascend", "vllm-pr49572", "vllm-pr41141"])
    assert plan["method"] == "rounding" and plan["bound"] <= plan["objective"]
    copies = sum(len(ranks) if isinstance(ranks, list) else 1 for ranks in plan["assign"][0])
    assert copies == 12
    assert set(plan["left_out"]) == {"greedy", "unweighted", "round_robin"}
    assert len(plan["files"]) == 4 and all((tmp_path / "out" / name).is_file() for name in plan["files"])


def test_today_is_what_savings_are_measured_against(tmp_path: Path) -> None:
    first = place(tmp_path)
    file = tmp_path / "today.json"
    (tmp_path / "out" / "sglang.json").rename(file)
    again = place(tmp_path, today={"sglang": str(file)})
    assert again["reference"] == "today" and again["moved"] == 0 and again["saved"] == 0.0
    moved = place(tmp_path, today={"sglang": str(file)}, load={"generated": {"sources": 4, "own": 0.5, "seed": 9}})
    assert moved["moved"] > 0 and moved["saved"] > 0
    held = place(tmp_path, today="linear", move_price=1000)
    assert held["moved"] == 0 and held["objective"] > first["objective"]


def test_seconds_are_kept_low_where_they_are_asked_for(tmp_path: Path) -> None:
    plan = place(tmp_path, unit="seconds", links={"latency_s": 1e-5})
    assert plan["objective"] == plan["seconds"] and plan["network_s_per_token"] == plan["seconds"] / 2


def test_money_is_shown_only_where_it_was_given(tmp_path: Path) -> None:
    assert place(tmp_path)["usd_per_million_tokens"] is None
    plan = place(tmp_path, gpu_hour_usd=2.0, tokens_per_s=1000)
    assert plan["usd_per_million_tokens"] == pytest.approx(4 * 2.0 / 3.6)
    assert "A million tokens cost $2.22" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_the_seed_draws_what_has_none_of_its_own(tmp_path: Path) -> None:
    one, other = (place(tmp_path, seed=seed)["objective"] for seed in (1, 2))
    assert one != other
    fixed = {"generated": {"sources": 4, "own": 0.5, "seed": 5}}
    assert place(tmp_path, seed=1, load=fixed)["objective"] == place(tmp_path, seed=2, load=fixed)["objective"]


def test_a_load_measured_on_a_model_needs_no_shape(tmp_path: Path) -> None:
    from selfroute.train.imitation.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "a.txt").write_text("Using the numbers [3, 5, 7]\nreach 26\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("an equation\n", encoding="utf-8")
    measured = {"model": str(tmp_path / "model"), "prompts": [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]}
    plan = place(tmp_path, load={"measured": measured}, model=None)
    assert plan["model"] == {"layers": 2, "experts": 8, "top_k": 2, "dense": (), "groups": 1, "hidden_size": 32,
                             "bytes_per_value": 2.0}  # fmt: skip
    assert plan["load"] == "measured: routers of model on 3 prompts"
    with pytest.raises(ConfigError, match="the model 3 × 8"):
        place(tmp_path, load={"measured": measured}, model={"layers": 3, "experts": 8, "top_k": 2})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"problem": "homs"}, "'homs' is not one of homes, sources; did you mean 'homes'?"),
    ({"cluster": "fat_tre"}, "cluster: unknown cluster 'fat_tre'; did you mean 'fat_tree'?"),
    ({"cluster": {"fat_tree": {"server": 2}}}, "unknown key 'server'; did you mean 'servers'?"),
    ({"cluster": "fat_tree"}, "option 'servers' is missing"),
    ({"cluster": "edges:none.json"}, "cluster.edges: file 'none.json' does not exist"),
    ({"load": "sglang:none.pt"}, "load.sglang: none.pt does not exist"),
    ({"load": {"generated": {"sources": 3}}}, "load: 3 sources do not divide 4 ranks"),
    ({"model": None}, "model: is missing; write model: {layers"),
    ({"model": {"layers": 2, "experts": 6, "top_k": 2}}, "6 experts of a layer do not divide over 4 ranks"),
    ({"slots": {"redundant": 3}}, "11 experts of a layer do not divide over 4 ranks"),
    ({"slots": {"layer_slack": 2}, "formats": ["sglang"]}, "formats: engines want equal slots"),
    ({"method": "assign"}, "method: 'assign' is not one of assignment, flow"),
    ({"compare": ["gready"]}, "compare: 'gready' is not one of .*; did you mean 'greedy'?"),
    ({"formats": ["vllm"]}, "formats: 'vllm' is not one of sglang, vllm-ascend"),
    ({"homes": [0, 0]}, "homes: tokens of problem: sources start on every rank"),
    ({"move_price": 1}, "move_price: nothing moves without today's placement"),
    ({"today": "greedy"}, "today: 'greedy' is not one of linear"),
    ({"today": "sglang:none.json"}, "today.sglang: file 'none.json' cannot be read"),
    ({"gpu_hour_usd": 2}, "gpu_hour_usd and tokens_per_s make a price together"),
    ({"cap": 0.9}, "cap: 0.9 is not at least 1"),
    ({"links": {"gbps": 0}}, "links.gbps: 0.0 must be a number above 0"),
]


@pytest.mark.parametrize(("changes", "told"), REFUSED, ids=[told[:40] for _, told in REFUSED])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    import re

    pattern = re.escape(told).replace(r"\.\*", ".*")
    with pytest.raises(ConfigError, match=pattern) as caught:
        place(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    file = str(ROOT / "recipes/placement/toy.yaml")
    result = CliRunner().invoke(app, ["place", file, "cluster.dragonfly.servers=5", f"out={tmp_path / 'out'}"])
    assert result.exit_code == 2
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: slots: 16 experts of a layer do not divide over 5 ranks")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    from selfroute.errors import SelfRouteError

    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(SelfRouteError, match="out: cannot write to"):
        place(tmp_path)
