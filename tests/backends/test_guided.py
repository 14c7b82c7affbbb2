"""Decoding with a critic: on its channel what it condemns is not written, elsewhere the model writes as it likes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.train import tiny

from selfroute.backends.base import complete
from selfroute.backends.function import FunctionBackend
from selfroute.backends.guided import GuidedBackend
from selfroute.backends.sessions import fingerprint
from selfroute.backends.torch.critic import Critic, Guide
from selfroute.backends.torch.sampler import sample
from selfroute.backends.torch.tokens import TokenTexts
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError, UnsupportedByBackend
from selfroute.handoff import Channel
from selfroute.types import Message, Sampling

CONDEMNED = tiny.WORDS.index("w3")
PROMPTS = [[Message("user", prompt)] for prompt in tiny.PROMPTS]
HEATED = Sampling(max_tokens=12, temperature=1.0, seed=1)


def condemning(file: Path, channel: Channel, *, words: list[str] = tiny.WORDS) -> Path:
    """A critic of the tiny policy that expects the worst of one word."""
    critic = Critic(16, len(tiny.WORDS), width=4)
    with torch.no_grad():
        critic.up.bias[CONDEMNED] = -30.0
    critic.save(file, {"channel": channel, "words": fingerprint(words)})
    return file


def model() -> TransformersBackend:
    return TransformersBackend("tiny", tiny.policy(), tiny.tokenizer())


def said(texts: list[str]) -> int:
    return sum(text.split().count("w3") for text in texts)


@pytest.mark.parametrize("channel", ["answer", "message"])
def test_what_the_critic_condemns_is_not_written_on_its_channel(tmp_path: Path, channel: Channel) -> None:
    plain = model()
    guided = GuidedBackend(plain, condemning(tmp_path / "c.safetensors", channel))
    free = [answer.text for answer in plain.generate_batch(PROMPTS * 20, HEATED)]
    kept = [answer.text for answer in guided.generate_batch(PROMPTS * 20, HEATED)]
    assert said(free) > 10
    if channel == "answer":
        assert said(kept) == 0
    else:
        assert kept == free, "these texts hold no message"


async def test_a_stream_is_the_guided_answer(tmp_path: Path) -> None:
    guided = GuidedBackend(model(), condemning(tmp_path / "c.safetensors", "answer"))
    (whole,) = guided.generate_batch(PROMPTS[:1], HEATED)
    assert (await complete(guided, PROMPTS[0], HEATED)).text == whole.text


def test_allowed_violations_are_as_many_as_the_critic_expects() -> None:
    """One token decides: of a critic that knows it, a soft guide draws the condemned word as often as is allowed."""
    policy, critic = tiny.policy(), Critic(16, len(tiny.WORDS), width=4)
    with torch.no_grad():
        critic.up.bias.fill_(30.0)
        critic.up.bias[CONDEMNED] = -30.0
    guide = Guide(critic, TokenTexts(tiny.tokenizer()), "answer", allowed=0.01)
    rows = [[0]] * 4000
    drawn = sample(policy, rows, max_new_tokens=1, eos_token_ids=[0], pad_token_id=1, seed=0, guide=guide)
    share = sum(group[0].token_ids == [CONDEMNED] for group in drawn) / len(rows)
    assert share == pytest.approx(0.01, abs=0.005)


def test_another_backend_cannot_be_guided(tmp_path: Path) -> None:
    file = condemning(tmp_path / "c.safetensors", "answer")
    with pytest.raises(UnsupportedByBackend, match="Guidable"):
        GuidedBackend(FunctionBackend("plain", lambda messages, sampling: "hi"), file)
    with pytest.raises(ConfigError, match="made for other words than those of tiny"):
        GuidedBackend(model(), condemning(file, "answer", words=tiny.WORDS[::-1]))
    with pytest.raises(ConfigError, match="allowed=1: a share of texts"):
        GuidedBackend(model(), file, allowed=1.0)
