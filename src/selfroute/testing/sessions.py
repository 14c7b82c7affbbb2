"""Whether a backend's sessions keep their contract."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress

from selfroute.backends.base import Backend, capability
from selfroute.backends.sessions import NO_LOOK, Judge, Look, Session, Sessions, Written
from selfroute.errors import BackendError, ConfigError, UnsupportedByBackend
from selfroute.testing.contract import hold
from selfroute.types import Message, Sampling

__all__ = ["GIVES", "SESSION_CASES", "alternate", "check_sessions"]

GIVES = frozenset({"ids", "every", "top", "entropy", "hidden", "judge", "keeps", "spell", "until"})
PROMPTLY_S = 1.0  # how long closing may take
NOT_A_TOKEN = 10**7
_ASK = (Message("user", "What is 2+2?"),)
_OTHER = (Message("user", "Name a colour."),)
_GREEDY = Sampling(max_tokens=24)
_MOST = 6

SessionCase = Callable[[Backend], Awaitable[None]]
Step = tuple[str, int]


async def check_sessions(make: Callable[[], Backend | Awaitable[Backend]], *, skip: Collection[str] = ()) -> None:
    """Check that a backend keeps the contract of `selfroute.backends.sessions.Sessions`, as far as its `gives` goes.

    It writes greedily, a few tokens at a time, some hundred times. A small model is good enough.

    Args:
        make: makes the backend, once for each case; it is closed with `aclose` after it. May be async.
        skip: names of `SESSION_CASES` that do not apply.

    Raises:
        AssertionError: the contract is broken; says which and how.
        ConfigError: there is no case of a name in `skip`.
    """
    if unknown := sorted(set(skip) - set(SESSION_CASES)):
        raise ConfigError(f"skip: there is no case '{unknown[0]}'; known: {', '.join(SESSION_CASES)}")
    for name in (name for name in SESSION_CASES if name not in skip):
        made = make()
        backend = await made if inspect.isawaitable(made) else made
        try:
            await SESSION_CASES[name](backend)
        finally:
            await backend.aclose()


def _sessions(backend: Backend) -> Sessions:
    return capability(backend, Sessions)


def _open(backend: Backend, *, look: Look = NO_LOOK, messages: Sequence[Message] = _ASK) -> Session:
    return _sessions(backend).session(messages, _GREEDY, look=look)


def _ids(written: Sequence[Written]) -> list[int]:
    return [token.token_id for token in written]


async def _whole(backend: Backend, count: int = _MOST, *, messages: Sequence[Message] = _ASK) -> list[int]:
    """What a session writes in one go."""
    session = _open(backend, messages=messages)
    try:
        written = await session.write(count)
        hold(0 < len(written) <= count, f"`write({count})` gives 1 to {count} tokens, not {len(written)}")
        hold(len(written) == count or written[-1].ends, f"`write({count})` gives fewer only where the answer ends")
        hold(list(session.ids) == _ids(written), "`ids` are the tokens that stand in the answer")
        return _ids(written)
    finally:
        await session.close()


# --- cases ---------------------------------------------------------------------------------------------------------


async def what_it_gives_is_known(backend: Backend) -> None:
    given = _sessions(backend).gives
    hold(given <= GIVES, f"`gives` names what is known ({', '.join(sorted(GIVES))}), not {', '.join(given - GIVES)}")
    hold("ids" not in given or _sessions(backend).vocabulary != "", "sessions in ids have the vocabulary's fingerprint")
    session = _open(backend)
    hold(list(session.ids) == [], "an answer that was just opened is empty")
    await session.close()


async def one_token_after_another_is_all_at_once(backend: Backend) -> None:
    whole, session = await _whole(backend), _open(backend)
    for _ in whole:
        await session.write(1)
    hold(list(session.ids) == whole, f"tokens written one by one are those written in one go, not {session.ids}")
    await session.close()


async def what_was_read_counts_as_written(backend: Backend) -> None:
    whole = await _whole(backend)
    session = _open(backend)
    hold(await session.read(whole[:2]) == [], "`read` without `every` gives no views")
    rest = await session.write(len(whole) - 2)
    hold(_ids(rest) == whole[2:], f"after tokens that it would have written it goes on the same, not {_ids(rest)}")
    await session.close()


async def what_is_dropped_is_forgotten(backend: Backend) -> None:
    whole, session = await _whole(backend), _open(backend)
    await session.write(len(whole))
    await session.drop(len(whole) - 1)
    await session.read(whole[1:2])
    await session.drop(0)
    rest = await session.write(len(whole) - 2)
    hold(list(session.ids) == whole, f"after forgetting it goes on as before, not with {_ids(rest)}")
    try:
        await session.drop(len(whole) + 1)
    except ValueError:
        pass
    else:
        raise AssertionError("dropping more tokens than there are is a ValueError")
    await session.close()


async def given_tokens_are_scored_or_refused(backend: Backend) -> None:
    """In one pass, with one view more than tokens."""
    whole, session = await _whole(backend), _open(backend, look=Look(top=1))
    if "every" not in _sessions(backend).gives:
        await _is_refused(session.read(whole, every=True), "`every`")
    else:
        views = await session.read(whole, every=True)
        hold(len(views) == len(whole) + 1, f"{len(whole)} tokens have {len(whole) + 1} views, not {len(views)}")
        drawn = [view.drawn for view in views[:-1]]
        hold(drawn == whole, f"a view's `drawn` is what it would write there: {whole}, not {drawn}")
        hold(views[-1].given is None, "the place after the last token has no token given")
        given = [view.given for view in views[:-1]]
        hold(all(p is not None and p <= 1e-6 for p in given), f"`given` are log-probabilities, not {given}")
        after = await session.write(1)
        hold(_ids(after) == [views[-1].drawn] or views[-1].ends, "the last view says what comes next")
    await session.close()


async def views_show_what_was_asked_or_are_refused(backend: Backend) -> None:
    for look in (Look(top=3), Look(entropy=True), Look(hidden=True)):
        if look.gives <= _sessions(backend).gives - {"every"} and "judge" in _sessions(backend).gives:
            await _shows(backend, look)
        elif not look.gives <= _sessions(backend).gives:
            try:
                _open(backend, look=look)
            except UnsupportedByBackend:
                continue
            raise AssertionError(f"{look} asks for what `gives` does not name, and is refused")


async def _shows(backend: Backend, look: Look) -> None:
    session = _open(backend, look=look)
    (token,) = await session.write(1)
    view = token.view
    hold(view is not None, f"a token that was written under {look} has a view")
    assert view is not None
    hold(view.drawn == token.token_id, "a view's `drawn` is the token that was written there")
    if look.top:
        top = list(view.top.values())
        hold(len(top) == look.top and top == sorted(top, reverse=True), f"`top` has {look.top}, likeliest first: {top}")
        hold(view.drawn in view.top, f"greedily the likeliest token is written: {view}")
    hold(not look.entropy or (view.entropy is not None and view.entropy >= 0), f"entropy is not {view.entropy}")
    hold(not look.hidden or view.hidden is not None, "the hidden state is there where it was asked for")
    await session.close()


async def a_judge_turns_tokens_down_or_is_refused(backend: Backend) -> None:
    session = _open(backend)
    judge = Judge(lambda written: [0.25] * len(written), 0.5)
    if "judge" not in _sessions(backend).gives:
        await _is_refused(session.write(3, judge=judge), "a judge")
    else:
        (token,) = await session.write(3, judge=judge)
        hold(not token.kept and token.score == 0.25, f"a token below `least` is turned down, with its score: {token}")
        hold(list(session.ids) == [], "a token that was turned down does not stand in the answer")
    await session.close()


async def an_id_outside_the_vocabulary_is_refused(backend: Backend) -> None:
    session = _open(backend)
    try:
        await session.read([NOT_A_TOKEN])
        await session.write(1)
    except BackendError:
        with suppress(BackendError):
            await session.close()
        return
    raise AssertionError(f"token {NOT_A_TOKEN} is a BackendError, at the latest with the next call")


async def what_is_used_is_counted(backend: Backend) -> None:
    session = _open(backend)
    await session.write(2)
    first = session.used
    hold(first.completion_tokens == 2 and first.prompt_tokens > 0, f"prompt and written tokens are counted: {first}")
    await session.read(list(session.ids)[:1])
    await session.write(1)
    used = session.used
    hold(used.completion_tokens == 3, f"three tokens were written, and {used.completion_tokens} are counted")
    read = used.prompt_tokens - first.prompt_tokens
    keeps = "keeps" in _sessions(backend).gives
    hold(not keeps or read <= 3, f"who keeps what it has read reads a few tokens with the next call, not {read}")
    await session.close()


async def sessions_at_once_do_not_mix(backend: Backend) -> None:
    asked = (_ASK, _OTHER, _ASK, _OTHER)
    alone = [await _whole(backend, messages=messages) for messages in asked]
    together = await asyncio.gather(*(_whole(backend, messages=messages) for messages in asked))
    hold(together == alone, f"answers under way at once are those of each alone: {alone}, not {together}")


async def closing_is_prompt_and_final(backend: Backend) -> None:
    session = _open(backend)
    writing = asyncio.create_task(session.write(20))
    await asyncio.sleep(0)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    began = time.perf_counter()
    await session.close()
    await session.close()
    took_s = time.perf_counter() - began
    hold(took_s < PROMPTLY_S, f"a session is closed within {PROMPTLY_S:g} s, not {took_s:.1f} s")
    try:
        await session.write(1)
    except BackendError:
        return
    raise AssertionError("a closed session writes nothing: a BackendError")


async def alternations_are_answers_written_anew(backend: Backend) -> None:
    for seed in range(3):
        rng = random.Random(seed)
        names = ("write", "write", "read", "drop", "score", "leave")
        await alternate(backend, [(rng.choice(names), rng.randint(1, 4)) for _ in range(8)])


async def alternate(backend: Backend, steps: Sequence[Step]) -> None:
    """Take steps in one session, and see after each that it goes on as an answer would that was opened anew.

    Args:
        steps: what and how many: "write", "read" (tokens of another answer), "score" (the same with `every`, where
            the backend can), "drop", "leave" (a call is cancelled, and the answer opened again).

    Raises:
        AssertionError: it does not.
    """
    foreign, ids = await _whole(backend, messages=_OTHER), list[int]()
    session = _open(backend)
    for name, count in steps:
        given = foreign[: min(count, len(foreign))]
        if name == "write":
            written = _ids(await session.write(count))
            expected = await _anew(backend, ids, count)
            hold(written == expected, f"after {ids} it writes {expected} if opened anew, and wrote {written}")
            ids += written
        elif name == "read" or (name == "score" and "every" not in _sessions(backend).gives):
            await session.read(given)
            ids += given
        elif name == "score":
            hold(len(await session.read(given, every=True)) == len(given) + 1, "one view more than tokens")
            ids += given
        elif name == "drop":
            count = min(count, len(ids))
            await session.drop(count)
            del ids[len(ids) - count :]
        else:
            session = await _left(backend, session, ids)
        hold(list(session.ids) == ids, f"after {name} {count} the answer is {ids}, and `ids` are {list(session.ids)}")
    await session.close()


async def _anew(backend: Backend, ids: Sequence[int], count: int) -> list[int]:
    session = _open(backend)
    await session.read(ids)
    written = _ids(await session.write(count))
    await session.close()
    return written


async def _left(backend: Backend, session: Session, ids: Sequence[int]) -> Session:
    """Cancel a call under way; another session with the same answer."""
    writing = asyncio.create_task(session.write(3))
    await asyncio.sleep(0)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    await session.close()
    again = _open(backend)
    await again.read(ids)
    return again


async def _is_refused(call: Awaitable[object], what: str) -> None:
    try:
        await call
    except UnsupportedByBackend:
        return
    raise AssertionError(f"{what} that `gives` does not name is refused with UnsupportedByBackend")


SESSION_CASES: Mapping[str, SessionCase] = {
    case.__name__: case
    for case in (
        what_it_gives_is_known,
        one_token_after_another_is_all_at_once,
        what_was_read_counts_as_written,
        what_is_dropped_is_forgotten,
        given_tokens_are_scored_or_refused,
        views_show_what_was_asked_or_are_refused,
        a_judge_turns_tokens_down_or_is_refused,
        an_id_outside_the_vocabulary_is_refused,
        what_is_used_is_counted,
        sessions_at_once_do_not_mix,
        closing_is_prompt_and_final,
        alternations_are_answers_written_anew,
    )
}
