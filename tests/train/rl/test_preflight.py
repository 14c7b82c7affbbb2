"""What a run is refused for before its first step, by the dry run too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.train.small_run import TOKENIZER, Easy, run, small_model
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from selfroute.assemble.dry_run import dry_run
from selfroute.backends.function import FunctionBackend
from selfroute.config import Spec, TrainRecipe
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.train.rl.options import GAPGOptions, LoopOptions
from selfroute.train.rl.preflight import check_window, longest_prompt, rehearse


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_model(tmp_path_factory.mktemp("model"))


def dry(model: str, out: Path, **options: Any) -> Any:
    given = {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6, "steps": 4, **options}
    recipe = TrainRecipe(task=Spec("countdown", None, {"limit": 6}), model=model, out=out, **given)
    return dry_run(recipe, beside=out)


def refused(model: str, tmp_path: Path, message: str, **options: Any) -> None:
    """By the dry run and by the run, which leaves nothing and asks no cloud."""
    with pytest.raises(ConfigError, match=message):
        dry(model, tmp_path / "dry", **options)
    asked: list[str] = []
    cloud = FunctionBackend("cloud", lambda messages, sampling: asked.append("") or "even")
    with pytest.raises(ConfigError, match=message):
        run(model, tmp_path / "run", cloud=cloud, **options)
    assert not asked and not (tmp_path / "run").exists() and not (tmp_path / "dry").exists()


def with_window(folder: Path, window: int) -> str:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=window, eos_token_id=TOKENIZER.eos_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


# --- the window


def test_a_prompt_over_the_window_is_named(tmp_path: Path) -> None:
    small = with_window(tmp_path / "model", 16)
    refused(small, tmp_path, r"the prompt of row '[^']+' has \d+ tokens, and the model's window is 16; leave such rows")


def test_an_attempt_over_the_window_is_named(model: str, tmp_path: Path) -> None:
    rows = list(Easy(limit=6).rows("train"))
    tokens = int(re.search(r"at most (\d+)", dict(dry(model, tmp_path / "dry").facts)["tokens"])[1])  # type: ignore[index]
    small = with_window(tmp_path / "model", tokens + 10)
    assert len(rows) == 6
    message = rf"max_new_tokens: 11 after the {tokens} tokens of row '[^']+' is longer than .* set it to 10 or less"
    refused(small, tmp_path, message, max_new_tokens=11)
    dry(small, tmp_path / "dry", max_new_tokens=10)


def test_every_prompt_is_looked_at_not_the_first_ones() -> None:
    prompts = {f"r{i}": [{"role": "user", "content": "1 " * (900 if i == 700 else i % 7 + 1)}] for i in range(800)}
    row, tokens = longest_prompt(TOKENIZER, prompts)
    assert row == "r700"
    text = TOKENIZER.apply_chat_template(prompts["r700"], tokenize=False, add_generation_prompt=True)
    assert tokens == len(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def test_a_model_without_a_window_takes_any_length() -> None:
    check_window("r", 10**6, AutoConfig.for_model("bloom", vocab_size=8, hidden_size=8, n_layer=1, n_head=1),
                 max_new_tokens=10**6)  # fmt: skip


# --- the tokenizer


@pytest.mark.parametrize("tag", ["<think>", "</answer>", "<unknown>"])
def test_a_tag_that_is_a_special_token_is_named(model: str, tmp_path: Path, tag: str) -> None:
    words = AutoTokenizer.from_pretrained(model)
    words.add_special_tokens({"additional_special_tokens": [AddedToken(tag, special=True, normalized=False)]})
    words.save_pretrained(tmp_path / "model")
    network = AutoModelForCausalLM.from_pretrained(model)
    network.resize_token_embeddings(len(words))
    network.save_pretrained(tmp_path / "model")
    place = str(tmp_path / "model")
    with pytest.raises(ConfigError, match=re.escape(f"loses '{tag}', as a special token")):
        run(place, tmp_path / "run", tokenizer=place)


# --- options of TRL


@pytest.mark.parametrize(
    ("trl", "message"),
    [
        ({"push_to_hub": True}, "trl.push_to_hub: a run is kept on this disk"),
        ({"remove_unused_columns": True}, "trl.remove_unused_columns: a rollout is graded by"),
        ({"eval_steps": 5}, "trl.eval_steps: does nothing without trl.eval_strategy"),
        ({"vllm_mode": "colocate"}, "trl.vllm_mode: does nothing without trl.use_vllm"),
        ({"top_k": 10}, "trl.top_k: our sampler knows temperature and top_p alone"),
        ({"generation_kwargs": {"top_k": 3}}, "trl.generation_kwargs: our sampler"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"nonesuch": 1}}, r"first step fails: TypeError"),
        ({"optim": "adamw_8bit"}, r"trl \(optim\): a first step fails: \w+: .*bitsandbytes"),
        ({"reward_weights": [1.0, 2.0]}, r"trl \(reward_weights\): a first step fails: ValueError"),
        ({"sync_ref_model": True}, r"trl \(sync_ref_model\): a first step fails: "),
        ({"load_best_model_at_end": True, "metric_for_best_model": "reward"}, r"trl \(load_best_model_at_end, "),
        ({"save_strategy": "best", "metric_for_best_model": "nonesuch", "eval_strategy": "steps", "eval_steps": 1},
         r"trl \(save_strategy, .*a first step fails: KeyError"),
        ({"eval_on_start": True}, "trl.eval_on_start: does nothing without trl.eval_strategy"),
    ],
)  # fmt: skip
def test_an_option_that_the_run_would_die_of_is_named(
    model: str, tmp_path: Path, trl: dict[str, Any], message: str
) -> None:
    refused(model, tmp_path, message, trl=trl)


def test_options_that_work_are_let_through() -> None:
    rehearse(
        LoopOptions(trl={"weight_decay": 0.1, "lr_scheduler_type": "cosine", "optim": "sgd"}), GAPGOptions(), TOKENIZER
    )


def test_validation_rows_are_evaluated_while_training(model: str, tmp_path: Path) -> None:
    run(model, tmp_path / "run", steps=2, trl={"eval_strategy": "steps", "eval_steps": 1})
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "eval_reward" in line]
    assert [line["step"] for line in evaluated] == [1, 2]
    assert all(0 <= line["eval_rollouts/call_share"] <= 1 for line in evaluated)


# --- the device


def test_a_device_of_broken_numbers_stops_before_the_cloud_is_asked(model: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    save_file(
        {name: torch.full_like(weight, float("nan")) for name, weight in weights.items()},
        broken / "model.safetensors",
        {"format": "pt"},
    )
    TOKENIZER.save_pretrained(broken)
    asked: list[str] = []
    cloud = FunctionBackend("cloud", lambda messages, sampling: asked.append("") or "even")
    with pytest.raises(SelfRouteError, match="numbers that are not finite; the cloud was not asked"):
        run(str(broken), tmp_path / "run", cloud=cloud)
    assert not asked
