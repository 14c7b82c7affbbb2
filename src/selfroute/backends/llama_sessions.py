"""Sessions over llama.cpp's own `/completion`, which takes and returns ids and keeps what a slot has read.

It gives the likeliest tokens, no hidden states and no entropy of the whole distribution. It scores no given tokens in
one pass (llama.cpp#27174), but one with each call: right, and no faster than writing. A judge is asked, and a mark
looked for, here, after a few tokens were written: those behind one that is turned down, or behind the mark, were
written for nothing, and the slot forgets them with the next call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from selfroute.backends.base import Asked
from selfroute.backends.flight import closing
from selfroute.backends.sessions import NO_LOOK, Judge, Look, Speller, View, Written, fingerprint
from selfroute.backends.torch.tokens import RowText, until_mark
from selfroute.errors import BackendError, BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.types import Message, Sampling, Usage

__all__ = ["LlamaSession", "LlamaSessions"]

# Tokens that are written before they are judged, or before the caller hears of them.
_STRETCH = 8
_PATIENCE_S = 60.0
# Added to the logit of a token that shall be drawn.
_FORCE = 1000.0


class LlamaSessions:
    """The `selfroute.backends.sessions.Sessions` of a llama.cpp server in this process.

    Args:
        server: asked for completions.
        address: of the server, without `/v1`.
        path: the GGUF file, which holds the vocabulary.
    """

    gives = frozenset({"ids", "every", "top", "judge", "keeps", "spell", "until"})

    def __init__(self, server: Asked, address: str, path: Path) -> None:
        self.name = server.name
        self._server, self._address, self._path = server, address, path

    @cached_property
    def vocabulary(self) -> str:
        """See `Sessions`.

        Raises:
            ConfigError: the file holds none.
        """
        return fingerprint(self._tokens)

    @cached_property
    def _tokens(self) -> list[str]:
        return vocabulary_of(self._path)

    @cached_property
    def end(self) -> int:
        """The token that ends an answer, which no text spells."""
        with build_opener(ProxyHandler({})).open(f"{self._address}/props", timeout=_PATIENCE_S) as response:
            text = json.load(response).get("eos_token") or ""
        ids = self.post("tokenize", {"content": text, "add_special": False, "parse_special": True}).get("tokens") or []
        return int(ids[0]) if len(ids) == 1 else -1

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> LlamaSession:
        """See `Sessions`."""
        if sampling.forbid:
            raise UnsupportedByBackend(f"{self.name}: llama.cpp cannot be forbidden to write {sampling.forbid}")
        if unknown := sorted(look.gives - self.gives):
            raise UnsupportedByBackend(f"{self.name}: its views have no {', '.join(unknown)}")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self.post("apply-template", {"messages": turns}).get("prompt", "")
        asked = {"content": text, "add_special": True, "parse_special": True}
        prompt = [int(i) for i in self.post("tokenize", asked).get("tokens") or []]
        seed = sampling.seed if luck is None else luck
        return LlamaSession(
            self._server,
            self,
            prompt,
            sampling,
            look=look,
            seed=seed,
            vocabulary=self.vocabulary,
            size=len(self._tokens),
        )

    def speller(self, stop: Sequence[str] = ()) -> Speller:
        """See `Sessions`."""
        decoder: Any = self
        return RowText(decoder, stop)

    def decode(self, token_ids: Sequence[int], **options: Any) -> str:
        """Text of ids, as a tokenizer of transformers gives it."""
        spelt = [i for i in token_ids if i != self.end]
        return str(self.post("detokenize", {"tokens": spelt}).get("content", "")) if spelt else ""

    def post(self, address: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the server on loopback for what takes it no time."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            request = Request(f"{self._address}/{address}", data=data, headers=headers)
            with build_opener(ProxyHandler({})).open(request, timeout=_PATIENCE_S) as response:
                answer = json.load(response)
        except (OSError, ValueError) as error:
            raise BackendUnavailable(f"{self.name}: /{address}: {error}", backend=self.name) from error
        return answer if isinstance(answer, dict) else {}


class LlamaSession:
    """See `selfroute.backends.sessions.Session`."""

    def __init__(
        self,
        server: Asked,
        decoder: Any,
        prompt: list[int],
        sampling: Sampling,
        *,
        look: Look,
        seed: int | None,
        vocabulary: str,
        size: int,
    ) -> None:
        self.vocabulary = vocabulary
        self._server, self._prompt, self._sampling, self._look = server, prompt, sampling, look
        self._decoder = decoder
        self._seed, self._size = seed, size
        self._ids: list[int] = []
        self._usage = Usage()
        self._closed = False

    @property
    def ids(self) -> Sequence[int]:
        """See `Session`."""
        return self._ids

    @property
    def used(self) -> Usage:
        """See `Session`."""
        return self._usage

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """See `Session`; views take a call for each token, and are those of a greedy model."""
        self._check()
        if every and self._sampling.temperature:
            name = self._server.name
            raise UnsupportedByBackend(f"{name}: llama.cpp scores tokens as a greedy model alone; temperature: 0")
        if wrong := [i for i in ids if not 0 <= i < self._size]:
            name = self._server.name
            raise BackendError(f"{name}: token {wrong[0]} is outside its vocabulary of {self._size}", backend=name)
        if not every:
            self._ids += ids
            return []
        views: list[View] = []
        for token_id in ids:
            views.append(await self._view(token_id))
            self._ids.append(token_id)
        return [*views, await self._view(None)]

    async def _view(self, given: int | None) -> View:
        """Of the next place, with the log-probability of the token that is given there."""
        # Forced to be drawn, it is reported with the model's own probability, however small.
        answer = await self._complete(1, **({} if given is None else {"logit_bias": [[given, _FORCE]]}))
        try:
            place = answer["completion_probabilities"][0]
            (drawn, logprob), *_ = top = [(int(e["id"]), float(e["logprob"])) for e in place["top_logprobs"]]
            own = None if given is None else float(place["logprob"])
            if given not in (None, int(place["id"])):
                raise ValueError(given)
            self._usage += Usage(int(answer["timings"]["prompt_n"]))
        except (LookupError, TypeError, ValueError):
            name = self._server.name
            raise BackendUnavailable(f"{name}: no probabilities came of a given token", backend=name) from None
        shown = dict(top) if self._look.top else {}
        return View(drawn, logprob, shown, given=own, ends=drawn == self._decoder.end)

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """See `Session`; it comes back after a few tokens where it is judged or in a hurry."""
        self._check()
        if any(until):
            return await self._write_to(until, limit, judge)
        hurried = judge is not None or within_s is not None
        written = await self._write(min(limit, _STRETCH) if hurried else limit)
        if judge is not None:
            written = _judged(judge, written)
        self._ids += [token.token_id for token in written if token.kept]
        return written

    async def _write_to(self, marks: Sequence[str], limit: int, judge: Judge | None) -> list[Written]:
        """Stretch by stretch, up to the token that completes a mark."""
        completes, found = until_mark(self._decoder, self._ids, marks), list[Written]()
        while len(found) < limit:
            some = await self._write(min(limit - len(found), _STRETCH))
            if judge is not None:
                some = _judged(judge, some)
            last = next((i for i, token in enumerate(some) if completes(token)), None)
            some = some if last is None else some[: last + 1]
            found += some
            self._ids += [token.token_id for token in some if token.kept]
            if last is not None or some[-1].ends or not some[-1].kept:
                break
        return found

    async def drop(self, count: int) -> None:
        """See `Session`."""
        if not 0 <= count <= len(self._ids):
            raise ValueError(f"cannot drop {count} tokens of an answer of {len(self._ids)}")
        del self._ids[len(self._ids) - count :]

    async def close(self) -> None:
        """See `Session`; the slot is free for others anyway."""
        self._closed = True

    async def _complete(self, limit: int, **more: Any) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": [*self._prompt, *self._ids],
            "n_predict": limit,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "samplers": ["top_p", "temperature"],
            "return_tokens": True,
            "cache_prompt": True,
            "n_probs": max(1, self._look.top),
            **more,
        }
        if self._seed is not None:
            body["seed"] = (self._seed + len(self._ids)) % 2**32
        answer: dict[str, Any] = {}
        async with closing(self._server.ask("../completion", body)) as objects:
            async for each in objects:
                answer = answer or each
        return answer

    async def _write(self, limit: int) -> list[Written]:
        answer = await self._complete(limit)
        try:
            places = answer["completion_probabilities"]
            written = [self._token(i, place) for i, place in zip(answer["tokens"], places, strict=True)]
            timings = answer["timings"]
            self._usage += Usage(int(timings["prompt_n"]), len(written))
        except (LookupError, TypeError, ValueError):
            written = []
        if not 0 < len(written) <= limit:
            name = self._server.name
            raise BackendUnavailable(f"{name}: {len(written)} tokens came, 1 to {limit} were asked for", backend=name)
        if answer.get("stop_type") == "eos":
            last = written[-1]
            written[-1] = Written(last.token_id, last.logprob, True, last.view)
        return written

    def _token(self, token_id: int, place: Mapping[str, Any]) -> Written:
        logprob = float(place["logprob"])
        view = None
        if self._look.top:
            top = {int(each["id"]): float(each["logprob"]) for each in place["top_logprobs"]}
            view = View(token_id, logprob, top)
        return Written(int(token_id), logprob, view=view)

    def _check(self) -> None:
        if self._closed:
            name = self._server.name
            raise BackendError(f"{name}: the session is closed; open a new one", backend=name)


# Bytes of a number of each type; texts and lists have a length of their own.
_NUMBERS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_TOKENS = b"tokenizer.ggml.tokens"


def vocabulary_of(path: Path) -> list[str]:
    """The tokens of a GGUF file, by id. The package gguf maps every text of the file for it, which takes half a minute.

    Raises:
        ConfigError: there are none.
    """
    with path.open("rb") as file:

        def number(size: int) -> int:
            return int.from_bytes(file.read(size), "little")

        def text() -> bytes:
            return file.read(number(8))

        def skip(kind: int) -> None:
            if kind == _TEXT:
                file.seek(number(8), 1)
            elif kind == _LIST:
                inner, count = number(4), number(8)
                for _ in range(count):
                    skip(inner)
            else:
                file.seek(_NUMBERS[kind], 1)

        file.seek(16)  # mark, version and number of tensors
        for _ in range(number(8)):
            key, kind = text(), number(4)
            if key == _TOKENS and kind == _LIST and number(4) == _TEXT:
                return [text().decode("utf-8", "surrogateescape") for _ in range(number(8))]
            skip(kind)
    raise ConfigError(f"'{path}' holds no vocabulary; use another file")


def _judged(judge: Judge, written: Sequence[Written]) -> list[Written]:
    """The tokens up to the first that is turned down."""
    found: list[Written] = []
    for token, score in zip(written, judge.score(written), strict=True):
        kept = score >= judge.least
        found.append(Written(token.token_id, token.logprob, token.ends, token.view, kept, float(score)))
        if not kept:
            break
    return found
