"""A backend over a transformers model in this process.

Importing this module loads no torch; building a `TransformersBackend` does.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from selfroute.backends.base import Backend, refuse_fields
from selfroute.backends.layers import ExitRule, Whole
from selfroute.backends.sessions import NO_LOOK, Look, Written, fingerprint
from selfroute.backends.torch.loading import load_model, one_line
from selfroute.backends.torch.tokens import RowText, TokenTexts, decode, forbid_table, inner_ids
from selfroute.errors import BackendError, BackendUnavailable, ConfigError, ContextLengthExceeded, SelfRouteError
from selfroute.handoff import Channel
from selfroute.types import Completion, Delta, Message, Sampling, Usage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selfroute.backends.torch.critic import Critic, Guide
    from selfroute.backends.torch.engine import Engine
    from selfroute.backends.torch.exits import Exit, LayerSession
    from selfroute.backends.torch.layers import Cut
    from selfroute.backends.torch.lines import Line
    from selfroute.backends.torch.sampler import Sampled, Step
    from selfroute.backends.torch.sessions import TorchSession
    from selfroute.backends.torch.tails import Tails

__all__ = ["TransformersBackend"]

_NO_WINDOW = 1 << 20  # most positions of an answer of a model that states no window


@dataclass(eq=False)
class _Row:
    """One completion being written."""

    text: RowText
    prompt_tokens: int
    logprobs: list[float] = field(default_factory=list)
    top: list[dict[int, float]] = field(default_factory=list)


class TransformersBackend(Backend):
    """A causal language model of transformers, batched.

    Concurrent streams and sessions are written together by one worker thread, as they come. Use it as a context
    manager, or call `close`, to end the thread.

    Args:
        name: how errors and reports call it.
        model: on any device; put into eval mode while it writes.
        tokenizer: with a chat template.
        max_batch: most prompts at once.

    Raises:
        ConfigError: the tokenizer has no chat template, or `max_batch` is below 1.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_batch: int = 64
    ) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"{name}: its tokenizer has no chat template; use an instruction-tuned model or set chat_template"
            )
        if max_batch < 1:
            raise ConfigError(f"{name}: max_batch is {max_batch}; give at least 1")
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        text_config = model.config.get_text_config(decoder=True)
        self._vocabulary = int(text_config.vocab_size)
        self._window: int | None = getattr(text_config, "max_position_embeddings", None)
        self._eos = _end_tokens(model, tokenizer)
        self._texts = TokenTexts(tokenizer)
        self._forbid_table = lru_cache(maxsize=8)(self._make_forbid_table)
        self._model_lock = threading.Lock()
        self._starting = threading.Lock()
        self._engine: Engine | None = None
        self._tails: dict[int, Tails] = {}
        self._closed = False

    @classmethod
    def load(
        cls,
        path_or_repo: str | Path,
        *,
        name: str | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        max_batch: int = 64,
    ) -> Self:
        """Load a model folder, a repository of the Hugging Face hub, or a GGUF file, whose weights are unpacked.

        Args:
            name: defaults to `path_or_repo`.
            dtype: e.g. "bfloat16"; by default float32 on a CPU and the stored type elsewhere.
            device: by default the first accelerator, else the CPU.

        Raises:
            ConfigError: there is no such model, or it cannot be loaded.
        """
        model, tokenizer = load_model(path_or_repo, dtype=dtype, device=device)
        return cls(name or str(path_or_repo), model, tokenizer, max_batch=max_batch)

    @cached_property
    def identity(self) -> str:
        """Fingerprint of weights and chat template, so that a cache never mixes two models of one name.

        Reads the sum and a few values of each weight, not every byte.
        """
        digest = hashlib.sha256(str(self.tokenizer.chat_template).encode())
        for name, weight in self.model.state_dict().items():
            flat = weight.detach().flatten()
            values = [float(flat.float().sum()), *flat[:8].float().tolist()]
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}{values}".encode())
        return f"transformers/{digest.hexdigest()[:16]}"

    # --- streaming

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Write the answer piece by piece; see `Backend.stream`.

        Raises:
            BackendError: the prompt cannot be encoded, or the model failed.
            ConfigError: `sampling` is out of range.
            UnsupportedByBackend: the request asks for more than text.
        """
        refuse_fields(self, messages, sampling)
        if sampling.max_tokens < 1:
            raise ConfigError(f"max_tokens is {sampling.max_tokens}; give at least 1")
        from selfroute.backends.torch.engine import WriteJob

        engine, prompt = self._running(), self._encode(messages)
        line = self._line(prompt, sampling, Look(top=sampling.top_logprobs or 0), None)
        row = _Row(RowText(self.tokenizer, sampling.stop), len(prompt))
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Delta | SelfRouteError]()

        def on_token(token: Written) -> bool:
            _push(row, token.token_id, token.logprob, token.view.top if token.view else {})
            delta = self._delta(row, sampling)
            if delta.text or delta.tokens:
                engine.tell(loop, pieces.put_nowait, delta)
            return row.text.stopped

        def done(result: list[Written] | SelfRouteError) -> None:
            if isinstance(result, SelfRouteError):
                engine.tell(loop, pieces.put_nowait, result)
                return
            row.text.finish()
            reason = "stop" if result[-1].ends or row.text.stopped else "length"
            engine.tell(loop, pieces.put_nowait, self._delta(row, sampling, finish_reason=reason))
            engine.let_go(line)

        engine.submit(WriteJob(line, done, limit=self._room(prompt, sampling), on_token=on_token))
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, SelfRouteError):
                    raise piece
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            engine.let_go(line)

    # --- sessions

    @property
    def gives(self) -> frozenset[str]:
        """See `selfroute.backends.sessions.Sessions`."""
        return frozenset({"ids", "every", "top", "entropy", "hidden", "judge", "keeps", "spell", "until"})

    @cached_property
    def vocabulary(self) -> str:
        """See `selfroute.backends.sessions.Sessions`."""
        return fingerprint(self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer)))))

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> TorchSession:
        """Open an answer; see `selfroute.backends.sessions.Sessions`.

        Raises:
            BackendError: the prompt cannot be encoded.
            ConfigError: the model's cache cannot be rolled back.
            UnsupportedByBackend: the request asks for more than text.
        """
        from selfroute.backends.torch.sessions import TorchSession

        refuse_fields(self, messages, sampling)
        line = self._line(self._encode(messages), sampling, look, luck)
        return TorchSession(
            self._running(),
            line,
            self.tokenizer,
            vocabulary=self.vocabulary,
            size=self._vocabulary,
            window=self._window,
        )

    def speller(self, stop: Sequence[str] = ()) -> RowText:
        """See `selfroute.backends.sessions.Sessions`."""
        return RowText(self.tokenizer, stop)

    @property
    def end_id(self) -> int:
        """See `selfroute.backends.sessions.Encodes`."""
        end = self.tokenizer.eos_token_id
        return min(self._eos) if end is None else int(end)

    def ids_of(self, text: str) -> list[int]:
        """See `selfroute.backends.sessions.Encodes`."""
        return inner_ids(self.tokenizer, text)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where its answer begins.

        Raises:
            BackendError: it cannot be encoded.
        """
        return self._encode(messages)

    # --- layers

    @cached_property
    def cut(self) -> Cut:
        """The model as layers that run apart.

        Raises:
            ConfigError: it is not made of such.
        """
        from selfroute.backends.torch.layers import Cut

        return Cut(self.name, self.model)

    @cached_property
    def whole(self) -> Whole:
        """What an end that holds other layers of it must hold alike; reads every weight once."""
        from selfroute.backends.torch.layers import weights_of

        dtype = str(self.model.dtype).removeprefix("torch.")
        return Whole(weights_of(self.model), self.cut.layers, self.cut.width, dtype, self.vocabulary)

    def tail(self, first: int) -> Tails:
        """See `selfroute.backends.layers.Layered`; open answers are kept with the layers."""
        from selfroute.backends.torch.tails import Tails

        with self._starting:
            if first not in self._tails:
                self._tails[first] = Tails(
                    self.name,
                    self.cut,
                    self.whole,
                    first,
                    end_ids=self._eos,
                    window=self._window or _NO_WINDOW,
                    lock=self._model_lock,
                )
            return self._tails[first]

    def cuts(self) -> tuple[Whole, tuple[int, ...]]:
        """See `selfroute.backends.layers.Splitting`."""
        return self.whole, tuple(range(1, self.cut.layers + (self.whole.layers > self.cut.layers)))

    def splitting(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        place: int,
        send: Callable[[int, Any], object] | None,
    ) -> LayerSession:
        """See `selfroute.backends.layers.Splitting`."""
        from selfroute.backends.torch.exits import Exit

        cut: Any = self.cut
        leave = Exit(cut.base.norm, cut.head)
        places = dict.fromkeys((place, cut.layers), leave)
        never = ExitRule(thresholds=(2.0,) * len(places), last_stands=send is None)
        return self._layer_session(messages, sampling, never, send, list(places.items()))

    def _layer_session(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        rule: ExitRule,
        send: Callable[[int, Any], object] | None,
        exits: Sequence[tuple[int, Exit]],
    ) -> LayerSession:
        from selfroute.backends.torch.exits import LayerSession

        return LayerSession(
            self.name,
            self.cut,
            exits,
            self._line(self._encode(messages), sampling, NO_LOOK, None),
            rule,
            send,
            end_ids=self._eos,
            vocabulary=self.vocabulary,
            window=self._window,
            lock=self._model_lock,
        )

    def _running(self) -> Engine:
        """The worker of sessions and streams."""
        from selfroute.backends.torch.engine import Engine

        with self._starting:
            if self._closed:
                raise self._closed_error()
            if self._engine is None:
                self._engine = Engine(self.name, self.model, self._eos, max_rows=self.max_batch, lock=self._model_lock)
            return self._engine

    def _line(self, prompt: list[int], sampling: Sampling, look: Look, luck: int | None) -> Line:
        from selfroute.backends.torch.lines import Line, lucks

        seed = _own_seeds([prompt], [sampling.seed], alone=True)[0] if luck is None else luck
        table = self._forbid_table(sampling.forbid) if any(sampling.forbid) else None
        return Line(prompt, sampling, look, lucks(seed, self._room(prompt, sampling)), table)

    def _delta(self, row: _Row, sampling: Sampling, *, finish_reason: str | None = None) -> Delta:
        text, which = row.text.take(last=finish_reason is not None)
        if sampling.top_logprobs is None:
            tokens: tuple[Any, ...] = ()
        else:
            tokens = row.text.tokens(which, row.logprobs, row.top, self._texts)
        usage = None if finish_reason is None else Usage(row.prompt_tokens, len(row.text.token_ids))
        return Delta(text, tokens, finish_reason, usage)

    # --- batches

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        """Answer every prompt, in order; prompts of similar length are written together.

        Equal prompts draw different samples; with a seed, the same call gives the same ones.
        `seconds` is a batch's wall time divided by its prompts.

        Raises:
            BackendError: a prompt cannot be encoded, or the model failed.
        """
        return self._answers(prompts, sampling, None)

    def _answers(
        self, prompts: Sequence[Sequence[Message]], sampling: Sampling, guide: Callable[[], Guide] | None
    ) -> list[Completion]:
        encoded = [self._encode(messages) for messages in prompts]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        seeds = _own_seeds(encoded, [sampling.seed] * len(encoded))
        answers: dict[int, Completion] = {}
        for begin in range(0, len(order), self.max_batch):
            chunk = order[begin : begin + self.max_batch]
            chunk_prompts, chunk_seeds = [encoded[i] for i in chunk], [seeds[i] for i in chunk]
            try:
                answers.update(zip(chunk, self._answer_chunk(chunk_prompts, sampling, chunk_seeds, guide), strict=True))
            except Exception as error:
                raise self._as_backend_error(error) from error
        return [answers[i] for i in range(len(encoded))]

    @property
    def hidden_size(self) -> int:
        """Of the last hidden states."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @property
    def size(self) -> int:
        """Logits of each step; at least as many as the tokenizer has words."""
        return self._vocabulary

    def guide(self, critic: Critic, channel: Channel, allowed: float) -> Callable[[], Guide]:
        """See `selfroute.backends.guided.Guidable`."""
        from selfroute.backends.torch.critic import Guide

        return partial(Guide, critic.to(self.model.device), self._texts, channel, allowed=allowed)

    def generate_guided(
        self, prompts: Sequence[Sequence[Message]], sampling: Sampling, guide: Callable[[], Guide]
    ) -> list[Completion]:
        """Answer every prompt, in order, with tokens drawn as a guide says; see `generate_batch`.

        Raises:
            BackendError: a prompt cannot be encoded, or the model failed.
            UnsupportedByBackend: a request asks for more than text.
        """
        for messages in prompts:
            refuse_fields(self, messages, sampling)
        return self._answers(prompts, sampling, guide)

    def _answer_chunk(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int | None],
        guide: Callable[[], Guide] | None,
    ) -> list[Completion]:
        started = time.perf_counter()
        rows = [_Row(RowText(self.tokenizer, sampling.stop), len(prompt)) for prompt in prompts]
        # Text is needed while writing only where a stop string may cut it.
        on_step = (lambda step: _push_all(rows, step)) if any(sampling.stop) else None
        done = self._write(prompts, [sampling] * len(prompts), on_step=on_step, seeds=seeds, guide=guide)
        seconds = (time.perf_counter() - started) / len(prompts)
        return [self._completion(*each, sampling, seconds) for each in zip(rows, done, strict=True)]

    def _completion(self, row: _Row, sampled: Sampled, sampling: Sampling, seconds: float) -> Completion:
        usage = Usage(row.prompt_tokens, len(sampled.token_ids))
        if sampling.top_logprobs is None and not any(sampling.stop):
            text = decode(self.tokenizer, sampled.token_ids)
            return Completion(text, usage, sampled.finish_reason, (), seconds)
        for token_id in sampled.token_ids[len(row.text.token_ids) :]:
            row.text.push(token_id)
        row.text.finish()
        tokens: tuple[Any, ...] = ()
        if sampling.top_logprobs is not None:
            every = range(len(sampled.token_ids))
            tokens = row.text.tokens(every, sampled.logprobs, sampled.top, self._texts)
        return Completion(row.text.text, usage, sampled.finish_reason, tokens, seconds)

    # --- the model

    def _write(
        self,
        prompts: Sequence[list[int]],
        samplings: Sequence[Sampling],
        *,
        on_step: Callable[[Step], Collection[int]] | None,
        seeds: Sequence[int | None] | None = None,
        guide: Callable[[], Guide] | None = None,
    ) -> list[Sampled]:
        """One completion per prompt; all samplings are of one kind."""
        from selfroute.backends.torch.sampler import sample

        kind = samplings[0]
        pad = self.tokenizer.pad_token_id
        with self._model_lock:
            groups = sample(
                self.model,
                prompts,
                max_new_tokens=[
                    self._room(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)
                ],
                eos_token_ids=self._eos,
                pad_token_id=pad if isinstance(pad, int) else 0,
                temperature=kind.temperature,
                top_p=kind.top_p,
                seed=seeds or _own_seeds(prompts, [sampling.seed for sampling in samplings], alone=True),
                forbid=self._forbid_table(kind.forbid) if any(kind.forbid) else None,
                top_logprobs=kind.top_logprobs,
                on_step=on_step,
                guide=None if guide is None else guide(),
            )
        return [group[0] for group in groups]

    def _room(self, prompt: Sequence[int], sampling: Sampling) -> int:
        if self._window is None:
            return sampling.max_tokens
        return min(sampling.max_tokens, self._window - len(prompt))

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            token_ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception as error:
            raise BackendError(
                f"{self.name}: the chat template refuses the conversation: {one_line(error)}", backend=self.name
            ) from error
        if self._window is not None and len(token_ids) >= self._window:
            raise ContextLengthExceeded(
                f"{self.name}: the prompt has {len(token_ids)} tokens and the model's window {self._window}; "
                "shorten the conversation",
                backend=self.name,
            )
        return token_ids

    def _make_forbid_table(self, strings: tuple[str, ...]) -> torch.Tensor:
        known = len(self.tokenizer)
        texts = [self._texts[i] if i < known else "" for i in range(self._vocabulary)]
        return forbid_table(texts, [s for s in strings if s])

    def _as_backend_error(self, error: Exception) -> SelfRouteError:
        if isinstance(error, SelfRouteError):
            return error
        return BackendError(f"{self.name}: {type(error).__name__}: {one_line(error)}", backend=self.name)

    # --- closing

    def _closed_error(self) -> BackendUnavailable:
        return BackendUnavailable(
            f"{self.name}: the backend is closed; build a new one", backend=self.name, retryable=False
        )

    def close(self) -> None:
        """End the worker thread; answers under way fail."""
        with self._starting:
            self._closed, engine = True, self._engine
        if engine is not None:
            engine.close(self._closed_error())

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's, and those that the model's generation settings name."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset(i for i in [tokenizer.eos_token_id, *listed] if isinstance(i, int))


def _own_seeds(
    prompts: Sequence[Sequence[int]], seeds: Sequence[int | None], *, alone: bool = False
) -> list[int | None]:
    """A seed of its own for each prompt, whatever it is batched with.

    Equal prompts of one call get different seeds, unless they are requests of their own (`alone`).
    """
    seen: Counter[tuple[int, ...]] = Counter()
    own: list[int | None] = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        key = tuple(prompt)
        digest = hashlib.blake2b(repr((seed, seen[key], key)).encode(), digest_size=7).digest()
        own.append(None if seed is None else int.from_bytes(digest))
        seen[key] += 0 if alone else 1
    return own


def _push(row: _Row, token_id: int, logprob: float, top: Mapping[int, float] | None) -> None:
    row.text.push(token_id)
    row.logprobs.append(logprob)
    if top is not None:
        row.top.append(dict(top))


def _push_all(rows: Sequence[_Row], step: Step) -> list[int]:
    """Add one step to the rows; those that a stop string ended."""
    for at, index in enumerate(step.rows):
        top = None if step.top is None else step.top[at]
        _push(rows[index], step.token_ids[at], step.logprobs[at], top)
    return [index for index in step.rows if rows[index].text.stopped]
