"""Trees through the trainer: a tiny agent learns to look up what it does not know, whatever the rule and the credit."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tests.train.small_run import run, small_model
from tests.train.tiny import arguments
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.actions import result_text
from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.tasks.base import Observation, Tool
from selfroute.tasks.episode import Episode, text_parameters
from selfroute.tasks.lookup import Lookup
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.objectives.tree import CREDITS, TreeCredit
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.policy_sampler import PolicySampler
from selfroute.train.rl.rollouts.base import Prompt
from selfroute.train.rl.rollouts.branching import BRANCHINGS, TreeOptions
from selfroute.train.rl.rollouts.tree import Tree

CALL, OVER = "<tool>ask</tool>", "<end>"
ANSWERS = [f"w{i}" for i in range(5)]
RESULTS = [result_text(word) for word in ANSWERS]
VOCABULARY = [OVER, "<pad>", CALL, "so", *ANSWERS, *RESULTS, *(f"p{i}" for i in range(12))]
PROMPTS = [f"p{i} p{j}" for i in range(6) for j in range(6, 12)]
# Nodes that are drawn once all is written have no weight: that pair is refused. And `intra` learns from forks alone, so
# that it is sure to get there only where every attempt has one, which is where it comes from (arXiv 2509.21240).
LEARNS = [
    (branching, credit) for branching in BRANCHINGS for credit in CREDITS
    if (branching, credit) != ("random_nodes", "weighted") and (credit != "intra" or branching == "random_nodes")
]  # fmt: skip
ASK = Tool(name="ask", description="", parameters=text_parameters())


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=OVER,
        pad_token="<pad>",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    )


def right(prompt: str) -> str:
    """What nobody can know who does not ask."""
    return random.Random(prompt).choice(ANSWERS)


def opened(prompt: Prompt) -> Episode[int]:
    def ask(state: int, arguments: Mapping[str, Any]) -> tuple[int, Observation]:
        return state + 1, Observation(right(prompt[-1]["content"]))

    return Episode(0, ((ASK, ask),), lambda answer: None)


def grader(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    return [
        Outcome(wants_cloud=False, device_correct=text == f"so {right(row)}")
        for row, text in zip(row_ids, texts, strict=True)
    ]


def warm(model: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """Teaches how calls and answers are written; an answer is what was looked up in less than half of the cases."""
    rng, optimizer = random.Random(seed), torch.optim.Adam(model.parameters(), lr=1e-2)
    prompts = torch.tensor(tokenizer()(PROMPTS)["input_ids"])
    for _ in range(400):
        said = []
        for _ in PROMPTS:
            found, named = rng.randrange(len(ANSWERS)), rng.choice(ANSWERS)
            called = [CALL, RESULTS[found]] if rng.random() < 0.5 else []
            copied = bool(called) and rng.random() < 0.4
            words = [*called, "so", ANSWERS[found] if copied else named, OVER]
            said.append([VOCABULARY.index(word) for word in [*words, *[OVER] * (5 - len(words))]])
        ids = torch.cat([prompts, torch.tensor(said)], dim=1)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def trainer(
    folder: Path, *, credit: str = "soft", seed: int = 0, tree: TreeOptions | None = None, **options: Any
) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.1,
    )
    method = GAPGOptions(algorithm="tree", tree=tree)
    given = {
        "max_steps": 25,
        "optim": "adamw_torch",
        "learning_rate": 5e-3,
        "adam_beta1": 0.5,
        "seed": seed,
        **method.method.trl,
        **options,
    }
    args = arguments(folder, PolicyConfig, PROMPTS[:16], 8, None, max_completion_length=8, **given)
    rows = [{"prompt": [{"role": "user", "content": prompt}], "row_id": prompt} for prompt in PROMPTS]
    return GAPGTrainer(
        warm(LlamaForCausalLM(config), seed),
        grader,
        args,
        Dataset.from_list(rows),
        tokenizer(),
        options=method,
        objective=TreeCredit(credit=credit),
        rollout=Tree(opened, tree or TreeOptions(probe=1)),
    )


def rewards(made: GAPGTrainer) -> list[float]:
    return [line["reward"] for line in made.state.log_history if "reward" in line]


@pytest.mark.parametrize(("branching", "credit", "seed"), [("entropy", "soft", 0), ("entropy", "weighted", 1)])
def test_an_agent_learns_to_look_up_what_it_does_not_know(
    tmp_path: Path, branching: str, credit: str, seed: int
) -> None:
    made = trainer(tmp_path, credit=credit, seed=seed, tree=TreeOptions(branching=branching, probe=1))
    made.train()
    gained = rewards(made)
    assert sum(gained[:2]) / 2 < 0.5
    assert sum(gained[-4:]) / 4 > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("branching", "credit"), LEARNS)
def test_every_rule_and_credit_learns(tmp_path: Path, branching: str, credit: str) -> None:
    made = trainer(tmp_path, credit=credit, tree=TreeOptions(branching=branching, probe=1))
    made.train()
    assert sum(rewards(made)[-4:]) / 4 > 0.7


@pytest.mark.parametrize("branching", ["released", "random_nodes"])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path, branching: str) -> None:
    def made(folder: str, steps: int) -> Any:
        tree = TreeOptions(branching=branching, probe=1)
        saved = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
        return trainer(tmp_path / folder, tree=tree, max_steps=steps, **saved)

    whole = made("whole", 4)
    whole.train()
    made("parts", 2).train()
    resumed = made("parts", 4)
    torch.manual_seed(1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    assert resumed.rollout.state() == whole.rollout.state()
    assert bool(whole.rollout.state()["table"]) is (branching == "released")
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_entropies_are_those_of_the_policy(tmp_path: Path) -> None:
    """Of the last tokens of rows of unlike lengths, as a plain pass has them."""
    made = trainer(tmp_path)
    rows, counts = [[16, 22, 3, 4, 0], [16, 23, 3]], [2, 1]
    expected = []
    for row, count in zip(rows, counts, strict=True):
        with torch.no_grad():
            logits = made.model(torch.tensor([row])).logits
        logp = logits[0, -count - 1 : -1].log_softmax(-1)
        expected.append(float(-(logp.exp() * logp).sum(-1).mean() / math.log(len(VOCABULARY))))
    sampler = PolicySampler(made, group=1)
    assert sampler.entropies(rows, counts) == pytest.approx(expected, abs=1e-5)
    turns = sampler.by_us([[16, 22], [16, 23, 3]], entropies=3)
    seen = [turn[:3] for turn in turns.ids]
    later = sampler.entropies([[16, 22, *seen[0]], [16, 23, 3, *seen[1]]], [len(turn) for turn in seen])
    assert turns.entropies == pytest.approx(later, abs=1e-5)


def test_a_run_goes_through_the_environments_of_a_task(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    facts = run(model, tmp_path / "out", algorithm="tree", task=Lookup(limit=6), steps=1, max_new_tokens=12)
    assert facts["algorithm"] == "tree" and facts["steps"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "tree"}, "algorithm 'tree' acts in an environment, and task 'countdown' has none"),
        (
            {"algorithm": "tree", "task": Lookup(limit=6), "tree": TreeOptions(first=5)},
            "tree.first=5: a group has 4 attempts in all",
        ),
        (
            {
                "algorithm": "tree",
                "task": Lookup(limit=6),
                "tree": TreeOptions(branching="random_nodes"),
                "objective": TreeCredit(credit="weighted"),
            },
            "objective: weighted reads weight of attempts, which Tree does not tell",
        ),
        ({"tree": TreeOptions()}, "tree: attempts of algorithm 'gapg' do not fork; take algorithm=tree"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        run("nowhere", tmp_path, **options)
    assert "\n" not in str(refused.value)
