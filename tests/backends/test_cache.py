"""The cache asks once, keeps whole answers only, and is safe to share."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.base import Backend, BatchBackend, complete, complete_all, find_capability
from selfroute.backends.cache import AnswerCache, CacheStats, answer_key, cached
from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.types import Completion, Message, Sampling, Token, Usage

ASK = [Message("user", "question")]


@pytest.fixture
def cache(tmp_path):
    with_folder = AnswerCache(tmp_path / "deep" / "answers.db")
    yield with_folder
    with_folder.close()


def counting(answer="an answer of five words", calls=None):
    calls = [] if calls is None else calls

    async def fn(messages, sampling):
        calls.append(messages)
        await asyncio.sleep(0.01)
        return answer

    backend = FunctionBackend("cloud", fn)
    backend.calls = calls
    return backend


async def test_a_hit_gives_the_same_answer_without_a_call(cache):
    made = Completion("hello", Usage(3, 1), "length", (Token("hello", -0.25, {"hello": -0.25}),), 1.5)
    inner = counting(made)
    backend = cached(inner, cache)
    assert [await complete(backend, ASK, Sampling()) for _ in range(3)] == [made] * 3
    assert len(inner.calls) == 1
    assert cache.stats == CacheStats(hits=2, misses=1)


async def test_a_hit_keeps_the_seconds_of_the_real_call(cache):
    backend = cached(counting(), cache)
    first = await complete(backend, ASK, Sampling())
    second = await complete(backend, ASK, Sampling())
    assert first.seconds >= 0.01 and second.seconds >= 0.01


async def test_a_miss_streams_as_it_is_written(cache):
    going_on = asyncio.Event()

    class Slow(Backend):
        name = "cloud"

        async def stream(self, messages, sampling):
            yield (await anext(FunctionBackend("x", lambda *_: "first").stream([], sampling)))
            await going_on.wait()
            async for delta in FunctionBackend("x", lambda *_: " second").stream([], sampling):
                yield delta

    async with aclosing(cached(Slow(), cache).stream(ASK, Sampling())) as deltas:
        assert (await anext(deltas)).sent
        assert (await anext(deltas)).text == "first"  # long before the answer ends
        going_on.set()
        assert "".join([delta.text async for delta in deltas]) == " second"


async def test_answers_outlive_the_process_that_asked(tmp_path):
    first = AnswerCache(tmp_path / "answers.db")
    await complete(cached(counting("kept"), first), ASK, Sampling())
    first.close()
    later = AnswerCache(tmp_path / "answers.db")
    inner = counting("new")
    assert (await complete(cached(inner, later), ASK, Sampling())).text == "kept"
    assert not inner.calls
    later.close()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"max_tokens": 7},
        {"seed": 1},
        {"stop": ("x",)},
        {"top_logprobs": 0},
        {"forbid": ("x",)},
    ],
)
def test_every_sampling_option_changes_the_key(change):
    assert answer_key("m", ASK, Sampling()) != answer_key("m", ASK, replace(Sampling(), **change))


def test_model_roles_and_message_borders_change_the_key():
    conversations = [
        [],
        [Message("user", "ab")],
        [Message("system", "ab")],
        [Message("user", "a"), Message("user", "b")],
        [Message("user", "b"), Message("user", "a")],
    ]
    keys = {answer_key(model, messages, Sampling()) for model in ("m", "n") for messages in conversations}
    assert len(keys) == 10


def test_equal_options_have_equal_keys():
    assert answer_key("m", ASK, Sampling(temperature=0)) == answer_key("m", tuple(ASK), Sampling(temperature=0.0))


async def test_two_models_of_one_name_do_not_mix(cache):
    old = cached(counting("old"), cache, identity="https://a/v1 model-1")
    new = cached(counting("new"), cache, identity="https://a/v1 model-2")
    assert [(await complete(backend, ASK, Sampling())).text for backend in (old, new, old)] == ["old", "new", "old"]


async def test_failures_are_not_stored(cache):
    answers = [BackendUnavailable("cloud: it is down", backend="cloud"), "better"]

    def fn(messages, sampling):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    backend = cached(FunctionBackend("cloud", fn), cache)
    with pytest.raises(BackendUnavailable):
        await complete(backend, ASK, Sampling())
    assert len(cache) == 0
    assert (await complete(backend, ASK, Sampling())).text == "better"


class Endless(Backend):
    """Never finishes; knows whether it was closed."""

    name = "cloud"

    def __init__(self, fail=False):
        self.closed, self.started, self.fail = False, 0, fail

    async def stream(self, messages, sampling):
        self.started += 1
        try:
            async for delta in FunctionBackend("x", lambda *_: "some text that goes on").stream([], sampling):
                if delta.finish_reason is None:
                    yield delta
            if self.fail:
                raise BackendUnavailable("cloud: cut", backend="cloud")
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_a_cut_stream_is_not_stored(cache):
    with pytest.raises(BackendUnavailable, match="cut"):
        await complete(cached(Endless(fail=True), cache), ASK, Sampling())
    assert len(cache) == 0


async def test_an_abandoned_answer_is_not_stored_and_the_backend_let_go(cache):
    inner = Endless()
    async with aclosing(cached(inner, cache).stream(ASK, Sampling())) as deltas:
        assert (await anext(deltas)).sent
        await anext(deltas)
    assert inner.closed
    assert len(cache) == 0


async def test_a_cancelled_request_lets_the_backend_go(cache):
    inner = Endless()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await complete(cached(inner, cache), ASK, Sampling())
    assert inner.closed and inner.started == 1
    assert len(cache) == 0


async def test_identical_requests_at_once_make_one_call(cache):
    inner = counting()
    answers = await complete_all(cached(inner, cache), [ASK] * 20, Sampling())
    assert {answer.text for answer in answers} == {"an answer of five words"}
    assert len(inner.calls) == 1
    assert cache.stats == CacheStats(hits=19, misses=1)


async def test_identical_requests_share_a_failure(cache):
    calls = []

    async def fail(messages, sampling):
        calls.append(messages)
        await asyncio.sleep(0.01)
        raise BackendUnavailable("cloud: it is down", backend="cloud")

    answers = await complete_all(cached(FunctionBackend("cloud", fail), cache), [ASK] * 5, Sampling())
    assert all(isinstance(answer, BackendUnavailable) for answer in answers)
    assert len(calls) == 1


async def test_one_reader_leaving_does_not_disturb_the_other(cache):
    inner = counting()
    backend = cached(inner, cache)
    leaver = asyncio.create_task(complete(backend, ASK, Sampling()))
    stayer = asyncio.create_task(complete(backend, ASK, Sampling()))
    await asyncio.sleep(0.005)
    leaver.cancel()
    assert (await stayer).text == "an answer of five words"
    assert leaver.cancelled() and len(inner.calls) == 1


async def test_a_slow_reader_does_not_hold_up_another(cache):
    backend = cached(counting(), cache)
    async with aclosing(backend.stream(ASK, Sampling())) as slow:
        first = await anext(slow)
        async with asyncio.timeout(2):
            assert (await complete(backend, ASK, Sampling())).text == "an answer of five words"
        rest = "".join([delta.text async for delta in slow])
    assert first.text + rest == "an answer of five words"


def test_a_backend_serves_one_event_loop_after_another(cache):
    inner = counting()
    backend = cached(inner, cache)
    for _ in range(3):
        assert asyncio.run(complete(backend, ASK, Sampling())).text == "an answer of five words"
    assert len(inner.calls) == 1


class Batches(FunctionBackend):
    def __init__(self):
        super().__init__("device", lambda messages, sampling: messages[-1].content)
        self.batches = []

    def generate_batch(self, prompts, sampling):
        texts = [messages[-1].content for messages in prompts]
        self.batches.append(texts)
        return [Completion(text, Usage(1, 1), seconds=0.5) for text in texts]


async def test_only_misses_make_up_a_batch(cache):
    inner = Batches()
    backend = cached(inner, cache)
    prompts = {text: [Message("user", text)] for text in "abcd"}
    await complete(backend, prompts["b"], Sampling())
    answers = await complete_all(backend, [prompts[text] for text in "abcca"], Sampling())
    assert [answer.text for answer in answers] == ["a", "b", "c", "c", "a"]
    assert inner.batches == [["a", "c"]]
    assert await complete_all(backend, [prompts["a"]], Sampling()) == [Completion("a", Usage(1, 1), seconds=0.5)]
    assert inner.batches == [["a", "c"]]


def test_batches_are_claimed_only_where_they_exist(cache):
    batching, plain = cached(Batches(), cache), cached(counting(), cache)
    assert find_capability(batching, BatchBackend) is batching
    assert find_capability(plain, BatchBackend) is None
    with pytest.raises(UnsupportedByBackend, match="cloud has no BatchBackend"):
        plain.generate_batch([ASK], Sampling())


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt .*not a database"):
        AnswerCache(tmp_path / "notes.txt")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another path"):
        AnswerCache(tmp_path / "file" / "answers.db")
    with pytest.raises(ConfigError, match="choose another path"):
        AnswerCache(tmp_path)


async def test_an_answer_that_cannot_be_kept_is_an_error(cache):
    cache.close()
    with pytest.raises(ConfigError, match="closed"):
        await complete(cached(counting(), cache), ASK, Sampling())


def test_a_broken_answer_in_the_file_is_named(cache):
    cache.put("key", Completion("fine"))
    with sqlite3.connect(cache.path) as other:
        other.execute("UPDATE answers SET answer = '{\"text\": 1}'")
    other.close()
    with pytest.raises(ConfigError, match="broken answer"):
        cache.get("key")


def test_the_first_answer_under_a_key_stays(cache):
    cache.put("key", Completion("first"))
    cache.put("key", Completion("second"))
    assert cache.get("key") == Completion("first")


@given(text=st.text(st.characters()))
def test_any_text_is_kept(tmp_path_factory, text):
    cache = AnswerCache(tmp_path_factory.getbasetemp() / "any.db")
    key = answer_key("m", [Message("user", text)], Sampling())
    cache.put(key, Completion(text, tokens=(Token(text, -1.0, {text: -1.0}),)))
    assert cache.get(key) == Completion(text, tokens=(Token(text, -1.0, {text: -1.0}),))
    cache.close()


def test_threads_share_one_cache(cache):
    def work(number):
        cache.put(f"key-{number % 50}", Completion(str(number % 50)))
        return cache.get(f"key-{number % 50}").text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == [str(number % 50) for number in range(200)]
    assert len(cache) == 50


WRITER = """
import sys
from selfroute.backends.cache import AnswerCache
from selfroute.types import Completion

