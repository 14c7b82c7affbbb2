"""Sampling again where an answer's own check rejects it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from selfroute.backends.base import Backend, complete, complete_all, run_sync
from selfroute.backends.best_of import BestOfN
from selfroute.backends.function import FunctionBackend
from selfroute.budget.estimate import most_used
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.prices import Price
from selfroute.prompts import TEMPLATES
from selfroute.strategies.always import AlwaysCloud
from selfroute.strategies.base import Sides, answer
from selfroute.types import Completion, Delta, Message, Sampling, Usage

EASY, HARD, HOPELESS = ([Message("user", text)] for text in ("easy", "hard", "hopeless"))


class Counting(Backend):
    """Greedy answers are "no" unless the prompt is easy; the sample of seed s on a hard prompt is "yes" if s = 2."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[Sampling] = []

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.asked.append(sampling)
        question = messages[-1].content
        lucky = question == "hard" and sampling.temperature > 0 and sampling.seed == 2
        return Completion("yes" if question == "easy" or lucky else f"no {sampling.seed}", Usage(10, 3), "stop")

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        answer = self.answer(messages, sampling)
        yield Delta(answer.text, (), answer.finish_reason, answer.usage)

    async def aclose(self) -> None:
        self.asked.clear()


class Batching(Counting):
    """The same with batches, in which equal prompts draw different samples; a hard one alone stays without answer."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        self.batches.append(len(prompts))
        texts = [self.answer(messages, sampling).text for messages in prompts]
        if sampling.temperature > 0:
            hard = [i for i, messages in enumerate(prompts) if messages[-1].content == "hard"]
            texts = ["no" if i in hard else text for i, text in enumerate(texts)]
            if len(hard) > 1:
                texts[hard[1]] = "yes second"
        return [Completion(text, Usage(10, 3), "stop") for text in texts]


def accept(text: str) -> bool:
    return text.startswith("yes")


async def test_an_accepted_answer_is_given_at_once() -> None:
    backend = Counting()
    answer = await complete(BestOfN(backend, 4, accept), EASY, Sampling())
    assert (answer.text, answer.usage) == ("yes", Usage(10, 3))
    assert backend.asked == [Sampling()]


async def test_the_first_accepted_sample_is_given_and_all_tokens_are_counted() -> None:
    backend = Counting()
    answer = await complete(BestOfN(backend, 4, accept, 0.8), HARD, Sampling(max_tokens=50))
    assert (answer.text, answer.usage) == ("yes", Usage(10, 12))
    assert [(s.temperature, s.seed, s.max_tokens) for s in backend.asked] == [
        (0.0, None, 50),
        (0.8, 1, 50),
        (0.8, 2, 50),
        (0.8, 3, 50),
    ]


async def test_the_first_answer_stands_when_none_is_accepted() -> None:
    answer = await complete(BestOfN(Counting(), 3, accept), HOPELESS, Sampling())
    assert (answer.text, answer.usage) == ("no None", Usage(10, 9))


async def test_n_of_one_never_asks_again() -> None:
    backend = Counting()
    assert (await complete(BestOfN(backend, 1, accept), HOPELESS, Sampling())).text == "no None"
    assert len(backend.asked) == 1


@pytest.mark.parametrize("kind", [Counting, Batching])
async def test_a_batch_keeps_its_order(kind: type[Counting]) -> None:
    backend = kind()
    answers = await complete_all(BestOfN(backend, 4, accept), [HOPELESS, EASY, HARD, EASY], Sampling())
    texts = [answer.text for answer in answers if isinstance(answer, Completion)]
    assert texts == ["no None", "yes", "yes second" if kind is Batching else "yes", "yes"]
    tokens = [answer.usage.completion_tokens for answer in answers if isinstance(answer, Completion)]
    assert tokens == [12, 3, 12, 3]


def test_retries_of_all_prompts_are_one_batch_a_round_until_accepted() -> None:
    backend = Batching()
    BestOfN(backend, 8, accept, round_rows=2).generate_batch([HARD, EASY, HOPELESS], Sampling())
    assert backend.batches == [3, 2, 4, 4]  # 1, then 2 attempts for both; 4 for the one still without an answer


def test_a_round_fills_a_batch() -> None:
    backend = Batching()
    BestOfN(backend, 8, accept, round_rows=8).generate_batch([HARD, EASY, HOPELESS], Sampling())
    assert backend.batches == [3, 8, 3]  # 4 attempts for both; the 3 that are left for the one without an answer


async def test_a_failure_is_an_error_not_an_answer() -> None:
    class Down(Counting):
        def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
            raise BackendUnavailable("down", backend=self.name)

    with pytest.raises(BackendUnavailable):
        await complete(BestOfN(Down(), 2, accept), EASY, Sampling())
    [answer] = await complete_all(BestOfN(Down(), 2, accept), [EASY], Sampling())
    assert isinstance(answer, BackendUnavailable)


async def test_a_reader_that_leaves_ends_every_attempt() -> None:
    class Hanging(Batching):
        """Never ends an attempt after the first; batches must not be used, as nothing stops one under way."""

        running = ended = 0

        async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
            if sampling.temperature == 0:
                yield Delta("no", (), "stop", Usage(1, 1))
                return
            self.running += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.ended += 1

        def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
            raise AssertionError("a batch cannot be left")

    backend = Hanging()
    reading = asyncio.ensure_future(complete(BestOfN(backend, 4, accept), HOPELESS, Sampling()))
    while backend.running < 3:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.sleep(0)
    assert (backend.running, backend.ended) == (3, 3)


async def test_closing_reaches_the_backend() -> None:
    backend = Counting()
    await complete(BestOfN(backend, 1, accept), EASY, Sampling())
    await BestOfN(backend, 1, accept).aclose()
    assert backend.asked == []


@pytest.mark.parametrize(("n", "temperature", "message"), [(0, 1.0, "n is 0"), (2, 0.0, "temperature is 0.0")])
def test_bad_arguments_are_named(n: int, temperature: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BestOfN(Counting(), n, accept, temperature)


def test_a_budget_holds_room_for_every_attempt() -> None:
    """What it may write for one request is booked as one call, and must not be more than was held for it."""
    messages, sampling = HOPELESS, Sampling(max_tokens=3)
    inner = BestOfN(Counting(), 2, accept)
    for backend, answers in ((Counting(), 1), (inner, 2), (BestOfN(inner, 3, accept), 6)):
        assert backend.most_answers == answers
        held = most_used(messages, sampling, Price(completion_usd=1.0), answers=backend.most_answers)
        used = run_sync(complete(backend, messages, sampling)).usage
        assert used.completion_tokens == 3 * answers == held.usage.completion_tokens
        assert held.cost_usd == pytest.approx(3e-6 * answers)


async def test_a_request_that_best_of_n_may_answer_is_refused_where_its_attempts_do_not_fit() -> None:
    cloud, template = BestOfN(Counting(), 4, accept), TEMPLATES["plain"]
    device = FunctionBackend("device", lambda messages, sampling: "mine")
    for tokens, source in ((1000, "device"), (1200, "cloud")):
        budget = LedgerBudget(Limits(windows=(WindowLimit(unit="tokens", window="total", cap=tokens),)), MemoryLedger())
        sides = Sides(device=device, cloud=cloud, template=template, budget=budget)
        trace = await answer(AlwaysCloud(), sides, HOPELESS, Sampling(max_tokens=256))
        assert trace.source == source
