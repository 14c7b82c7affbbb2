"""Open answers on llama.cpp: one token after another is all in one go, also after forgetting some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from selfroute.backends.base import capability, complete
from selfroute.backends.sessions import Judge, Look, Sessions, Written
from selfroute.errors import BackendError, UnsupportedByBackend
from selfroute.prompts import PromptTemplate
from selfroute.scores.tokens import MaxProbability
from selfroute.strategies.base import Sides, answer, check_sides
from selfroute.strategies.inside.speculative import Speculative
from selfroute.strategies.inside.token_level import TokenLevel
from selfroute.types import Message, Sampling

ASK = [Message("user", "What is 2+2?")]
SAMPLING = Sampling(max_tokens=10)


async def test_alternating_is_writing_in_one_go(smollm2: Any) -> None:
    sessions = capability(smollm2, Sessions)
    whole = [token.token_id for token in await sessions.session(ASK, SAMPLING).write(6)]
    session = sessions.session(ASK, SAMPLING)
    for _ in range(3):
        await session.write(1)
    await session.drop(2)
    await session.read(whole[1:3])
    read = session.used.prompt_tokens
    rest = await session.write(3)
    assert [*session.ids] == whole
    assert session.used.prompt_tokens - read <= 3 and len(rest) == 3
    await session.close()
    with pytest.raises(BackendError, match="closed"):
        await session.write(1)


async def test_a_judge_cuts_what_was_written(smollm2: Any) -> None:
    sessions = capability(smollm2, Sessions)
    session = sessions.session(ASK, SAMPLING, look=Look(top=2))

    def score(written: Sequence[Written]) -> list[float]:
        assert all(token.view is not None and len(token.view.top) == 2 for token in written)
        return [1.0, 1.0, *[0.0] * (len(written) - 2)]

    written = await session.write(8, judge=Judge(score, 0.5))
    assert [token.kept for token in written] == [True, True, False]
    assert len(session.ids) == 2


async def test_a_mark_ends_what_is_written(smollm2: Any) -> None:
    sessions = capability(smollm2, Sessions)
    whole = [token.token_id for token in await sessions.session(ASK, SAMPLING).write(6)]
    speller = sessions.speller()
    speller.extend(whole[:4])
    text, _ = speller.take(last=True)
    session = sessions.session(ASK, SAMPLING)
    written = [token.token_id for token in await session.write(10, until=[text])]
    assert written == whole[:4] == [*session.ids]
    assert [token.token_id for token in await session.write(2)] == whole[4:6]


async def test_given_tokens_are_scored_whatever_their_rank(smollm2: Any) -> None:
    sessions = capability(smollm2, Sessions)
    writing = sessions.session(ASK, SAMPLING, look=Look(top=2))
    written = await writing.write(3)
    session, ids = sessions.session(ASK, SAMPLING, look=Look(top=2)), [token.token_id for token in written]
    views = await session.read([*ids[:2], 1234], every=True)
    assert [view.drawn for view in views[:3]] == ids
    for view, token in zip(views[:2], written, strict=False):
        assert view.given == pytest.approx(token.logprob, abs=1e-3) and token.view is not None
        assert [*view.top] == [*token.view.top]
    assert views[2].given is not None and views[2].given < min(views[2].top.values())
    assert views[3].given is None and session.used.completion_tokens == 0
    after = await session.write(1)
    assert [token.token_id for token in after] == [views[3].drawn]


async def test_the_cloud_s_own_answer_from_drafts(smollm2: Any) -> None:
    plain = PromptTemplate("", "Be brief.", "{question}")
    sides = Sides(device=smollm2, cloud=smollm2, template=plain)
    check_sides(Speculative(), sides)
    trace = await answer(Speculative(), sides, ASK, SAMPLING)
    assert (trace.error, trace.text) == (None, (await complete(smollm2, ASK, SAMPLING)).text)


@pytest.mark.parametrize("threshold", [0.0, 1.01])
async def test_both_ends_are_the_model_alone(smollm2: Any, threshold: float) -> None:
    plain = PromptTemplate("", "", "{question}")
    sides = Sides(device=smollm2, cloud=smollm2, template=plain)
    strategy = TokenLevel(scorer=MaxProbability(), threshold=threshold, tokens=4)
    check_sides(strategy, sides)
    trace = await answer(strategy, sides, ASK, SAMPLING)
    assert trace.error is None
    prompt = plain.device_messages(ASK, offer_handoff=False) if threshold == 0 else ASK
    assert trace.text == (await complete(smollm2, prompt, SAMPLING)).text


async def test_what_it_cannot_do_is_told(smollm2: Any) -> None:
    sessions = capability(smollm2, Sessions)
    with pytest.raises(UnsupportedByBackend, match="no hidden"):
        sessions.session(ASK, SAMPLING, look=Look(hidden=True))
    warm = sessions.session(ASK, Sampling(temperature=1.0, seed=1))
    with pytest.raises(UnsupportedByBackend, match="as a greedy model alone"):
        await warm.read([1], every=True)
    with pytest.raises(BackendError, match="outside its vocabulary of 49152"):
        await sessions.session(ASK, SAMPLING).read([99999])
