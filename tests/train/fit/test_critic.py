"""A critic for a model that is left as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tests.train import tiny

from selfroute.backends.guided import GuidedBackend
from selfroute.backends.sessions import fingerprint
from selfroute.backends.torch.critic import Critic
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError
from selfroute.scores.oracles import Judged, Words
from selfroute.tasks.base import Row
from selfroute.train.fit.critic import Judgement, calibrate, calibration_error, fit_critic, judged_samples
from selfroute.train.rl.constraints.critic import Places
from selfroute.types import Message, Sampling

ROW = Row(id="r", question="", gold="")
RUDE = Judged(Words(["w3", "w5"]), "answer")
PROMPTS = [list(tiny.tokenizer()(f"{prompt} ")["input_ids"]) for prompt in tiny.PROMPTS]


def batches(count: int = 24) -> Iterator[tuple[Sequence[Sequence[int]], Sequence[Row]]]:
    while True:
        yield PROMPTS * count, [ROW] * (len(PROMPTS) * count)


def test_a_critic_fitted_to_samples_is_calibrated_and_steers(tmp_path: Path) -> None:
    policy, words, seen = tiny.policy(), tiny.tokenizer(), list[Judgement]()
    before = [weight.clone() for weight in policy.parameters()]
    fit = fit_critic(
        policy,
        words,
        batches(),
        RUDE,
        rounds=12,
        max_new_tokens=5,
        width=16,
        on_round=lambda _, found: seen.append(found),
    )
    assert all(bool((one == other).all()) for one, other in zip(before, policy.parameters(), strict=True))
    fresh = judged_samples(policy, words, *next(batches(60)), RUDE, max_new_tokens=5, seed=99)
    assert fresh.places is not None
    assert calibration_error(fit.critic, fresh.places) < 0.15, "these states do not hold all that was said"
    file = tmp_path / "critic.safetensors"
    fit.critic.save(file, {"channel": "answer", "words": fingerprint(tiny.WORDS)})
    guided = GuidedBackend(TransformersBackend("tiny", policy, words), file)
    asked = [[Message("user", prompt)] for prompt in tiny.PROMPTS * 40]
    answers = guided.generate_batch(asked, Sampling(max_tokens=5, temperature=1.0, seed=0))
    rates = [rate for answer in answers if (rate := RUDE(answer.text, ROW)) is not None]
    assert seen[0].violations > 0.2
    assert sum(rates) / len(rates) < seen[0].violations / 2


def overconfident(count: int = 4000, *, scale: float = 3.0, shift: float = 1.0) -> tuple[Critic, Places]:
    """A critic that says three times the log-odds, and more; with places whose labels come from the true ones."""
    torch.manual_seed(0)
    critic = Critic(8, 5, width=4).requires_grad_(False)
    critic.up.weight.normal_(0.0, 1.0)
    critic.up.bias.normal_(0.0, 0.5)
    hidden, token = torch.randn(count, 8), torch.randint(5, (count,))
    true = critic(hidden).gather(1, token[:, None])[:, 0]
    places = Places(hidden, token, torch.bernoulli(true.sigmoid()))
    critic.up.weight *= scale
    critic.up.bias.copy_(critic.up.bias * scale + shift)
    return critic, places


def test_calibrating_takes_too_much_confidence_back() -> None:
    critic, places = overconfident()
    half = [
        Places(places.hidden[part], places.token[part], places.kept[part]) for part in (slice(2000), slice(2000, None))
    ]
    before = calibration_error(critic, half[1])
    calibrate(critic, half[:1])
    assert before > 0.1
    assert calibration_error(critic, half[1]) < 0.04


def test_calibrating_changes_nothing_where_all_texts_are_alike() -> None:
    critic, places = overconfident(50)
    said = critic(places.hidden)
    calibrate(critic, [Places(places.hidden, places.token, torch.ones(50))])
    calibrate(critic, [])
    assert torch.equal(critic(places.hidden), said)


def test_a_channel_on_which_nothing_is_written_teaches_nothing() -> None:
    with pytest.raises(ConfigError, match="no text was written on 'message'"):
        fit_critic(
            tiny.policy(),
            tiny.tokenizer(),
            batches(2),
            Judged(Words(["w3"]), "message"),
            rounds=1,
            max_new_tokens=3,
        )
