"""Attempts that hold tokens of the cloud: what they are made of, and what the trainer makes of them."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies.inside.pair import PLAIN, ask
from tests.strategies.inside.scripted import END, Next, Scripted, Words
from tests.strategies.inside.test_relay import WORDS as SAID
from tests.strategies.inside.test_relay import counting, script
from tests.train.tiny import arguments
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.grading import Outcome
from selfroute.prices import Price
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.inside.relay import Relay as RelayStrategy
from selfroute.train.rl.checkpoint import STATE_FILE
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.generation import Until, cut
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.outcomes import credited
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.rollouts.base import Attempts, Turns
from selfroute.train.rl.rollouts.kinds import KINDS
from selfroute.train.rl.rollouts.relay import CloudTurns, Relay, asked
from selfroute.types import Sampling

LIMIT = 40


class Scribe:
    """A sampler that writes by a function of the attempt so far."""

    group, limit = 1, LIMIT

    def __init__(self, words: Words, following: Next) -> None:
        self.words, self.following = words, following
        self.ends = frozenset({words.id_of(END)})
        self.begin = 1
        self.backend = Scripted("policy", words, following)

    def encode(self, prompts: Sequence[Any]) -> list[list[int]]:
        return [[self.words.id_of("prompt")] for _ in prompts]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(self.words[i] for i in row if self.words[i] != END) for row in ids]

    def speller(self) -> Any:
        return self.backend.speller()

    def write(
        self, prompts: Any, *, group: int = 1, until: Sequence[str] = (), limits: Sequence[int] | None = None
    ) -> Any:
        async def one(prompt: Sequence[int], limit: int) -> list[int]:
            session: Any = self.backend.session([], Sampling())
            await session.read(prompt[self.begin :])
            return [token.token_id for token in await session.write(limit, until=until)]

        most = limits or [self.limit] * len(prompts)
        with_loop = [_in_thread(one, prompt, limit) for prompt, limit in zip(prompts, most, strict=True)]
        return Turns(ids=with_loop)


def _in_thread(work: Callable[..., Any], *given: Any) -> Any:
    """Run a coroutine that never waits, also inside a running loop."""
    coroutine = work(*given)
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def attempts(*scripts: str, cloud: Next = counting, most_tokens: int = 8) -> tuple[Attempts, Scribe, CloudTurns]:
    """One attempt by each script, in which every token has the number of its script before it."""
    words = Words()
    turns = CloudTurns(Scripted("cloud", words, cloud), price=Price(completion_usd=1e6))
    scribe = Scribe(words, script(scripts[0]))
    prompts = [[{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]]
    return Relay(turns, most_tokens=most_tokens).generate(prompts, scribe), scribe, turns


def words_of(made: Attempts, scribe: Scribe) -> list[str]:
    return [scribe.words[i] for i in made.completions[0]]


class TestAttempts:
    def test_hold_the_clouds_tokens_under_the_mask(self) -> None:
        made, scribe, turns = attempts("d0 <call> 2 </call> d1")
        assert words_of(made, scribe) == ["d0", "<call>", "2", "</call>", "C1", "C2", "d1", END]
        assert made.own == [[1, 1, 1, 1, 0, 0, 1, 1]]
        assert made.texts == ["d0C1C2d1"]
        assert made.facts == {"cloud_tokens": [2.0], "cloud_share": [2 / 5]}
        assert turns.metrics() == {"cloud/calls": 1, "cloud/failures": 0, "cloud/tokens": 2, "cloud/usd": 2.0}

    def test_that_call_for_nothing_are_the_policys_own(self) -> None:
        made, _, turns = attempts("d0 <call> 9 </call> <call> x </call> d1")
        assert made.own is not None and set(made.own[0]) == {1}
        assert made.texts == ["d0xd1"] and made.facts["cloud_tokens"] == [0.0]
        assert turns.metrics()["cloud/calls"] == 0

    def test_end_with_the_clouds_end(self) -> None:
        made, scribe, _ = attempts("d0 <call> 2 </call> d1", cloud=lambda so_far: END)
        assert words_of(made, scribe)[-2:] == ["</call>", END] and made.own == [[1, 1, 1, 1, 0]]

    def test_in_which_the_cloud_fails_are_not_graded(self) -> None:
        def lost(so_far: Sequence[str]) -> str:
            raise BackendUnavailable("cloud: lost", backend="cloud")

        made, _, turns = attempts("d0 <call> 2 </call> d1", cloud=lost)
        assert math.isnan(made.facts["cloud_tokens"][0])
        assert turns.metrics()["cloud/failures"] == 1
        [outcome] = credited([Outcome(wants_cloud=False, device_correct=True)], made.facts)
        assert KINDS["relay"].paid(Hierarchical(), outcome) is None

    def test_are_asked_without_the_devices_system_prompt(self) -> None:
        prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
        assert [(m.role, m.content) for m in asked(prompt)] == [("user", "q")]

    @given(st.lists(st.sampled_from(SAID), max_size=50))
    @settings(max_examples=100, deadline=None)
    def test_are_what_the_strategy_makes_of_the_same_words(self, said: list[str]) -> None:
        """Training and serving agree on what a call is, what is followed, and what the answer is."""
        text = " ".join(said) or END
        made, scribe, _ = attempts(text, cloud=lambda so_far: "C")
        words = Words()
        sides = Sides(
            device=Scripted("device", words, script(text)),
            cloud=Scripted("cloud", words, lambda so_far: "C"),
            template=PLAIN,
        )
        trace = asyncio.run(answer(RelayStrategy(most_tokens=8), sides, ask(1), Sampling(max_tokens=LIMIT)))
        device: Any = sides.device
        assert words_of(made, scribe) == [words[i] for i in device.opened[0].ids]
        assert made.texts == [trace.text]
        assert made.facts["cloud_tokens"] == [trace.usage("cloud").completion_tokens]


class TestCredit:
    RIGHT = Outcome(wants_cloud=False, device_correct=True)

    def test_without_facts_nothing_changes(self) -> None:
        assert credited([self.RIGHT], {}) == [self.RIGHT]

    def test_what_the_cloud_had_a_part_in_is_not_the_devices(self) -> None:
        alone, helped = credited([self.RIGHT] * 2, {"cloud_tokens": [0.0, 3.0], "cloud_share": [0.0, 0.1]})
        assert (alone.wants_cloud, alone.device_correct, alone.cloud_share) == (False, True, 0.0)
        assert (helped.wants_cloud, helped.device_correct, helped.cloud_correct) == (True, None, True)
        assert (helped.cloud_tokens, helped.cloud_share) == (3, 0.1)
        pay = KINDS["relay"].paid
        assert pay(Hierarchical(), alone) == pay(Hierarchical(), helped) == 1.0


# --- through the trainer: answers of two words, the second of which nobody but the cloud knows where it is hard

CALL, OVER = "<call>1</call>", "<end>"
VOCABULARY = [OVER, "<pad>", "easy", "hard", CALL, *(f"w{i}" for i in range(8)), *(f"p{i}" for i in range(12))]
PROMPTS = [f"{kind} p{i} p{j}" for i in range(6) for j in range(6, 12) for kind in ("easy", "hard")]


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
    kind, *places = prompt.split()
    return "w0" if kind == "easy" else f"w{sum(3 * i * int(p[1:]) for i, p in enumerate(places, 1)) % 7 + 1}"


class Knowing(Scripted):
    """A cloud that knows every answer, in the policy's vocabulary."""

    def session(self, messages: Any, *given: Any, **options: Any) -> Any:
        session = super().session(messages, *given, **options)
        word = right(messages[-1].content)
        session.backend = Scripted("cloud", self.words, lambda so_far: END if so_far else word)
        return session


