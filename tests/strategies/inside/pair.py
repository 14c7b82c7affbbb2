"""A pair of tiny random models with one tokenizer, and clouds that do what no cloud should."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.backends.base import Backend
from selfroute.backends.exits import ExitBackend
from selfroute.backends.sessions import NO_LOOK, Look, Session
from selfroute.backends.torch.exits import first_layers, new_exit
from selfroute.backends.torch.sessions import TorchSession
from selfroute.backends.transformers import TransformersBackend
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Sides
from selfroute.types import Message, Sampling

# Every other word is one of three letters, so that a text has a beginning, a middle and ends.
WORDS = ["<end>", "<pad>", "<unk>", *(f"w{i}" for i in range(37))]
PLAIN = PromptTemplate("", "", "{question}")
SAMPLING = Sampling(max_tokens=40)


@lru_cache(maxsize=4)
def tokenizer(words: int = len(WORDS)) -> Any:
    vocabulary = {word: i for i, word in enumerate(WORDS[:words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<end>",
        pad_token="<pad>",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}w0",
    )


def model(
    name: str, *, seed: int, words: int = len(WORDS), max_batch: int = 16, layers: int = 2
) -> TransformersBackend:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return TransformersBackend(name, LlamaForCausalLM(config).eval(), tokenizer(words), max_batch=max_batch)


def first_part(whole: TransformersBackend, exits: Sequence[int]) -> ExitBackend:
    """A device of the first layers of a model, whose exits are its untrained norm and head."""
    found = [(layers, new_exit(whole.model)) for layers in exits]
    layers = first_layers(whole.model, *found[-1])
    return ExitBackend("device", layers, whole.tokenizer, found[:-1], whole.whole)


def alike(device: TransformersBackend, *, share: float, seed: int) -> TransformersBackend:
    """A cloud whose weights are mostly a device's, so that the two agree often."""
    other = model("cloud", seed=seed)
    state = device.model.state_dict()
    for name, weight in other.model.state_dict().items():
        weight.copy_(state[name] * (1 - share) + weight * share)
    return other


def ask(number: int) -> list[Message]:
    return [Message("user", " ".join(f"w{(number * k + k) % 37}" for k in range(1, 6)))]


def sides(device: Backend, cloud: Backend | None, **options: Any) -> Sides:
    return Sides(device=device, cloud=cloud, template=PLAIN, **options)


class Faulty(Backend):
    """A cloud whose sessions write what a function makes of what was written.

    Args:
        inner: the real one.
        fault: of the number of the call, from 0, and its result: the result to give; may raise.
    """

    inner: TransformersBackend

    def __init__(self, inner: TransformersBackend, fault: Callable[[int, Any], Any]) -> None:
        self.inner, self.name = inner, inner.name
        self.fault = fault
        self.opened: list[_FaultySession] = []

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> Any:
        async for delta in self.inner.stream(messages, sampling):
            yield delta

    gives = property(lambda self: self.inner.gives)
    vocabulary = property(lambda self: self.inner.vocabulary)

    def speller(self, stop: Sequence[str] = ()) -> Any:
        return self.inner.speller(stop)

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> Session:
        session = self.inner.session(messages, sampling, look=look, luck=luck)
        self.opened.append(_FaultySession(session, self.fault))
        return self.opened[-1]


class _FaultySession:
    def __init__(self, inner: TorchSession, fault: Callable[[int, Any], Any]) -> None:
        self.inner, self.fault = inner, fault
        self.calls = 0
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write(self, *args: Any, **options: Any) -> Any:
        return self._spoiled(await self.inner.write(*args, **options))

    async def read(self, ids: Sequence[int], *, every: bool = False) -> Any:
        views = await self.inner.read(ids, every=every)
        return self._spoiled(views) if every else views

    def _spoiled(self, result: Any) -> Any:
        self.calls += 1
        return self.fault(self.calls - 1, result)

    async def close(self) -> None:
        self.closed = True
        await self.inner.close()


def other_word(result: Sequence[Any], token_id: int) -> list[Any]:
    """The same with another last token."""
    last = result[-1]
    field = "drawn" if hasattr(last, "drawn") else "token_id"
    return [*result[:-1], dataclasses.replace(last, **{field: token_id})]
