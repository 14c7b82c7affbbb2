"""Heads of tokens: what they learn from, what they learn to say, and where they are cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.strategies.inside.pair import PLAIN, SAMPLING, alike, ask, model, sides

from selfroute.backends.sessions import Look, View, Written
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError
from selfroute.scores.tokens import HeadKind, MaxProbability, Pair, TokenHead
from selfroute.strategies.base import answer
from selfroute.strategies.inside.token_level import TokenLevel
from selfroute.train.fit.token_heads import fit_head, quality_of, target_of
from selfroute.train.fit.token_places import Mixing, Place, collect
from selfroute.train.fit.token_threshold import cloud_token_share, threshold_at_share
from selfroute.types import Sampling

LOOK = Look(top=5, entropy=True, hidden=True)
QUESTIONS = [message.content for number in range(16) for message in ask(number)]
PAIR = Pair("device", "cloud")


@pytest.fixture(scope="module")
def device() -> Iterator[TransformersBackend]:
    with model("device", seed=1) as made:
        yield made


@pytest.fixture(scope="module")
def cloud(device: TransformersBackend) -> Iterator[TransformersBackend]:
    with alike(device, share=0.25, seed=2) as made:
        yield made


async def places_of(device: Any, cloud: Any, mixing: Mixing, sampling: Sampling = SAMPLING) -> list[list[Place]]:
    options = {"template": PLAIN, "sampling": sampling, "look": LOOK, "mixing": mixing, "seed": 3}
    return await collect(device, cloud, QUESTIONS, **options)  # type: ignore[arg-type]


def plain(backend: TransformersBackend, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(backend.model(torch.tensor([ids]), use_cache=False).logits[0].double(), -1)


async def test_unmixed_places_are_the_devices_own_answer(device: Any, cloud: Any) -> None:
    found = await places_of(device, cloud, Mixing(share=0.0))
    for question, places in zip(QUESTIONS, found, strict=True):
        ids = [place.written.token_id for place in places]
        prompt = device.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        ours, theirs = (plain(side, prompt + ids)[len(prompt) - 1 :] for side in (device, cloud))
        for at, place in enumerate(places):
            assert place.written.token_id == int(ours[at].argmax())
            assert place.given == pytest.approx(float(theirs[at, ids[at]]), abs=1e-4)
            assert place.best == pytest.approx(float(theirs[at].max()), abs=1e-4)
            assert place.cloud_token == int(theirs[at].argmax())


async def test_mixed_histories_hold_tokens_of_the_cloud(device: Any, cloud: Any) -> None:
    mixed = await places_of(device, cloud, Mixing(share=1.0, least=0.3, most=0.3))
    pure = await places_of(device, cloud, Mixing(share=0.0))
    again = await places_of(device, cloud, Mixing(share=1.0, least=0.3, most=0.3))
    assert ids_of(mixed) == ids_of(again), "the seed's"
    assert ids_of(mixed) != ids_of(pure)


def ids_of(found: list[list[Place]]) -> list[list[int]]:
    return [[place.written.token_id for place in places] for places in found]


def place(y: int, cloud_token: int, given: float, best: float, ours: float = -0.1) -> Place:
    view = View(drawn=y, logprob=ours, top={y: ours, cloud_token: -3.0})
    return Place(Written(y, ours, view=view), given=given, best=best, cloud_token=cloud_token)


def test_targets_are_those_of_the_table() -> None:
    other = place(4, 5, given=-2.0, best=-0.5)
    assert target_of("rel", other) == pytest.approx(math.exp(-1.5))
    assert target_of("prob", other) == pytest.approx(math.exp(-2.0))
    assert target_of("accept", other) == pytest.approx(math.exp(-1.9))
    assert target_of("citer", other) == 0.0
    same = place(4, 4, given=-0.5, best=-0.5, ours=-0.7)
    assert [target_of(kind, same) for kind in ("rel", "accept", "citer")] == [1.0, 1.0, 1.0]


def told_apart(count: int = 600) -> list[Place]:
    """Places at which the first entry of the hidden state says whether the token stands, and nothing else does."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        good = rng.random() < 0.8
        hidden = np.r_[1.0 if good else -1.0, rng.normal(size=3)].astype(np.float32)
        view = View(drawn=4, logprob=-0.1, top={4: -0.1, 5: -2.4}, entropy=0.3, hidden=hidden)
        given = -0.05 if good else -4.0
        made.append(Place(Written(4, -0.1, view=view), given=given, best=-0.05, cloud_token=4 if good else 5))
    return made


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_every_kind_learns_what_tells_tokens_apart(kind: HeadKind) -> None:
    look, places = Look(top=2, entropy=True, hidden=True), told_apart()
    learn, held_out = places[:400], places[400:]
    head = fit_head(kind, learn, look=look, pair=PAIR, width=16, epochs=40, batch=64, learning_rate=5e-3)
    scores = head([p.written for p in held_out])
    assert all(0 <= score <= 1 for score in scores)
    quality = quality_of(scores, held_out, kind)
    if kind == "pair":  # its input is the same for both tokens but for their own probability: it cannot rank places
        assert quality.places == 200
        return
    assert quality.auroc is not None and quality.auroc > 0.99
    if kind in ("rel", "prob", "citer"):
        assert quality.calibration_error < 0.05


