"""A device that keeps to an attribute while it writes: decoding from q*, which a critic gives (arXiv 2410.05559).

The critic is what attribute training leaves in OUT/critics, and belongs to the model that it was fitted to. Guided
answers are written by our own sampler alone; of any other backend `capability` says that it cannot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from selfroute.backends.base import Backend, as_backend, capability
from selfroute.errors import ConfigError
from selfroute.handoff import Channel
from selfroute.types import Completion, Delta, Message, Sampling

if TYPE_CHECKING:
    from selfroute.backends.torch.critic import Critic, Guide

__all__ = ["Guidable", "GuidedBackend", "guided"]

T = TypeVar("T")


@runtime_checkable
class Guidable(Protocol):
    """A model in this process whose tokens can be drawn from another distribution than its own.

    Attributes:
        hidden_size: of its last hidden states.
        size: logits of each step.
        vocabulary: fingerprint of its words.
    """

    @property
    def hidden_size(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def vocabulary(self) -> str: ...

    def guide(self, critic: Critic, channel: Channel, allowed: float) -> Callable[[], Guide]:
        """Makes guides for this model, one for each batch."""
        ...

    def generate_guided(
        self, prompts: Sequence[Sequence[Message]], sampling: Sampling, guide: Callable[[], Guide]
    ) -> list[Completion]:
        """Answers in order, drawn as a guide says."""
        ...


class GuidedBackend(Backend):
    """A model whose channel is drawn from q*; the rest as it is.

    An answer comes whole, as our sampler writes it, and not piece by piece.

    Args:
        backend: the model.
        critic: file that training wrote.
        allowed: share of texts that may violate the attribute; 0 for none.

    Raises:
        UnsupportedByBackend: the model is not written by our sampler.
        ConfigError: the critic cannot be read, or was made for another model.
    """

    inner: Backend

    def __init__(self, backend: Backend, critic: str | Path, *, allowed: float = 0.0) -> None:
        self.inner = as_backend(backend)
        self.name = backend.name
        self._model = capability(self.inner, Guidable)
        from selfroute.backends.torch.critic import Critic, check_critic

        if not 0.0 <= allowed < 1.0:
            raise ConfigError(f"allowed={allowed:g}: a share of texts lies between 0 and 1; 0 allows none")
        found, facts = Critic.load(Path(critic))
        check_critic(found, hidden_size=self._model.hidden_size, vocabulary=self._model.size)
        if facts.get("words") != self._model.vocabulary:
            raise ConfigError(f"critic: '{critic}' was made for other words than those of {self.name}; name its own")
        self.channel: Channel = facts["channel"]
        self._guide = self._model.guide(found, self.channel, allowed)

    def offer(self, kind: type[T]) -> T | None:
        """Itself or nothing: written past the guide, an answer would not keep to the attribute."""
        return self if isinstance(self, kind) else None

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        """Answer every prompt, in order; see `TransformersBackend.generate_batch`."""
        return self._model.generate_guided(prompts, sampling, self._guide)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Write the answer, and give it whole.

        Raises:
            BackendError: the model failed.
        """
        (answer,) = await asyncio.to_thread(self.generate_batch, [messages], sampling)
        yield Delta(answer.text, answer.tokens, answer.finish_reason, answer.usage)


def guided(model: str, critic: str, *, allowed: float = 0.0, name: str | None = None) -> GuidedBackend:
    """A model in this process whose channel keeps to an attribute, steered by a critic.

    Args:
        model: folder or hub repository, as of `transformers`.
        critic: file that attribute training wrote into OUT/critics.
        allowed: share of texts that may violate the attribute.
    """
    from selfroute.backends.transformers import TransformersBackend

    return GuidedBackend(TransformersBackend.load(model, name=name), critic, allowed=allowed)
