"""The conformance suites let good ones pass, and find each fault."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from selfroute.backends.base import Backend, refuse_fields
from selfroute.backends.function import replay
from selfroute.errors import BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.tasks.base import Row
from selfroute.testing import BACKEND_CASES, check_backend, check_task
from selfroute.types import Completion, Delta, Message, Sampling, Token, Usage
from selfroute.verify.base import Verdict


class Good(Backend):
    """Keeps the contract: counts words, and stops where it is told."""

    name = "good"

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        self.accept(messages, sampling)
        for delta in replay(self.answer(messages, sampling)):
            await asyncio.sleep(0)
            yield delta

    def accept(self, messages: Sequence[Message], sampling: Sampling) -> None:
        refuse_fields(self, messages, sampling)
        if sampling.forbid:
            raise UnsupportedByBackend(f"{self.name} cannot forbid text")

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        text = f"you said {' / '.join(message.content for message in messages)} and that is all that there was"
        for stop in sampling.stop:
            text = text.partition(stop)[0]
        words = text.split(" ")
        kept = [word + " " for word in words[: sampling.max_tokens]]
        tokens = () if sampling.top_logprobs is None else tuple(Token(word, -0.5) for word in kept)
        reason = "length" if len(kept) < len(words) else "stop"
        return Completion("".join(kept).removesuffix(" "), Usage(3, len(kept)), reason, tokens)


class Changed(Good):
    """Gives other answers than `Good`."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return replace(super().answer(messages, sampling), **self.fields)


class Nameless(Good):
    name = ""


class Early(Good):
    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        async for delta in super().stream(messages, sampling):
            yield replace(delta, usage=Usage(1, 1))


class Endless(Good):
    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        async for delta in super().stream(messages, sampling):
            yield replace(delta, finish_reason=None)


class Silent(Good):
    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        for delta in ():
            yield delta


class Random(Good):
    asked = 0

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.asked += 1
        return replace(super().answer(messages, sampling), text=f"answer {self.asked}")


class Greedy(Good):
    """Knows neither `max_tokens` nor `stop`."""

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return super().answer(messages, replace(sampling, max_tokens=12, stop=()))


class Quiet(Good):
    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return replace(super().answer(messages, sampling), finish_reason="stop")


class Rewriting(Good):
    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        answer = super().answer(messages, sampling)
        return replace(answer, text="9") if sampling.stop else answer


class Crashing(Good):
    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return replace(
            super().answer(messages, sampling), text=super().answer(messages, sampling).text + messages[0].role
        )


class Refusing(Good):
    def accept(self, messages: Sequence[Message], sampling: Sampling) -> None:
        super().accept(messages, sampling)
        if not messages:
            raise BackendUnavailable("down", backend=self.name)


class Heedless(Good):
    """Takes whatever is asked, and does as it likes."""

    def accept(self, messages: Sequence[Message], sampling: Sampling) -> None: ...


class Late(Good):
    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        yield Delta("")
        async for delta in super().stream(messages, sampling):
            yield delta


class Mixing(Good):
    """Keeps its place in the answer for all streams together."""

    left: list[Delta]

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        self.accept(messages, sampling)
        self.left = list(replay(self.answer(messages, sampling)))
        while self.left:
            await asyncio.sleep(0)
            yield self.left.pop(0) if self.left else Delta()


