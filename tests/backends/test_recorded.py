"""A recording gives back what was said, goes on where it was, and says which line is broken."""

import asyncio
import json
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.base import complete
from selfroute.backends.function import FunctionBackend
from selfroute.backends.recorded import RecordedBackend, completion_from_row, completion_to_row, record
from selfroute.errors import BackendUnavailable, ConfigError, RecordingMissing, UnsupportedByBackend
from selfroute.types import Completion, Message, Sampling, Token, Usage

numbers = st.floats(allow_nan=False, max_value=0)
any_text = st.text(st.characters())  # half surrogate pairs too: a model's bytes may decode to them
tokens = st.builds(Token, any_text, numbers, st.dictionaries(any_text, numbers, max_size=2))
completions = st.builds(
    Completion,
    any_text,
    st.builds(Usage, st.integers(0), st.integers(0)),
    st.sampled_from(["stop", "length"]),
    st.lists(tokens, max_size=3).map(tuple),
    st.floats(0, 1e6),
)
conversations = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), any_text), max_size=3
).map(tuple)


def items(*texts):
    return [(str(number), [Message("user", text)]) for number, text in enumerate(texts)]


def echo(calls=None):
    def answer(messages, sampling):
        if calls is not None:
            calls.append(messages[-1].content)
        return f"echo {messages[-1].content}"

    return FunctionBackend("cloud", answer)


async def drain(backend, what, path, **options):
    return [done async for done in record(backend, what, path, options.pop("sampling", Sampling()), **options)]


@given(completions)
def test_a_row_keeps_a_completion(completion):
    row = json.loads(json.dumps(completion_to_row(completion)))
    assert completion_from_row(row) == completion


@given(answers=st.dictionaries(conversations, completions, max_size=3))
def test_replay_of_a_recording_is_the_original(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("recording") / "answers.jsonl"
    source = FunctionBackend("cloud", lambda messages, sampling: answers[tuple(messages)])

    async def round_trip():
        sampling = Sampling(top_logprobs=2)
        asked = [(str(number), conversation) for number, conversation in enumerate(answers)]
        await drain(source, asked, path, sampling=sampling)
        replayed = RecordedBackend("cloud", path)
        for conversation, answer in answers.items():
            if answer.text and not answer.tokens:
                sampling = Sampling()
            again = await complete(replayed, conversation, sampling)
            expected = answer if sampling.top_logprobs else Completion(*_without_tokens(answer))
            assert (again.text, again.usage, again.finish_reason, again.tokens) == (
                expected.text,
                expected.usage,
                expected.finish_reason,
                expected.tokens,
            )
            assert answer.seconds in (0, again.seconds)

    asyncio.run(round_trip())


def _without_tokens(answer):
    return answer.text, answer.usage, answer.finish_reason, (), answer.seconds


async def test_hand_written_rows_need_a_prompt_and_a_text(tmp_path):
    path = tmp_path / "hand.jsonl"
    path.write_text(
        '\ufeff{"prompt": "1+1", "text": "two", "usd": 0.1}\n\n{"prompt": "1+1", "text": "2", "usage": null}\n'
    )
    answer = await complete(RecordedBackend("cloud", path), [Message("user", "1+1")], Sampling())
    assert (answer.text, answer.usage, answer.finish_reason) == ("2", Usage(), "stop")


async def test_a_missing_prompt_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "answers.jsonl"
    await drain(echo(), items("known"), path)
    question = "what is " + "x" * 100
    with pytest.raises(RecordingMissing) as caught:
        await complete(RecordedBackend("cloud", path), [Message("user", question)], Sampling())
    assert question[:60] in str(caught.value) and question[:61] not in str(caught.value)
    assert "selfroute record" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "q", "text": "a"', "delimiter"),
        ("[1]", "not a JSON object"),
        ('{"text": "a"}', "'prompt' is missing"),
        ('{"prompt": "q"}', "'text' is missing"),
        ('{"prompt": "q", "text": 3}', "'text' is 3"),
        ('{"messages": [{"role": "robot", "content": ""}], "text": "a"}', "role"),
        ('{"messages": ["q"], "text": "a"}', "role"),
        ('{"prompt": "q", "text": "a", "usage": {"prompt_tokens": true}}', "'prompt_tokens' is True"),
        ('{"prompt": "q", "text": "a", "tokens": [["a"]]}', "'tokens'"),
        ('{"prompt": "q", "text": "a", "seconds": NaN}', "'seconds' is nan"),
        ('{"prompt": "q", "text": "a", "usd": Infinity}', "'usd' is inf"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, reason):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"prompt": "q", "text": "a"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=reason) as caught:
        RecordedBackend("cloud", path)
    assert f"{path}:2" in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(b"\xff\xfa\n")
    with pytest.raises(ConfigError, match=r"broken\.jsonl:1"):
        RecordedBackend("cloud", path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="selfroute record"):
        RecordedBackend("cloud", tmp_path / "none.jsonl")


async def test_log_probabilities_are_replayed_only_when_asked_for(tmp_path):
    path = tmp_path / "answers.jsonl"
    spoken = Completion("hi", tokens=(Token("hi", -0.1),))
    await drain(FunctionBackend("device", lambda *_: spoken), items("q"), path)
    backend, asked = RecordedBackend("device", path), items("q")[0][1]
    assert (await complete(backend, asked, Sampling())).tokens == ()
    assert (await complete(backend, asked, Sampling(top_logprobs=0))).tokens == spoken.tokens