def test_chance_is_reported_as_chance() -> None:
    places = told_apart()
    scores = list(np.random.default_rng(1).random(len(places)))
    quality = quality_of(scores, places)
    assert quality.auroc == pytest.approx(0.5, abs=0.08)
    assert quality.disagreeing == pytest.approx(0.2, abs=0.05)
    assert quality_of([0.9] * 5, [place(4, 4, -0.1, -0.1)] * 5).auroc is None


def test_a_kind_without_a_place_to_learn_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind: 'pair' finds no place to learn from"):
        fit_head("pair", [place(4, 4, -0.1, -0.1)], look=Look(top=2), pair=PAIR)


async def test_a_head_is_stored_and_decides(device: Any, cloud: Any, tmp_path: Path) -> None:
    found = [p for places in await places_of(device, cloud, Mixing()) for p in places]
    pair = Pair(device.identity, cloud.identity)
    fit_head("rel", found, look=LOOK, pair=pair, width=16, epochs=5).save(tmp_path)
    head = TokenHead.load(tmp_path)
    strategy = TokenLevel(scorer=head, threshold=0.7)
    strategy.check(sides(device, cloud))
    trace = await answer(strategy, sides(device, cloud), ask(3), SAMPLING)
    assert trace.text


async def test_the_threshold_gives_the_wanted_share(device: Any, cloud: Any) -> None:
    def at(point: float) -> TokenLevel:
        return TokenLevel(scorer=MaxProbability(), threshold=point)

    pair = sides(device, cloud)
    scores = list(np.linspace(0, 1, 500))
    threshold, share = await threshold_at_share(at, scores, 0.3, pair, QUESTIONS, SAMPLING)
    assert share == pytest.approx(0.3, abs=0.05)
    assert share == await cloud_token_share(at(threshold), pair, QUESTIONS, SAMPLING)
    assert await cloud_token_share(at(0.0), pair, QUESTIONS, SAMPLING) == 0.0
    assert await cloud_token_share(at(1.01), pair, QUESTIONS, replace(SAMPLING, max_tokens=8)) == 1.0


async def test_only_answers_that_a_threshold_changes_are_written_again(device: Any, cloud: Any) -> None:
    tried: list[float] = []
    asked = 0

    @dataclass(frozen=True)
    class Counting(TokenLevel):
        async def stream(self, sides: Any, messages: Any, sampling: Any) -> Any:
            nonlocal asked
            asked += 1
            async for event in super().stream(sides, messages, sampling):
                yield event

    def at(point: float) -> TokenLevel:
        tried.append(point)
        return Counting(scorer=MaxProbability(), threshold=point)

    pair = sides(device, cloud)
    threshold, share = await threshold_at_share(at, list(np.linspace(0, 1, 200)), 0.2, pair, QUESTIONS, SAMPLING)
    assert threshold in tried and len(tried) > 3
    assert asked < 0.8 * len(tried) * len(QUESTIONS)
    assert share == await cloud_token_share(at(threshold), pair, QUESTIONS, SAMPLING)