class Queueing(Good):
    """One stream at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        async with self.lock:
            async for delta in super().stream(messages, sampling):
                yield delta


class Backwards(Good):
    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        return [self.answer(messages, sampling) for messages in reversed(prompts)]


class Clinging(Good):
    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        try:
            async for delta in super().stream(messages, sampling):
                yield delta
        except (GeneratorExit, asyncio.CancelledError):
            time.sleep(1.1)
            raise


class Once(Good):
    is_closed = False

    async def aclose(self) -> None:
        if self.is_closed:
            raise RuntimeError("closed already")
        self.is_closed = True


FAULTS = [
    (Nameless, "it_has_a_name_and_an_identity", "`name` is a text that is not empty"),
    (Early, "only_the_last_piece_carries_the_end", "only the last Delta of a stream has finish_reason and usage"),
    (Endless, "only_the_last_piece_carries_the_end", "the last Delta has finish_reason 'stop'"),
    (Silent, "only_the_last_piece_carries_the_end", "a stream has at least one Delta"),
    (lambda: Changed(usage=None), "only_the_last_piece_carries_the_end", "the usage of the whole answer"),
    (lambda: Changed(text=""), "usage_counts_what_was_written", "'hello' is answered with some text"),
    (lambda: Changed(usage=Usage(3, 0)), "usage_counts_what_was_written", "usage must count it"),
    (Random, "equal_requests_get_equal_answers", "at temperature 0 the same request gives the same text"),
    (lambda: Changed(seconds=-1.0), "equal_requests_get_equal_answers", "seconds are not negative"),
    (Crashing, "an_empty_conversation_is_answered_or_refused", "not IndexError"),
    (Refusing, "an_empty_conversation_is_answered_or_refused", "is not retryable"),
    (Greedy, "max_tokens_is_kept", "no more than max_tokens=1 tokens are written, not 12"),
    (Quiet, "max_tokens_is_kept", "cuts has finish_reason 'length', not 'stop'"),
    (Greedy, "stop_strings_end_the_answer", "an answer ends before a stop string"),
    (Rewriting, "stop_strings_end_the_answer", "a stop string only cuts the answer"),
    (lambda: Changed(tokens=(Token("a", -1.0),)), "tokens_are_reported_only_on_request", "without top_logprobs"),
    (lambda: Changed(tokens=()), "tokens_are_reported_on_request_or_refused", "an answer has its tokens"),
    (lambda: Changed(tokens=(Token("a", 0.5),)), "tokens_are_reported_on_request_or_refused", "at most 0"),
    (Heedless, "forbidden_text_is_not_begun_or_refused", "or raise UnsupportedByBackend"),
    (Heedless, "fields_that_it_lacks_are_refused_before_anything_is_written", "it cannot do tools, logit_bias: refuse"),
    (Late, "fields_that_it_lacks_are_refused_before_anything_is_written", "comes before the first Delta, not after 1"),
    (Random, "streams_at_once_do_not_mix", "six streams at once give what each gives alone"),
    (Mixing, "streams_read_in_turns_do_not_mix", "two streams read in turns give what each gives alone"),
    (Queueing, "a_reader_that_pauses_holds_up_nobody", "does not wait for the reader of another one"),
    (Mixing, "a_reader_that_pauses_holds_up_nobody", "a reader that pauses misses nothing"),
    (Backwards, "many_prompts_keep_their_order", "in order"),
    (Clinging, "leaving_early_is_prompt_and_harmless", "a stream is closed within 1 s when its reader leaves"),
    (Clinging, "cancelling_is_prompt_and_harmless", "a cancelled request ends within 1 s"),
    (Once, "closing_twice_does_nothing", "`aclose` can be called twice"),
]


async def test_a_good_backend_passes() -> None:
    await check_backend(Good)


async def test_a_maker_may_be_async_and_what_it_makes_is_closed() -> None:
    closed = []

    class Closing(Good):
        async def aclose(self) -> None:
            closed.append(self)

    async def make() -> Backend:
        return Closing()

    await check_backend(make, skip=["closing_twice_does_nothing"])
    assert len(set(map(id, closed))) == len(BACKEND_CASES) - 1


@pytest.mark.parametrize(("make", "case", "words"), FAULTS)
async def test_each_fault_of_a_backend_is_found_and_named(
    make: Any, case: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfroute.testing.backends.PATIENCE_S", 0.3)
    with pytest.raises(AssertionError) as found:
        await check_backend(make, skip=set(BACKEND_CASES) - {case})
    assert words in str(found.value)


def test_every_case_has_a_fault_that_it_finds() -> None:
    assert {case for _, case, _ in FAULTS} == set(BACKEND_CASES)


async def test_what_is_no_backend_and_cases_that_are_none() -> None:
    with pytest.raises(AssertionError, match=r"derive its class from selfroute\.Backend"):
        await check_backend(lambda: object())  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="skip: there is no case 'max_token'; known: it_has_a_name"):
        await check_backend(Good, skip=["max_token"])


# --- tasks -----------------------------------------------------------------------------------------------------


class Capitals:
    name, template = "capitals", "think"

    def rows(self, split: str) -> Iterable[Row]:
        return [Row(str(number), f"Say {number}", str(number)) for number in range(5)]

    def verify(self, row: Row, completion: str) -> Verdict:
        return Verdict(completion == f"<answer>{row.gold}</answer>")

    def gold_completion(self, row: Row) -> str:
        return f"<answer>{row.gold}</answer>"


class Unstable(Capitals):
    calls = 0

    def rows(self, split: str) -> Iterable[Row]:
        self.calls += 1
        return list(super().rows(split))[self.calls % 2 :]


class Shrinking(Capitals):
    calls = 0

    def rows(self, split: str) -> Iterable[Row]:
        self.calls += 1
        return list(super().rows(split))[: 5 - self.calls]


class Twins(Capitals):
    def rows(self, split: str) -> Iterable[Row]:
        return [replace(row, id="same") for row in super().rows(split)]


class Wrong(Capitals):
    def gold_completion(self, row: Row) -> str:
        return row.gold


class Raising(Capitals):
    def verify(self, row: Row, completion: str) -> Verdict:
        completion.encode()
        return super().verify(row, completion)


class Slow(Capitals):
    def verify(self, row: Row, completion: str) -> Verdict:
        time.sleep(0.3 if len(completion) > 90_000 else 0)
        return super().verify(row, completion)


class Vague(Capitals):
    def verify(self, row: Row, completion: str) -> Verdict:
        return super().verify(row, completion) if completion else None  # type: ignore[return-value]


class Untitled(Capitals):
    name = ""


class Misplaced(Capitals):
    template = "thunk"


class Empty(Capitals):
    def rows(self, split: str) -> Iterable[Row]:
        return list(super().rows(split)) if split == "test" else []


TASK_FAULTS = [
    (Untitled, "`name` is a text that is not empty"),
    (Misplaced, "`template` is one of"),
    (Empty, "split 'train' has rows; leave it out of `splits`"),
    (Unstable, "gives the same rows every time; row 0 was"),
    (Shrinking, "and then None"),
    (Twins, "5 rows have the id 'same'"),
    (Wrong, "its own verifier accepts its gold_completion"),
    (
        Raising,
        "`verify` never raises on what a model wrote, but of '\\ud800' (1 characters) it raised UnicodeEncodeError",
    ),
    (Slow, "`verify` ends within 0.2 s on any text"),
    (Vague, "`verify` gives a Verdict, not None"),
]


def test_a_good_task_passes() -> None:
    check_task(Capitals())
    check_task(Empty(), splits=["test"], limit=None)


@pytest.mark.parametrize(("make", "words"), TASK_FAULTS)
def test_each_fault_of_a_task_is_found_and_named(make: type[Capitals], words: str) -> None:
    with pytest.raises(AssertionError) as found:
        check_task(make(), bound_s=0.2)
    assert words in str(found.value)


def test_faults_are_found_without_assertions() -> None:
    code = """
import asyncio
from selfroute.backends.function import FunctionBackend
from selfroute.testing import check_backend
assert False, "left out under -O"
asyncio.run(check_backend(lambda: FunctionBackend("", lambda messages, sampling: "x")))
"""
    found = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert "AssertionError: `name` is a text that is not empty" in found.stderr
