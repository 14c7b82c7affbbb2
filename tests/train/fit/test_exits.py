"""Exits of a finished model: they learn, the model does not, and what does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfroute.assemble.pieces import first_rows, template_of
from selfroute.backends.embedded import embedded
from selfroute.backends.torch.layers import weights_of
from selfroute.errors import ConfigError
from selfroute.tasks.chain import Chain
from selfroute.train.fit.exits import Places, check_layers, fit_exits, places_of, quality_of_exit
from selfroute.types import Sampling


@pytest.fixture(scope="module")
def cloud() -> Any:
    return embedded("chain-cloud")


@pytest.fixture(scope="module")
def halves(cloud: Any) -> list[Places]:
    """Places of answers to learn from, and of others."""
    task = Chain(seed=1, limit=60)
    prompts = [template_of(task).conversation(row.question) for row in first_rows(task, "train", 60)]
    answers = cloud.generate_batch(prompts, Sampling(max_tokens=60))
    ids = [(cloud.prompt_ids(p), cloud.ids_of(a.text)) for p, a in zip(prompts, answers, strict=True)]
    return [places_of(cloud.cut, [1, 2], part) for part in (ids[:45], ids[45:])]


def test_places_are_those_of_the_whole_model(cloud: Any) -> None:
    prompt, answer = [5, 9, 300, 41], [17, 33, 8]
    places = places_of(cloud.cut, [1, 3], [(prompt, answer), (prompt, answer[:1])])
    with torch.inference_mode():
        whole = cloud.model(torch.tensor([prompt + answer]), output_hidden_states=True)
    assert places.tokens.tolist()[:3] == whole.logits[0, 3:-1].argmax(-1).tolist()
    for states, layers in zip(places.states, (1, 3), strict=True):
        assert torch.allclose(states[:3], whole.hidden_states[layers][0, 3:-1], atol=1e-4)
        assert torch.allclose(states[3], states[0], atol=1e-4)


def test_exits_learn_and_the_model_stays_as_it_is(cloud: Any, halves: list[Places]) -> None:
    before = cloud.whole.weights
    learn, others = halves
    found = fit_exits(cloud.cut, [1, 2], learn, steps=80, batch=512, seed=1)
    untrained = fit_exits(cloud.cut, [1, 2], learn, steps=1, batch=8, learning_rate=1e-9)
    for (layers, leave), (_, own), states in zip(found, untrained, others.states, strict=True):
        now, then = (quality_of_exit(each, states, others.tokens) for each in (leave, own))
        assert now.agrees > then.agrees + 0.1, layers
        assert now.agrees_if_sure is not None and now.agrees_if_sure > 0.95
    deeper = [
        quality_of_exit(leave, s, others.tokens).agrees for (_, leave), s in zip(found, others.states, strict=True)
    ]
    assert deeper[1] > 0.85 > deeper[0]
    assert weights_of(cloud.model) == before


def test_a_seed_makes_the_same_exits(cloud: Any, halves: list[Places]) -> None:
    one, two = (fit_exits(cloud.cut, [2], _of(halves[0], 1), steps=3, batch=64, seed=4)[0][1] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("exits", "match"),
    [
        ([0, 2], "layers: 0 is no place for an exit of a model of 4 layers; write 1"),
        ([1, 9], "layers: 9 is no place for an exit of a model of 4 layers; write 3"),
        ([2, 1], r"layers: \[2, 1\] do not rise"),
        ([], r"layers: \[\] do not rise"),
    ],
)
def test_exits_outside_a_model_are_refused(exits: list[int], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        check_layers(exits, 4)


def _of(places: Places, number: int) -> Places:
    return Places(places.states[number : number + 1], places.tokens)
