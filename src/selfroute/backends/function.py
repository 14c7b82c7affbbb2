"""A backend made of a Python function: the public test double, and the quickest way to plug in a model."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from selfroute.backends.base import Backend
from selfroute.types import Completion, Delta, Message, Sampling, Usage

__all__ = ["Answer", "FunctionBackend", "replay"]

Answer = str | Completion
_CHUNK = 8  # characters per replayed delta; short, so that readers meet every kind of split
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z")


class FunctionBackend(Backend):
    """Answers with what `fn(messages, sampling)` returns, and raises whatever it raises.

    A `Completion` is streamed as it is. A `str` is counted in words, one word being one token, and cut at
    `sampling.stop` and `sampling.max_tokens`. Everything else in `sampling`, also `forbid`, is for `fn` to honour.

    Args:
        name: shown in traces and reports.
        fn: a plain or async function. A plain one runs on the event loop, so one that waits should be async.
    """

    def __init__(self, name: str, fn: Callable[[Sequence[Message], Sampling], Answer | Awaitable[Answer]]) -> None:
        self.name = name
        self.fn = fn

    def __repr__(self) -> str:
        return f"FunctionBackend({self.name!r})"

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Call the function and stream its answer in small pieces, always split in the same way."""
        answer = self.fn(messages, sampling)
        if inspect.isawaitable(answer):
            answer = await answer
        completion = answer if isinstance(answer, Completion) else _completion(answer, messages, sampling)
        for delta in replay(completion):
            await asyncio.sleep(0)  # as a real stream does, so that streams interleave and can be cancelled
            yield delta


def replay(completion: Completion) -> Iterator[Delta]:
    """A finished completion as the deltas of a stream; joined they give the completion again."""
    tokens = completion.tokens
    if tokens and "".join(token.text for token in tokens) == completion.text:
        yield from (Delta(token.text, (token,)) for token in tokens)
        tokens = ()
    else:
        yield from (Delta(completion.text[i : i + _CHUNK]) for i in range(0, len(completion.text), _CHUNK))
    seconds = completion.seconds or None  # 0 stands for "not measured"
    yield Delta(
        tokens=tokens,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        seconds=seconds,
        usd=completion.usd,
    )


def _completion(text: str, messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Cut a text as a model's decoder would, and count its words."""
    ends = [text.index(stop) for stop in sampling.stop if stop and stop in text]
    words = _WORD.findall(text[: min(ends)] if ends else text)
    prompt_tokens = sum(len(_WORD.findall(message.content)) for message in messages)
    kept = words[: sampling.max_tokens]
    finish_reason = "length" if len(words) > len(kept) else "stop"
    return Completion("".join(kept), Usage(prompt_tokens, len(kept)), finish_reason)