async def test_log_probabilities_that_are_not_there_are_not_made_up(tmp_path):
    path = tmp_path / "answers.jsonl"
    await drain(echo(), items("q"), path)
    with pytest.raises(UnsupportedByBackend, match="log-probabilities"):
        await complete(RecordedBackend("device", path), items("q")[0][1], Sampling(top_logprobs=1))


async def test_a_second_run_goes_on_where_the_first_was(tmp_path):
    path, calls = tmp_path / "deep" / "answers.jsonl", []
    await drain(echo(calls), items("a", "b"), path)
    done = await drain(echo(calls), items("a", "b", "c"), path)
    assert calls == ["a", "b", "c"]
    assert [row.id for row in done] == ["2"]
    assert len(RecordedBackend("cloud", path)) == 3


async def test_a_fresh_run_starts_the_file_anew(tmp_path):
    path = tmp_path / "answers.jsonl"
    await drain(echo(), items("a", "b"), path)
    await drain(echo(), items("c"), path, resume=False)
    assert len(RecordedBackend("cloud", path)) == 1


@pytest.mark.parametrize("cut", [1, 5, 30])
async def test_a_half_written_last_line_is_asked_again(tmp_path, cut):
    path, calls = tmp_path / "answers.jsonl", []
    await drain(echo(), items("a", "b"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    await drain(echo(calls), items("a", "b"), path)
    # Cutting the line end alone loses nothing.
    assert len(calls) == (0 if cut == 1 else 1)
    assert sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) == ["0", "1"]


async def test_finished_answers_survive_an_interrupted_run(tmp_path):
    path = tmp_path / "answers.jsonl"
    async with aclosing(record(echo(), items("a", "b", "c"), path, Sampling(), concurrency=1)) as run:
        await anext(run)
        assert len(RecordedBackend("cloud", path)) == 1  # before the run ends
    await drain(echo(), items("a", "b", "c"), path)
    assert len(RecordedBackend("cloud", path)) == 3


async def test_failures_are_reported_not_written_and_asked_again(tmp_path):
    path = tmp_path / "answers.jsonl"

    def fail_on_b(messages, sampling):
        if messages[-1].content == "b":
            raise BackendUnavailable("cloud: it is down", backend="cloud")
        return "fine"

    done = await drain(FunctionBackend("cloud", fail_on_b), items("a", "b", "c"), path)
    assert [isinstance(row.outcome, BackendUnavailable) for row in sorted(done, key=lambda row: row.id)] == [0, 1, 0]
    assert [row.id for row in await drain(echo(), items("a", "b", "c"), path)] == ["1"]


async def test_a_wrong_configuration_stops_the_run(tmp_path):
    def no_key(messages, sampling):
        raise ConfigError("export KEY=…")

    with pytest.raises(ConfigError, match="export KEY"):
        await drain(FunctionBackend("cloud", no_key), items("a", "b"), tmp_path / "answers.jsonl")


async def test_an_id_with_another_prompt_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    await drain(echo(), items("a"), path)
    with pytest.raises(ConfigError, match="another prompt under the id '0'"):
        await drain(echo(), items("changed"), path)


async def test_ids_must_be_unique_before_anything_is_overwritten(tmp_path):
    path = tmp_path / "answers.jsonl"
    await drain(echo(), items("a"), path)
    with pytest.raises(ConfigError, match="two items have the id '0'"):
        await drain(echo(), items("a") * 2, path, resume=False)
    assert len(RecordedBackend("cloud", path)) == 1


async def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        await drain(echo(), items("a"), tmp_path / "file" / "answers.jsonl")


async def test_no_more_requests_are_in_flight_than_allowed(tmp_path):
    now, most = 0, 0

    async def slow(messages, sampling):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return "done"

    done = await drain(FunctionBackend("cloud", slow), items(*"abcdefgh"), tmp_path / "a.jsonl", concurrency=3)
    assert (len(done), most) == (8, 3)


async def test_a_batch_backend_is_asked_in_batches(tmp_path):
    sizes = []

    class Batches(FunctionBackend):
        def generate_batch(self, prompts, sampling):
            sizes.append(len(prompts))
            return [Completion(messages[-1].content) for messages in prompts]

    await drain(Batches("device", lambda *_: "unused"), items(*"abcde"), tmp_path / "a.jsonl", concurrency=2)
    assert sizes == [2, 2, 1]
    replayed = RecordedBackend("device", tmp_path / "a.jsonl")
    assert (await complete(replayed, [Message("user", "e")], Sampling())).text == "e"


def test_an_id_that_occurs_twice_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [{"id": "a", "prompt": f"{n}?", "text": "x"} for n in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"answers\.jsonl:2: id 'a' stands at line 1 too; give each row an id"):
        RecordedBackend("device", path)


@pytest.mark.parametrize(
    ("other", "sampling", "message"),
    [
        ("another", Sampling(), r"a\.jsonl:1 was recorded with model 'cloud', not 'another'; record to a new file"),
        ("cloud", Sampling(max_tokens=7), r"a\.jsonl:1 was recorded with max_tokens 512, not 7; record to a new file"),
    ],
)
async def test_a_file_of_another_model_or_limit_is_refused(tmp_path, other, sampling, message):
    path = tmp_path / "a.jsonl"
    await drain(echo(), items("a"), path)
    before = path.read_bytes()
    asked = []
    with pytest.raises(ConfigError, match=message):
        await drain(
            FunctionBackend(other, lambda m, s: asked.append(m) or "x"), items("a", "b"), path, sampling=sampling
        )
    assert not asked and path.read_bytes() == before


async def test_a_file_that_does_not_say_is_added_to(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "0", "prompt": "a", "text": "by hand"}\n', encoding="utf-8")
    assert len(await drain(echo(), items("a", "b"), path)) == 1
