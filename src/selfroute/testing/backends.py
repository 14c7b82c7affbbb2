"""Whether a backend keeps its contract."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest

from selfroute.backends.base import Backend, Fold, complete, complete_all, lacking
from selfroute.backends.flight import closing
from selfroute.errors import BackendError, ConfigError, SelfRouteError, UnsupportedByBackend
from selfroute.testing.contract import hold
from selfroute.types import Completion, Delta, Message, Sampling, Usage

__all__ = ["BACKEND_CASES", "CONVERSATIONS", "EMPTY", "SHORT", "check_backend"]

HELLO = (Message("user", "hello"),)
FINE = (Message("system", "be kind"), Message("user", "the assistant says fine"))
UNICODE = (Message("user", "grüß dich 你好 👩‍👩‍👧 \u2028 \x00 مرحبا"),)
CONVERSATIONS: tuple[Sequence[Message], ...] = (HELLO, FINE, UNICODE)  # what a backend is asked, beside EMPTY
EMPTY: Sequence[Message] = ()
SHORT = Sampling(max_tokens=12)  # with other options only where a case says so
PROMPTLY_S = 1.0  # how long letting go of a stream may take
PATIENCE_S = 5.0  # how long one stream may take while another one waits
_TURNS = 200

BackendCase = Callable[[Backend], Awaitable[None]]


async def check_backend(make: Callable[[], Backend | Awaitable[Backend]], *, skip: Collection[str] = ()) -> None:
    """Check that a backend keeps the contract of `selfroute.Backend`.

    It is asked greedily, for a dozen tokens at a time, some fifty times. A small model is good enough: what it says
    does not matter, but the same request must give the same answer.

    Args:
        make: makes the backend, once for each case; it is closed with `aclose` after it. May be async.
        skip: names of `BACKEND_CASES` that do not apply, e.g. "max_tokens_is_kept" for one that replays answers.

    Raises:
        AssertionError: the contract is broken; says which and how.
        ConfigError: there is no case of a name in `skip`.
    """
    if unknown := sorted(set(skip) - set(BACKEND_CASES)):
        raise ConfigError(f"skip: there is no case '{unknown[0]}'; known: {', '.join(BACKEND_CASES)}")
    for name in (name for name in BACKEND_CASES if name not in skip):
        made = make()
        backend = await made if inspect.isawaitable(made) else made
        hold(isinstance(backend, Backend), f"{backend!r:.80} is no backend: derive its class from selfroute.Backend")
        try:
            await BACKEND_CASES[name](backend)
        except BaseException:
            with suppress(Exception):  # what the case found is the news
                await backend.aclose()
            raise
        await backend.aclose()


async def it_has_a_name_and_an_identity(backend: Backend) -> None:
    for attribute, value in (("name", backend.name), ("identity", backend.identity)):
        hold(isinstance(value, str) and value != "", f"`{attribute}` is a text that is not empty, not {value!r}")
    hold(backend.identity == backend.identity, "`identity` stays the same: it is part of the key in an answer cache")


async def only_the_last_piece_carries_the_end(backend: Backend) -> None:
    *earlier, last = await _pieces(backend, HELLO)
    for piece in earlier:
        early = piece.finish_reason is None and piece.usage is None
        hold(
            early, f"only the last Delta of a stream has finish_reason and usage, but not the last has: {piece!r:.200}"
        )
    reason = last.finish_reason
    hold(
        reason in ("stop", "length"),
        f"the last Delta has finish_reason 'stop', or 'length' if max_tokens cut the answer, not {reason!r}",
    )
    hold(isinstance(last.usage, Usage), f"the last Delta has the usage of the whole answer, not {last.usage!r}")


async def usage_counts_what_was_written(backend: Backend) -> None:
    answer = await complete(backend, HELLO, SHORT)
    hold(answer.text != "", "'hello' is answered with some text")
    hold(answer.usage.completion_tokens > 0, f"text was written, and usage must count it: {answer.usage}")


async def equal_requests_get_equal_answers(backend: Backend) -> None:
    """A stream put together is the plain answer, whatever the conversation."""
    for messages in CONVERSATIONS:
        joined = "".join(piece.text for piece in await _pieces(backend, messages))
        answer = await complete(backend, messages, SHORT)
        hold(
            answer.text == joined,
            f"at temperature 0 the same request gives the same text; {messages[-1].content!r} gave {joined!r:.80} and "
            f"then {answer.text!r:.80}",
        )
        hold(answer.seconds >= 0, f"seconds are not negative: {answer.seconds}")


async def an_empty_conversation_is_answered_or_refused(backend: Backend) -> None:
    """Chat templates may refuse it; asking again is then of no use."""
    try:
        await complete(backend, EMPTY, SHORT)
    except BackendError as error:
        hold(error.backend == backend.name, f"BackendError.backend is {backend.name!r}, not {error.backend!r}")
        hold(not error.retryable, "the error for an empty conversation is not retryable: asking again is of no use")
    except SelfRouteError:
        pass
    except Exception as error:
        raise AssertionError(
            f"an empty conversation is answered, or refused with an error of selfroute.errors, not {error!r}"
        ) from error


async def max_tokens_is_kept(backend: Backend) -> None:
    whole = await complete(backend, FINE, SHORT)
    for most in (1, 3):
        answer = await complete(backend, FINE, Sampling(max_tokens=most))
        written = answer.usage.completion_tokens
        hold(written <= most, f"no more than max_tokens={most} tokens are written, not {written}")
        if whole.usage.completion_tokens > most:
            cut = answer.finish_reason
            hold(cut == "length", f"an answer that max_tokens={most} cuts has finish_reason 'length', not {cut!r}")


async def stop_strings_end_the_answer(backend: Backend) -> None:
    whole = (await complete(backend, FINE, SHORT)).text
    stop = whole[len(whole) // 2 :][:2]
    try:
        text = (await complete(backend, FINE, Sampling(max_tokens=12, stop=(stop,)))).text if stop else ""
    except UnsupportedByBackend:
        return
    kept = not stop or stop not in text
    hold(kept, f"an answer ends before a stop string, but {text!r:.80} holds {stop!r}; or raise UnsupportedByBackend")
    hold(whole.startswith(text), f"a stop string only cuts the answer {whole!r:.80}, which became {text!r:.80}")


async def tokens_are_reported_only_on_request(backend: Backend) -> None:
    tokens = (await complete(backend, HELLO, SHORT)).tokens
    hold(tokens == (), f"without top_logprobs a Delta has no tokens, not {tokens!r:.200}")


async def tokens_are_reported_on_request_or_refused(backend: Backend) -> None:
    try:
        answer = await complete(backend, HELLO, Sampling(max_tokens=12, top_logprobs=1))
    except UnsupportedByBackend:
        return
    hold(
        bool(answer.tokens) or not answer.text,
        "with top_logprobs set an answer has its tokens; or raise UnsupportedByBackend",
    )
    for token in answer.tokens:
        hold(token.logprob <= 0, f"log-probabilities are natural logarithms, at most 0: {token!r:.200}")


async def forbidden_text_is_not_begun_or_refused(backend: Backend) -> None:
    text = (await complete(backend, HELLO, SHORT)).text
    forbidden = next((character for character in text if character.isascii() and character.isalnum()), "a")
    try:
        answer = await complete(backend, HELLO, Sampling(max_tokens=12, forbid=(forbidden,)))
    except UnsupportedByBackend as error:
        hold(backend.name in str(error), f"UnsupportedByBackend names the backend {backend.name!r}: {error}")
        return
    hold(
        forbidden not in answer.text,
        f"forbid={forbidden!r} is not written, but {answer.text!r:.80} holds it; or raise UnsupportedByBackend",
    )


async def fields_that_it_lacks_are_refused_before_anything_is_written(backend: Backend) -> None:
    asks = Sampling(max_tokens=12, extra={"tools": [{"type": "function"}], "logit_bias": {"1": 2}})
    names = lacking(backend, HELLO, asks)
    pieces: list[Delta] = []
    try:
        async for piece in backend.stream(HELLO, asks):
            pieces.append(piece)
    except UnsupportedByBackend as error:
        hold(not pieces, f"UnsupportedByBackend comes before the first Delta, not after {len(pieces)}: {error}")
        return
    except SelfRouteError:
        hold(not names, f"what `lacks` names is refused with UnsupportedByBackend: {', '.join(names)}")
        return
    hold(
        not names,
        f"by `lacks` it cannot do {', '.join(names)}: refuse them, e.g. by "
        "selfroute.backends.base.refuse_fields(self, messages, sampling), or let `lacks` say what it can do",
    )


async def streams_at_once_do_not_mix(backend: Backend) -> None:
    alone = [_said(await complete(backend, messages, SHORT)) for messages in (HELLO, FINE)]
    together = await asyncio.gather(*(complete(backend, messages, SHORT) for messages in (HELLO, FINE) * 3))
    for expected, answer in zip(alone * 3, together, strict=True):
        hold(
            _said(answer) == expected,
            f"six streams at once give what each gives alone: {expected}, not {answer!r:.200}",
        )


async def streams_read_in_turns_do_not_mix(backend: Backend) -> None:
    alone = [(await complete(backend, messages, SHORT)).text for messages in (HELLO, FINE)]
    folds = Fold(), Fold()
    async with closing(backend.stream(HELLO, SHORT)) as first, closing(backend.stream(FINE, SHORT)) as second:
        for _ in range(_TURNS):
            for fold, stream in zip(folds, (first, second), strict=True):
                if (piece := await anext(stream, None)) is not None:
                    fold.add(piece)
    texts = [fold.text for fold in folds]
    hold(texts == alone, f"two streams read in turns give what each gives alone: {alone}, not {texts}")


async def a_reader_that_pauses_holds_up_nobody(backend: Backend) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S), closing(backend.stream(HELLO, SHORT)) as paused:
            first = await anext(paused)
            other = await complete(backend, HELLO, SHORT)
            text = first.text + "".join([piece.text async for piece in paused])
    except TimeoutError:
        raise AssertionError("a stream does not wait for the reader of another one") from None
    hold(text == other.text, f"a reader that pauses misses nothing: {other.text!r:.80}, not {text!r:.80}")


async def many_prompts_keep_their_order(backend: Backend) -> None:
    """Also those of a `BatchBackend`, which answers them in one batch."""
    alone = [_said(await complete(backend, messages, SHORT)) for messages in CONVERSATIONS]
    answers = await complete_all(backend, CONVERSATIONS, SHORT)
    for expected, answer in zip_longest(alone, answers):
        hold(
            isinstance(answer, Completion) and _said(answer) == expected,
            f"several prompts get the answers that each gets alone, in order: {expected}, not {answer!r:.200}",
        )


async def leaving_early_is_prompt_and_harmless(backend: Backend) -> None:
    whole = await complete(backend, HELLO, SHORT)
    async with closing(backend.stream(HELLO, SHORT)) as pieces:
        await anext(pieces)
        began = time.perf_counter()
    took_s = time.perf_counter() - began
    hold(took_s < PROMPTLY_S, f"a stream is closed within {PROMPTLY_S:g} s when its reader leaves, not {took_s:.1f} s")
    again = await complete(backend, HELLO, SHORT)
    hold(_said(again) == _said(whole), f"after a reader has left, the next answer is as before: {whole!r:.200}")


async def cancelling_is_prompt_and_harmless(backend: Backend) -> None:
    waiting = asyncio.create_task(complete(backend, FINE, SHORT))
    await asyncio.sleep(0)  # it has begun
    began = time.perf_counter()
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    took_s = time.perf_counter() - began
    hold(took_s < PROMPTLY_S, f"a cancelled request ends within {PROMPTLY_S:g} s, not {took_s:.1f} s")
    hold((await complete(backend, FINE, SHORT)).text != "", "after a cancelled request the next one is answered")


async def closing_twice_does_nothing(backend: Backend) -> None:
    await complete(backend, HELLO, SHORT)
    for _ in range(2):
        try:
            await backend.aclose()
        except Exception as error:
            raise AssertionError(f"`aclose` can be called twice, and does not raise {error!r}") from error


async def _pieces(backend: Backend, messages: Sequence[Message]) -> list[Delta]:
    pieces = [piece async for piece in backend.stream(messages, SHORT)]
    hold(bool(pieces), "a stream has at least one Delta, the last one with finish_reason and usage")
    return pieces


def _said(answer: Completion) -> tuple[str, str, Usage]:
    """What must be equal between two equal requests; the seconds, and what lay in a cache, need not."""
    return answer.text, answer.finish_reason, replace(answer.usage, cached_tokens=0)


BACKEND_CASES: Mapping[str, BackendCase] = {
    case.__name__: case
    for case in (
        it_has_a_name_and_an_identity,
        only_the_last_piece_carries_the_end,
        usage_counts_what_was_written,
        equal_requests_get_equal_answers,
        an_empty_conversation_is_answered_or_refused,
        max_tokens_is_kept,
        stop_strings_end_the_answer,
        tokens_are_reported_only_on_request,
        tokens_are_reported_on_request_or_refused,
        forbidden_text_is_not_begun_or_refused,
        fields_that_it_lacks_are_refused_before_anything_is_written,
        streams_at_once_do_not_mix,
        streams_read_in_turns_do_not_mix,
        a_reader_that_pauses_holds_up_nobody,
        many_prompts_keep_their_order,
        leaving_early_is_prompt_and_harmless,
        cancelling_is_prompt_and_harmless,
        closing_twice_does_nothing,
    )
}