def grader(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    return [
        Outcome(wants_cloud=False, device_correct=text.split()[:1] == [right(row)])
        for row, text in zip(row_ids, texts, strict=True)
    ]


def trainer(folder: Path, *, seed: int = 0, share: float = 0.25, **options: Any) -> GAPGTrainer:
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
    )
    method = GAPGOptions(algorithm="relay", share=share, share_prompts=0)
    given = {"max_steps": 30, "optim": "adamw_torch", "learning_rate": 5e-3, "seed": seed, "adam_beta1": 0.5}
    args = arguments(
        folder,
        PolicyConfig,
        PROMPTS[:24],
        8,
        None,
        max_completion_length=4,
        **method.method.trl,
        **{**given, **options},
    )
    rows = [{"prompt": [{"role": "user", "content": prompt}], "row_id": prompt} for prompt in PROMPTS]
    words = Words([END if word == OVER else word for word in VOCABULARY])
    return GAPGTrainer(
        warm(LlamaForCausalLM(config), seed),
        grader,
        args,
        Dataset.from_list(rows),
        tokenizer(),
        options=method,
        rollout=Relay(CloudTurns(Knowing("cloud", words, lambda so_far: END))),
    )


def warm(model: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """Teaches how answers and calls are written, and not which of them suits a prompt."""
    rng, optimizer = random.Random(seed), torch.optim.Adam(model.parameters(), lr=1e-2)
    prompts = torch.tensor(tokenizer()(PROMPTS)["input_ids"])
    for _ in range(30):
        said = torch.tensor([[VOCABULARY.index(rng.choice(["w0", CALL]))] for _ in PROMPTS])
        ids = torch.cat([prompts, said, torch.zeros_like(said)], dim=1)
        labels = torch.cat([torch.full_like(prompts, -100), ids[:, 3:]], dim=1)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def calls(made: GAPGTrainer) -> dict[str, float]:
    """Probability of a call at the beginning of easy and of hard answers."""
    found = {"easy": 0.0, "hard": 0.0}
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer()(prompt)["input_ids"]])
        with torch.no_grad():
            called = made.model(input_ids=ids).logits[0, -1].softmax(-1)[VOCABULARY.index(CALL)]
        found[prompt.split()[0]] += 2 * float(called) / len(PROMPTS)
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_policy_learns_to_call_where_it_does_not_know(tmp_path: Path, seed: int) -> None:
    made = trainer(tmp_path, seed=seed)
    before = calls(made)
    assert abs(before["hard"] - before["easy"]) < 0.1
    made.train()
    after = calls(made)
    assert after["hard"] > 0.7 and after["hard"] - after["easy"] > 0.3


