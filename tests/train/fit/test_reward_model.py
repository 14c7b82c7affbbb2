"""A reward model: that it learns, is kept, reads one row like many, and is refused where it does not fit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train import small_run, tiny
from transformers import AutoTokenizer
from typer.testing import CliRunner

from selfroute.assemble.training import model_files
from selfroute.commands.main import app
from selfroute.errors import ConfigError
from selfroute.scores.reward_model import REWARD_FILE, RewardModel, check_reward_folder
from selfroute.train.fit.pairs import Pair, Pairs, clean, divide
from selfroute.train.fit.reward_model import fit_reward_model, reward_arguments, with_score

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["all-linear"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("device")
    tiny.policy(hidden=32).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def pairs(count: int = 400) -> Pairs:
    """The better answer repeats the question's word; the other has one of other prompts in its place."""
    rng = random.Random(0)
    made = []
    for _ in range(count):
        asked, other = rng.sample(range(8), 2)
        filler = " ".join(f"w{rng.randrange(8)}" for _ in range(rng.randrange(4)))
        question = f"p{asked} w{rng.randrange(8)} p{8 + rng.randrange(3)} w{rng.randrange(8)}"
        made.append(Pair(question, f"{filler} p{asked}", f"{filler} p{other}"))
    kept, dropped = clean(made)
    return divide(kept, held_out=0.2, seed=0, ordered_by_environment=True, dropped=dropped)


