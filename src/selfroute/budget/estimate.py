"""The most that a request to the cloud can use, known before it is made."""

from __future__ import annotations

import json
from collections.abc import Sequence

from selfroute.budget.base import Estimate
from selfroute.prices import Price
from selfroute.types import Message, Sampling, Usage

__all__ = ["most_used"]

_TOKENS_PER_MEDIUM = 4096  # no provider counts an image higher; audio of up to some minutes neither
_TOKENS_PER_TURN = 16  # what a chat template adds to a message, generously


def most_used(messages: Sequence[Message], sampling: Sampling, price: Price, *, answers: int = 1) -> Estimate:
    """The most that a call can use: no tokenizer in use writes more tokens than a text has bytes.

    Args:
        answers: that the backend may write for one request, see `Backend.most_answers`.
    """
    prompt = sum(_most_tokens(message) + _TOKENS_PER_TURN for message in messages) + _TOKENS_PER_TURN
    if sampling.extra:  # tools and schemas become part of the prompt
        prompt += len(json.dumps(dict(sampling.extra), default=str))
    usage = Usage(prompt, sampling.max_tokens * answers)
    return Estimate(usage, price.cost_usd(usage))


def _most_tokens(message: Message) -> int:
    """Bytes of a message's text and fields; other media count as what providers take for a large image."""
    if message.raw is None:
        return len(message.content.encode("utf-8", "replace"))
    parts = message.raw.get("content")
    media = [p for p in parts if p.get("type") != "text"] if isinstance(parts, list) else []
    rest = {**message.raw, "content": message.content}
    return len(json.dumps(rest, default=str)) + _TOKENS_PER_MEDIUM * len(media)