@pytest.mark.slow
def test_a_policy_calls_as_often_as_its_share_allows(tmp_path: Path) -> None:
    made = trainer(tmp_path, share=0.15, max_steps=80, learning_rate=3e-3)
    made.train()
    log = [line["handoff/gap"] for line in made.state.log_history if "handoff/gap" in line]
    assert abs(sum(log[-20:]) / 20) < 0.05


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def made(folder: str, steps: int) -> GAPGTrainer:
        return trainer(
            tmp_path / folder, max_steps=steps, save_strategy="steps", save_steps=2, lr_scheduler_type="constant"
        )

    whole = made("whole", 4)
    whole.train()
    made("parts", 2).train()
    last = tmp_path / "parts" / "checkpoint-2"
    assert json.loads((last / STATE_FILE).read_text())["clouds"][0]["calls"] > 0
    resumed = made("parts", 4)
    torch.manual_seed(1)
    resumed.train(resume_from_checkpoint=str(last))
    assert resumed.targets.state() == whole.targets.state()
    assert resumed.rollout.cloud.state() == whole.rollout.cloud.state()  # type: ignore[attr-defined]
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)


# --- what is refused, and the pieces


def test_a_cloud_of_another_vocabulary_is_refused() -> None:
    turns = CloudTurns(Scripted("cloud", Words(), counting))
    with pytest.raises(ConfigError, match="have different vocabularies, and algorithm relay exchanges token ids"):
        turns.check("other")


def test_a_cloud_without_sessions_is_refused() -> None:
    with pytest.raises(UnsupportedByBackend):
        CloudTurns(FunctionBackend("cloud", lambda messages, sampling: "text"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"forced_attempts": 2}, "forced_attempts: algorithm 'relay'"), ({"told_shares": (0.1, 0.2)}, "told_shares")],
)
def test_options_of_hand_offs_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GAPGOptions(algorithm="relay", **options)


def test_a_completion_is_cut_behind_the_first_mark() -> None:
    words = tokenizer()
    ids = [words.convert_tokens_to_ids(word) for word in ("w1", CALL, "w2", CALL)]
    assert cut(words, ids, ["</call>"]) == 2
    assert cut(words, ids[:1], ["</call>"]) == 1
    assert Until(words, ["</call>"]).ends(ids[:2]) and not Until(words, ["</call>"]).ends(ids[:3])
