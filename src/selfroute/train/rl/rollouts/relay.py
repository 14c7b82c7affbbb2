"""Attempts in which the policy asks the cloud for tokens, as the strategy `relay` lets it (arXiv 2601.05167).

The cloud's tokens stand in the attempt under the mask of what the policy did not write: they carry no gradient, and
what the policy writes behind them does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfroute.backends.base import Backend, capability, run_sync
from selfroute.backends.sessions import Session, Sessions
from selfroute.calls import CALL_END, CallReader
from selfroute.errors import BackendError, ConfigError
from selfroute.prices import Price
from selfroute.strategies.inside.relay import MOST_TOKENS, refused
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler
from selfroute.types import Message, Sampling, Usage

__all__ = ["CloudTurns", "Relay"]


class CloudTurns:
    """The cloud's part in attempts: greedy, as the paper of GAPG assumes, and counted.

    Args:
        price: to count what its tokens cost; None counts no money.
        concurrency: answers in flight.

    Attributes:
        calls, failures: attempts with a part of the cloud, and those in which it failed.
        tokens: that it wrote.
        usd: what they cost by `price`.

    Raises:
        UnsupportedByBackend: the cloud has no sessions.
    """

    def __init__(self, backend: Backend, *, price: Price | None = None, concurrency: int = 64) -> None:
        self.backend = backend
        self.price = price
        self.concurrency = concurrency
        self.calls = self.failures = self.tokens = 0
        self.usd = 0.0
        self._sessions = capability(backend, Sessions)

    def check(self, vocabulary: str) -> None:
        """See that its ids mean what the policy's do.

        Raises:
            ConfigError: they do not; a cloud that cannot be reached yet is compared with its first answer.
        """
        theirs = self._sessions.vocabulary
        if theirs and theirs != vocabulary:
            raise ConfigError(
                f"cloud: '{self.backend.name}' ({theirs}) and the model ({vocabulary}) have different vocabularies, "
                "and algorithm relay exchanges token ids; name a cloud of the model's family"
            )

    def open(self, messages: Sequence[Message], limit: int) -> Session:
        """An answer of the cloud to go on with."""
        return self._sessions.session(messages, Sampling(max_tokens=limit))

    def count(self, used: Usage, *, failed: bool) -> None:
        """Take in what one attempt took."""
        self.calls += 1
        self.failures += failed
        self.tokens += used.completion_tokens
        self.usd += 0.0 if self.price is None else self.price.cost_usd(used)

    def metrics(self) -> dict[str, float]:
        """What was asked so far."""
        found = {
            "cloud/calls": float(self.calls),
            "cloud/failures": float(self.failures),
            "cloud/tokens": float(self.tokens),
        }
        return found if self.price is None else {**found, "cloud/usd": self.usd}

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"calls": self.calls, "failures": self.failures, "tokens": self.tokens, "usd": self.usd}

    def restore(self, states: Iterable[Mapping[str, Any]], *, count: bool = True) -> None:
        """Count on from states, of one or several processes."""
        for state in states if count else ():
            self.calls += state["calls"]
            self.failures += state["failures"]
            self.tokens += state["tokens"]
            self.usd += state["usd"]


class Relay:
    """Attempts that device and cloud write together.

    Args:
        most_tokens: that one call may ask for.
    """

    def __init__(self, cloud: CloudTurns, *, most_tokens: int = MOST_TOKENS) -> None:
        self.cloud = cloud
        self.most_tokens = most_tokens

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        """See `Rollout`."""
        ids = sampler.encode(prompts)
        made = [
            _Attempt(asked(prompt), list(prompt_ids), CallReader(sampler.speller()), sampler.limit, self.most_tokens)
            for prompt, prompt_ids in zip(prompts, ids, strict=True)
        ]
        run_sync(self._write(made, sampler))
        return Attempts(
            prompts=ids,
            completions=[attempt.ids for attempt in made],
            own=[attempt.own for attempt in made],
            texts=sampler.decode([attempt.answer for attempt in made]),
            facts={
                "cloud_tokens": [math.nan if attempt.failed else float(attempt.cloud_tokens) for attempt in made],
                "cloud_share": [math.nan if attempt.failed else attempt.cloud_share for attempt in made],
            },
        )

    async def _write(self, made: Sequence[_Attempt], sampler: Sampler) -> None:
        gate, group = asyncio.Semaphore(self.cloud.concurrency), sampler.group
        try:
            while going := [attempt for attempt in made if not attempt.over]:
                turns = sampler.write(
                    [[*attempt.prompt, *attempt.ids] for attempt in going],
                    group=group,
                    until=(CALL_END,),
                    limits=[attempt.left for attempt in going],
                )
                for attempt, turn in zip(going, turns.ids, strict=True):
                    attempt.take(turn, sampler.ends)
                await asyncio.gather(*(self._help(attempt, gate) for attempt in going if attempt.wanted))
                group = 1
        finally:
            for attempt in made:
                await self._close(attempt)

    async def _help(self, attempt: _Attempt, gate: asyncio.Semaphore) -> None:
        """Let the cloud write what an attempt has called for."""
        try:
            async with gate:
                if attempt.session is None:
                    attempt.session = self.cloud.open(attempt.messages, attempt.limit)
                await attempt.session.read(attempt.answer[attempt.sent :])
                written = await attempt.session.write(attempt.wanted)
        except BackendError:
            attempt.failed = attempt.over = True
            return
        attempt.go_on([token.token_id for token in written], ended=written[-1].ends)

    async def _close(self, attempt: _Attempt) -> None:
        if attempt.session is not None:
            self.cloud.count(attempt.session.used, failed=attempt.failed)
            await attempt.session.close()
        elif attempt.failed:
            self.cloud.count(Usage(), failed=True)


@dataclass(slots=True)
class _Attempt:
    """One attempt under way.

    Attributes:
        messages: what the cloud is asked.
        prompt: ids of the policy's prompt.
        ids, own: its completion so far, and what of it the policy wrote.
        answer: of these, what is no call.
        sent: how much of the answer the cloud has.
        wanted: tokens that the policy has called for and not got.
    """

    messages: Sequence[Message]
    prompt: list[int]
    reader: CallReader
    limit: int
    most: int
    ids: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    sent: int = 0
    wanted: int = 0
    cloud_tokens: int = 0
    session: Session | None = None
    over: bool = False
    failed: bool = False

    @property
    def left(self) -> int:
        return self.limit - len(self.ids)

    @property
    def cloud_share(self) -> float:
        return self.cloud_tokens / max(1, len(self.answer))

    def take(self, turn: Sequence[int], ends: frozenset[int]) -> None:
        """What the policy has written on, to the end of the attempt or of a call."""
        self.ids += turn
        self.own += [1] * len(turn)
        self.over = turn[-1] in ends or self.left < 1
        stretches = self.reader.feed(turn)
        for stretch in [*stretches, *(self.reader.close() if self.over else [])]:
            if not stretch.is_call:
                self.answer += stretch.token_ids
            elif stretch.count is not None and not refused(stretch.count, most=self.most, left=self.left):
                self.wanted = stretch.count

    def go_on(self, written: Sequence[int], *, ended: bool) -> None:
        """What the cloud has written on."""
        self.ids += written
        self.own += [0] * len(written)
        self.answer += written
        self.sent, self.wanted = len(self.answer), 0
        self.cloud_tokens += len(written)
        self.over = ended or self.left < 1


def asked(prompt: Prompt) -> list[Message]:
    """The conversation of a policy's prompt as a cloud sees it: without the system prompt, which is the device's."""
    turns = prompt[1:] if prompt and prompt[0]["role"] == "system" else prompt
    return [Message(turn["role"], turn["content"]) for turn in turns]