path, start = sys.argv[1], int(sys.argv[2])
sys.stdin.readline()  # all open the file at once: that is where SQLite says "locked" without waiting
cache = AnswerCache(path)
for number in range(start, start + 40):
    cache.put(str(number), Completion(str(number)))
    assert cache.get(str(number)) == Completion(str(number))
"""

FORK = """
import os, sys
from selfroute.backends.cache import AnswerCache
from selfroute.types import Completion

cache = AnswerCache(sys.argv[1])
cache.put("before", Completion("before"))
inherited = cache._connection
child = os.fork()
if child == 0:
    cache.put("child", cache.get("before"))
    os._exit(cache._connection is inherited)
assert os.waitpid(child, 0)[1] == 0
assert cache.get("child") == Completion("before")
cache.put("after", Completion("after"))
"""


def run_python(script, *arguments):
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def test_processes_share_one_file(tmp_path):
    writers = [run_python(WRITER, tmp_path / "answers.db", 20 * number) for number in range(3)]
    time.sleep(0.2)
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    cache = AnswerCache(tmp_path / "answers.db")
    assert len(cache) == 80
    cache.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_gets_its_own_connection(tmp_path):
    with run_python(FORK, tmp_path / "answers.db") as process:
        process.communicate()
    assert process.returncode == 0
    cache = AnswerCache(tmp_path / "answers.db")
    assert len(cache) == 3
    cache.close()
