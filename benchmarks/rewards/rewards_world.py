"""The shop with a shopper that acts well now and then, and a small model made for its words."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.actions import Action
from selfroute.strategies.search.arena import Arena, Limits, Place, Proposal, Scores
from selfroute.tasks.base import Row
from selfroute.tasks.shop import ATTRIBUTES, ITEMS, SIZES, Cart, Shop, items_of

# What a reward of the shop has to read; all else is left out, so that a look at an item is five tokens.
_READ = f"(?:{'|'.join(ATTRIBUTES)}) \\w+|size [SML]|item \\d|\\[end\\]"


def small_model(folder: Path, *, width: int = 64, layers: int = 3, seed: int = 0) -> str:
    """A decoder of three layers with a token for each thing said in the shop, and nothing learned; its folder."""
    if not (folder / "config.json").exists():
        words = _tokenizer()
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=512,
            initializer_range=width**-0.5,  # the usual 0.02 is for wide models: here attention would see no difference
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        words.save_pretrained(folder)
    return str(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    values = [f"{name} {value}" for name, some in ATTRIBUTES.items() for value in some]
    sizes = [f"size {size}" for size in SIZES]
    listed = ["[pad]", "[end]", "[unk]", *sizes, *values, *(f"item {number}" for number in range(1, ITEMS + 1))]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(_READ), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[pad]",
        eos_token="[end]",
        unk_token="[unk]",
        chat_template="{% for message in messages %}{{ message['content'] }}[end]{% endfor %}",
    )


class Shopper:
    """Takes the next step to what is asked for with probability `skill`, else any step; remembers what to leave.

    A token is a word of what it writes. It looks into the shop as it pleases, which costs nothing; only what it does
    counts as a call.

    Args:
        task: the shop.
        row: what is asked for.
    """

    def __init__(self, task: Shop, row: Row, *, skill: float) -> None:
        self.world = task.environment(row)
        self.shop, self.wishes = row.fields["shop"], row.fields["wishes"]
        self.skill = skill

    async def __call__(
        self, question: str, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()
    ) -> list[Proposal]:
        self.world.restore(place.state)
        cart, choices = place.state[0], self.world.choices()
        rng = random.Random(f"{question}/{seed}/{len(place.steps)}")
        drawn = [self._one(cart, choices, rng, lessons) for _ in range(count)]
        return [Proposal(action, tokens=len(str(action).split())) for action in drawn]

    def _one(self, cart: Cart, choices: Sequence[Action], rng: random.Random, lessons: Sequence[str]) -> Action:
        if rng.random() < self.skill:
            return self._step(cart)
        allowed = [one for one in choices if not (one.tool == "buy" and _bag(cart) in lessons)]
        tool = rng.choice(sorted({one.tool for one in allowed}))
        return rng.choice([one for one in allowed if one.tool == tool])

    def logprob(self, place: Place) -> float:
        """Of all that was done, in nats; by the chances with which it acts."""
        total = 0.0
        self.world.reset()
        for step in place.steps:
            cart, choices = self.world.snapshot()[0], self.world.choices()
            tools = {one.tool for one in choices}
            alike = sum(one.tool == step.action.tool for one in choices)
            any_step = (1 - self.skill) / (len(tools) * alike)
            total += math.log(any_step + self.skill * (self._step(cart) == step.action))
            self.world.step(step.action)
        return total

    def _step(self, cart: Cart) -> Action:
        """What leads to the wish whose turn it is."""
        wish = self.wishes[min(len(cart.bag), len(self.wishes) - 1)]
        fits = [
            number
            for number, item in enumerate(items_of(self.shop), start=1)
            if all(item[name] == value for name, value in wish.items() if name != "size")
        ]
        if cart.item not in fits:
            return Action(str(fits[0]), "view")
        return Action("", "buy") if cart.size == wish["size"] else Action(wish["size"], "choose")


class Anybody:
    """Takes any step that changes something; a token is a word."""

    def __init__(self, task: Any, row: Row) -> None:
        self.world = task.environment(row)

    async def __call__(
        self, question: str, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()
    ) -> list[Proposal]:
        self.world.restore(place.state)
        rng = random.Random(f"{question}/{seed}/{place.text}")
        drawn = [rng.choice(self.world.choices()) for _ in range(count)]
        return [Proposal(action, tokens=len(str(action).split())) for action in drawn]


def _bag(cart: Cart) -> str:
    return "; ".join(f"item {item} size {size}" for item, size in (*cart.bag, (cart.item, cart.size)))


async def avoid(question: str, place: Place, score: float | None) -> tuple[str, int]:
    """The lesson of an attempt that was not good enough: not to buy the same again."""
    return place.answer, len(place.answer.split())


def arena(task: Shop, row: Row, scores: Scores, *, skill: float, most_steps: int, **limits: Any) -> Arena:
    """A row of the shop with its shopper."""
    shopper = Shopper(task, row, skill=skill)
    return Arena(row.question, task.environment(row), shopper, scores, Limits(**limits), most_steps=most_steps)
