"""`selfroute train --dry-run`: the paper's recipes pass offline, nothing is written, and bad input is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfroute.assemble.dry_run import DryRun
from selfroute.commands.main import app
from selfroute.config import algorithm_of, at, build, load_values
from selfroute.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PAPER = sorted((ROOT / "recipes" / "paper").glob("*.yaml"))
GIB = 2**30


def made(path: Path, *overrides: str, processes: int = 1) -> DryRun:
    values = load_values(path, overrides)
    entry = algorithm_of(values)
    found: DryRun = at(entry.dry_run)(
        build(at(entry.options), values, where=str(path)), beside=path.parent, processes=processes
    )
    return found


def paper(name: str) -> Path:
    return next(path for path in PAPER if path.stem == name)


def parameters(found: DryRun) -> int:
    return int(dict(found.facts)["parameters"].replace(",", ""))


@pytest.mark.parametrize(
    ("size", "prefix", "billions"),
    [
        ("3b", "countdown-qwen2.5", 3.09),
        ("1.5b", "math-qwen2.5", 1.54),
        ("1b", "math-llama", 1.24),
        ("3b", "math-llama", 3.21),
    ],
)
def test_the_papers_models_are_as_large_as_published(size: str, prefix: str, billions: float) -> None:
    path = next(path for path in PAPER if path.stem.startswith(prefix) and path.stem.endswith(size))
    assert parameters(made(path)) / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_passes_offline_and_writes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    result = CliRunner().invoke(app, ["train", str(path), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "every key is right; nothing was loaded, asked or written" in result.output
    asked = ["cloud: no key in the environment"] if "cloud" in load_values(path) else []
    for note in ("model: the hub is not within reach", "tokenizer: not within reach", *asked):
        assert f"note: {note}" in result.output, note
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before


def test_lora_and_shards_need_less_memory() -> None:
    full, lora = made(paper("countdown-qwen2.5-3b")), made(paper("countdown-qwen2.5-3b-lora"))
    assert dict(lora.memory)["optimizer"] < dict(full.memory)["optimizer"] / 40
    assert 0 < parameters(lora) - parameters(full) < 0.03 * parameters(full)
    one, two = (made(paper("countdown-qwen2.5-3b-fsdp"), processes=n) for n in (1, 2))
    assert dict(two.memory)["optimizer"] == dict(one.memory)["optimizer"] / 2
    # Weights, gradients and AdamW in float32 are 16 bytes each: what the recipe for one 80 GB GPU has to fit.
    assert 16 * parameters(full) / GIB < full.memory[-1][1] / GIB < 80


def test_a_balance_keeps_a_copy_of_the_weights_unless_an_adapter_is_trained() -> None:
    copied = made(paper("countdown-qwen2.5-3b"), "algorithm=balance")
    assert dict(copied.memory)["reference"] == 4 * parameters(copied)
    moving = made(paper("countdown-qwen2.5-3b"), "algorithm=balance", "m_step.every=2")
    assert dict(moving.memory)["reference"] == 16 * parameters(copied)
    assert "reference" not in dict(made(paper("countdown-qwen2.5-3b-lora"), "algorithm=balance").memory)
    with pytest.raises(ConfigError, match="prefix_reward: subtb needs the reward of every beginning"):
        made(paper("countdown-qwen2.5-3b"), "algorithm=balance", "objective=subtb")


def test_a_reward_model_is_as_large_as_its_longest_pair() -> None:
    recipe = ROOT / "recipes" / "rewards" / "shop.yaml"
    few = ("pairs.walks.rows=20", "pairs.walks.held_out_rows=5")
    whole, half = made(recipe, *few), made(recipe, *few, "pairs_per_pass=16")
    assert dict(half.memory)["activations"] == dict(whole.memory)["activations"] / 2
    assert dict(whole.memory)["gradients"] == 4 * parameters(whole)
    asked = made(recipe, "task=countdown", "pairs={answers: {device: embedded:device, max_tokens: 500}}")
    assert any("asks a model for them" in note for note in asked.notes)
    assert int(dict(asked.facts)["tokens"].rpartition(" ")[2].replace(",", "")) > 500
    with pytest.raises(ConfigError, match="pairs_per_pass=5 on 1 processes does not divide 32 pairs_per_step"):
        made(recipe, *few, "pairs_per_pass=5")


def test_what_stands_in_the_table_is_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "recipes" / "countdown" / "gapg.yaml"
    result = CliRunner().invoke(app, ["train", str(recipe), "rows_per_pass=16", "--dry-run", "--processes", "2"])
    assert result.exit_code == 0, result.output
    for text in ("32 prompts x 8 attempts = 256", "2 x 128 attempts, in 8 passes of 16", "30,720 attempts"):
        assert text in result.output, text
    assert "note: " not in result.output  # all of it is within reach
    assert result.stderr.splitlines()[-1] == f"next: selfroute train {recipe} rows_per_pass=16"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trl.use_vlm=true"], "unknown key 'use_vlm'; did you mean 'use_vllm'?"),
        (["trl.seed=3"], "contradicts the recipe's own key 'seed'"),
        (["lora.rnk=3"], "unknown key 'rnk'; did you mean 'rank'?"),
        (["lora.targets=[nonesuch]"], "nonesuch is not in this model"),
        (["prompts_per_step=6000"], "more than the 5000 training rows"),
        (["model=./absent"], "'./absent' does not exist"),
        (["model=org/absent"], "model 'org/absent' cannot be loaded"),
        (["cloud=recorded:absent.jsonl"], "absent.jsonl"),
        (["task.math.path=absent"], "absent"),
        (["rows_per_pass=3"], "rows_per_pass=3 does not divide"),
        (["trl.fsdp=true"], "rollouts of a sharded model need vLLM"),
        (["algorithm=warm_up"], "a warm-up makes its own small model"),
    ],
)
def test_an_error_is_one_line(overrides: list[str], message: str) -> None:
    recipe = ROOT / "recipes" / "countdown" / "gapg.yaml"
    result = CliRunner().invoke(app, ["train", str(recipe), *overrides, "--dry-run"])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line]
    assert len(lines) == 1 and message in lines[0], result.output


def test_a_tokenizer_without_a_chat_template_is_named_without_loading_weights(tmp_path: Path) -> None:
    from selfroute.train.imitation.tokenizer import build_tokenizer

    words = build_tokenizer()
    words.chat_template = None
    words.save_pretrained(tmp_path)
    config = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "vocab_size": 5000}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    recipe = ROOT / "recipes" / "countdown" / "gapg.yaml"
    result = CliRunner().invoke(app, ["train", str(recipe), f"model={tmp_path}", "--dry-run"])
    assert result.exit_code == 2
    assert "has no chat template; train an instruct model" in result.output
