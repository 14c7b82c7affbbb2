"""A model that is kept to its training, whatever requests say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.strategies.inside.pair import model, sides

from selfroute.backends.as_trained import AsTrained
from selfroute.backends.base import BatchBackend, capability, complete, find_capability
from selfroute.backends.function import FunctionBackend
from selfroute.backends.sessions import Sessions
from selfroute.strategies.base import answer
from selfroute.strategies.inside.speculative import Speculative
from selfroute.types import Message, Sampling

CONVERSATION = [Message("system", "Be brief."), Message("user", "1"), Message("assistant", "one"), Message("user", "2")]


class Noting(FunctionBackend):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__("noting", self._note)
        self.asked: list[tuple[list[str], Sampling]] = []

    def _note(self, messages: Sequence[Message], sampling: Sampling) -> str:
        self.asked.append(([message.content for message in messages], sampling))
        return "2"


@pytest.mark.parametrize(
    ("given", "most", "extra"),
    [
        (Sampling(max_tokens=512), 64, {}),
        (Sampling(max_tokens=9), 9, {}),
        # What the gateway makes of a request that says neither: both left to the model's server.
        (Sampling(max_tokens=16384, extra={"max_tokens": None, "temperature": None, "user": "u"}), 64, {"user": "u"}),
        (Sampling(max_tokens=900, extra={"max_tokens": None, "max_completion_tokens": 900}), 64, {}),
        (Sampling(max_tokens=9, extra={"max_tokens": None, "max_completion_tokens": 9}), 9, {}),
    ],
)
async def test_its_answers_are_as_long_as_in_training(given: Sampling, most: int, extra: dict[str, str]) -> None:
    model = Noting()
    await complete(AsTrained(model, max_tokens=64, temperature=0.0), CONVERSATION, given)
    ((turns, sampling),) = model.asked
    assert (sampling.max_tokens, sampling.temperature, dict(sampling.extra)) == (most, 0.0, extra)
    assert turns == [message.content for message in CONVERSATION]


async def test_a_temperature_that_is_asked_for_is_kept() -> None:
    model = Noting()
    await complete(AsTrained(model, temperature=0.0), CONVERSATION, Sampling(temperature=0.7))
    assert model.asked[0][1].temperature == 0.7


async def test_it_sees_the_last_question_alone() -> None:
    model = Noting()
    await complete(AsTrained(model, last_turn=True), CONVERSATION, Sampling())
    assert model.asked[0][0] == ["Be brief.", "2"]


async def test_demonstrations_are_no_part_of_the_conversation_and_stay() -> None:
    model = Noting()
    shown = [Message("user", "1 + 1?"), Message("assistant", "2!")]
    await complete(
        AsTrained(model, last_turn=True, shown=shown), [CONVERSATION[0], *shown, *CONVERSATION[1:]], Sampling()
    )
    assert model.asked[0][0] == ["Be brief.", "1 + 1?", "2!", "2"]


async def test_a_batch_goes_the_same_way() -> None:
    model = Noting()
    kept = AsTrained(model, max_tokens=3, last_turn=True)
    batches = find_capability(kept, BatchBackend)
    if find_capability(model, BatchBackend) is None:
        assert batches is None
        return
    assert batches is kept
    batches.generate_batch([CONVERSATION], Sampling())
    ((turns, sampling),) = model.asked
    assert (turns, sampling.max_tokens) == (["Be brief.", "2"], 3)


CALLED = "1+<call>3</call>1=<call>x</call>2"


async def test_calls_that_nobody_follows_are_left_out() -> None:
    model = FunctionBackend("calling", lambda messages, sampling: CALLED)
    assert (await complete(AsTrained(model, calls=True), CONVERSATION, Sampling())).text == "1+1=x2"
    assert (await complete(AsTrained(model), CONVERSATION, Sampling())).text == CALLED


async def test_a_session_goes_the_same_way() -> None:
    plain = model("small", seed=1)
    sessions = capability(AsTrained(plain, temperature=0.0, last_turn=True), Sessions)
    open_request = Sampling(temperature=0.9, extra={"temperature": None})
    written = await sessions.session(CONVERSATION, open_request).write(8)
    expected = await plain.session([CONVERSATION[0], CONVERSATION[-1]], Sampling()).write(8)
    assert [token.token_id for token in written] == [token.token_id for token in expected]
    assert find_capability(AsTrained(Noting(), max_tokens=1), Sessions) is None


async def test_an_answer_of_two_is_no_longer_than_in_training() -> None:
    plain, cloud, question = model("small", seed=1), model("cloud", seed=2), [Message("user", "w4")]
    short = await answer(Speculative(), sides(plain, cloud), question, Sampling(max_tokens=6))
    kept = await answer(Speculative(), sides(AsTrained(plain, max_tokens=6), cloud), question, Sampling(max_tokens=40))
    assert (kept.text, kept.end.finish_reason) == (short.text, "length")