def fitted(model: str, out: Path, *, steps: int = 120, **options: Any) -> dict[str, Any]:
    arguments = reward_arguments(out, steps=steps, learning_rate=1e-2, save_steps=steps // 2)
    return fit_reward_model(pairs(), arguments, model=model, tokenizer=model, out=out, **options)


# An adapter beside weights that nobody has trained learns less.
@pytest.mark.parametrize(("lora", "least"), [(None, 0.95), (LORA, 0.8)], ids=["all-weights", "lora"])
def test_it_learns_to_order_pairs_of_new_questions(
    model: str, tmp_path: Path, lora: dict[str, Any] | None, least: float
) -> None:
    run = fitted(model, tmp_path / "run", lora=lora, facts={"pairs_from": "test"})
    quality = run["quality"]
    assert quality["accuracy"] > least > 0.6 > quality["by_length"]
    assert abs(quality["centre"]) < quality["margin"]
    facts = check_reward_folder(tmp_path / "run/checkpoint")
    assert facts["ordered_by_environment"] is True and facts["pairs_from"] == "test"
    kept = RewardModel.load(tmp_path / "run/checkpoint")
    good, bad = kept("p1 w0 p9 w0", "w1 p1"), kept("p1 w0 p9 w0", "w1 p2")
    assert good is not None and bad is not None and good > bad
    assert not list((tmp_path / "run/checkpoint").glob("adapter*"))


def test_a_run_that_was_stopped_ends_where_it_would_have(model: str, tmp_path: Path) -> None:
    whole = fitted(model, tmp_path / "whole", steps=8)
    arguments = reward_arguments(tmp_path / "parts", steps=8, learning_rate=1e-2, save_steps=4)

    class Stopped(Exception):
        pass

    def stop(step: int, steps: int, metrics: Any) -> None:
        if step == 6:
            raise Stopped

    given: dict[str, Any] = {"model": model, "tokenizer": model, "out": tmp_path / "parts"}
    with pytest.raises(Stopped):
        fit_reward_model(pairs(), arguments, on_progress=stop, **given)
    again = fit_reward_model(pairs(), arguments, resume=True, **given)
    assert again["resumed_from"] == "checkpoint-4"
    assert again["quality"] == whole["quality"]
    with pytest.raises(ConfigError, match="which are not the"):
        other = pairs(300)
        fit_reward_model(other, reward_arguments(tmp_path / "parts", steps=12, save_steps=4), resume=True, **given)


@pytest.fixture(scope="module")
def embedded() -> RewardModel:
    """The embedded device under a head whose scores are of the size that training gives them."""
    files = model_files("embedded:device")
    scorer: Any = with_score(files.model)
    with torch.no_grad():
        scorer.score.weight.mul_(5)
    return RewardModel(scorer, AutoTokenizer.from_pretrained(files.tokenizer))


def test_a_score_does_not_depend_on_the_rows_beside_it(embedded: RewardModel) -> None:
    rng = random.Random(1)
    rows = [(f"{rng.randrange(10**6)}", "9" * rng.randrange(1, 200)) for _ in range(40)]
    alone = [embedded(question, answer) for question, answer in rows]
    for batch in (1, 7, 40):
        for one, many in zip(alone, embedded.scores(rows, batch=batch), strict=True):
            assert one is not None and many is not None and abs(one - many) < 1e-5
    turned = embedded.scores(rows[::-1])[::-1]
    assert max(abs(a - b) for a, b in zip(alone, turned, strict=True) if a is not None and b is not None) < 1e-5


def test_the_head_reads_the_end_of_the_answer_and_not_the_padding(embedded: RewardModel) -> None:
    (end,) = {tuple(embedded.encode("q", answer)[-2:]) for answer in ("1", "2 and 3")}
    assert embedded.tokenizer.decode(list(end)) == "<|im_end|>\n"
    assert len({embedded("7", str(number)) for number in range(10)}) == 10


def test_the_backbone_is_the_devices(model: str) -> None:
    scorer, device = with_score(model), tiny.policy(hidden=32)
    ids = torch.tensor([[2, 5, 6, 0]])
    with torch.no_grad():
        ours = scorer.base_model(input_ids=ids).last_hidden_state
        theirs = device.base_model(input_ids=ids).last_hidden_state
    assert torch.equal(ours, theirs)


def test_what_is_too_long_is_not_known(model: str, tmp_path: Path) -> None:
    reward = RewardModel(with_score(model), tiny.tokenizer())
    assert reward.scores([("p1", "w1 " * 100), ("p1", "w1")])[0] is None
    long = Pairs((Pair("p1", "w1 " * 100, "w2"),), (Pair("p2", "w1", "w2"),), False)
    with pytest.raises(ConfigError, match="all 1 are longer than the 64 tokens"):
        arguments = reward_arguments(tmp_path / "run", steps=1)
        fit_reward_model(long, arguments, model=model, tokenizer=model, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_that_do_not_fit_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no reward model"):
        RewardModel.load(model)
    RewardModel(with_score(model), tiny.tokenizer()).save(tmp_path)
    assert RewardModel.load(tmp_path)("p1", "w1") is not None
    AutoTokenizer.from_pretrained(model_files("embedded:device").tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not the one that its model was trained with"):
        RewardModel.load(tmp_path)
    (tmp_path / REWARD_FILE).write_text(json.dumps({"selfroute": 0}), encoding="utf-8")
    with pytest.raises(ConfigError, match="another version"):
        RewardModel.load(tmp_path)


def test_a_template_that_leaves_out_reasoning_is_refused(model: str) -> None:
    words = tiny.tokenizer()
    words.chat_template = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }} {% endfor %}"
    with pytest.raises(ConfigError, match="does not write the whole"):
        RewardModel(with_score(model), words)


def test_a_policy_is_paid_by_a_learned_reward(tmp_path: Path) -> None:
    """From a recipe: what the reward model says is in the rollouts' rewards, and not the verifier's verdicts."""
    files = model_files("embedded:device")
    RewardModel(with_score(files.model), AutoTokenizer.from_pretrained(files.tokenizer)).save(tmp_path / "reward")
    recipe = {
        "task": {"countdown": {"limit": 8}}, "algorithm": "task_tuning", "model": small_run.small_model(tmp_path / "m"),
        "scored_by": {"model": str(tmp_path / "reward")}, "steps": 1, "prompts_per_step": 2, "group_size": 4,
        "max_new_tokens": 6, "out": str(tmp_path / "out"),
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    result = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml")])
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "out/rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    shown = [json.loads(line) for line in lines]
    paid = [one["reward"] for one in shown if one["kind"] != "handed_off"]
    assert paid and all(reward not in (0.0, 1.0) and 0 < reward < 1 for reward in paid)
    gone = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), f"scored_by.model={tmp_path}"])
    assert gone.exit_code == 2 and "holds no reward model" in gone.output


def test_sizes_that_do_not_divide(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not divide pairs_per_step=32"):
        reward_arguments(tmp_path, pairs_per_pass=5)
