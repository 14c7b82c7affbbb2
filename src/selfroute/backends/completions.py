"""Sessions over an endpoint's `/v1/completions` that takes and returns token ids.

Two kinds of server have one. `selfroute cloud` keeps answers open: each call sends only the ids that are new to it, and
where they begin, so that forgetting costs nothing. vLLM keeps none: each call sends prompt and answer as ids, encoded
here with its tokenizer, and its prefix cache spares what it can.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from selfroute.backends.base import Asked
from selfroute.backends.files import opened
from selfroute.backends.flight import closing
from selfroute.backends.sessions import NO_LOOK, Judge, Look, Speller, View, Written, fingerprint
from selfroute.errors import BackendError, BackendStatusError, BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.types import Message, Sampling, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CompletionSessions", "Kept", "Server"]

Server = Literal["selfroute", "vllm"]
_GONE = 404


class CompletionSessions:
    """The `selfroute.backends.sessions.Sessions` of an endpoint.

    Args:
        server: the endpoint.
        kind: whose it is.
        tokenizer: folder or repository of the model's tokenizer; vLLM's prompts are encoded with it.
        about: asks a `selfroute cloud` what it is; None if it cannot be reached.

    Raises:
        ConfigError: vLLM without a tokenizer.
    """

    def __init__(
        self, server: Asked, kind: Server, tokenizer: str | None, about: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        if kind == "vllm" and tokenizer is None:
            raise ConfigError(f"{server.name}: sessions: vllm needs the model's tokenizer; add tokenizer: FOLDER")
        self.name = server.name
        self._server, self._kind, self._place, self._about = server, kind, tokenizer, about
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._known: Mapping[str, Any] | None = None

    @property
    def gives(self) -> frozenset[str]:
        """See `Sessions`."""
        return frozenset({"ids", "every", "top", "until"} | ({"keeps"} if self._kind == "selfroute" else set()))

    @property
    def vocabulary(self) -> str:
        """See `Sessions`; empty while the endpoint cannot be reached."""
        if self._kind == "vllm":
            tokenizer = self._load()
            return fingerprint(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
        self._known = self._known or self._about()
        return str((self._known or {}).get("vocabulary", ""))

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> Kept | _Resent:
        """See `Sessions`."""
        if sampling.forbid:
            raise UnsupportedByBackend(f"{self.name}: an endpoint cannot be forbidden to write {sampling.forbid}")
        if unknown := sorted(look.gives - self.gives):
            raise UnsupportedByBackend(f"{self.name}: its views have no {', '.join(unknown)}")
        if self._kind == "selfroute":
            return Kept(self._server, messages, sampling, look=look, luck=luck, vocabulary=self.vocabulary)
        tokenizer = self._load()
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        return _Resent(self._server, prompt, sampling, look=look, luck=luck, tokenizer=tokenizer, own=self.vocabulary)

    def speller(self, stop: Sequence[str] = ()) -> Speller:
        """See `Sessions`.

        Raises:
            UnsupportedByBackend: the endpoint keeps its tokenizer to itself.
        """
        if self._place is None:
            raise UnsupportedByBackend(f"{self.name}: it cannot spell ids; add tokenizer: FOLDER")
        from selfroute.backends.torch.tokens import RowText

        return RowText(self._load(), stop)

    def _load(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(opened(str(self._place)))
            except Exception as error:
                what = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ConfigError(f"{self.name}: tokenizer '{self._place}' cannot be loaded: {what}") from error
        assert self._tokenizer is not None
        return self._tokenizer


class _Asking:
    """What both kinds of session do: keep the answer's ids, ask, count, and trust nothing that comes."""

    def __init__(self, server: Asked, sampling: Sampling, *, look: Look, luck: int | None, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self._server, self._sampling, self._look, self._luck = server, sampling, look, luck
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

    async def drop(self, count: int) -> None:
        """See `Session`."""
        if not 0 <= count <= len(self._ids):
            raise ValueError(f"cannot drop {count} tokens of an answer of {len(self._ids)}")
        del self._ids[len(self._ids) - count :]

    def _check_open(self) -> None:
        if self._closed:
            name = self._server.name
            raise BackendError(f"{name}: the session is closed; open a new one", backend=name)

    async def _ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        body = {"model": self._server.model, "temperature": self._sampling.temperature, "stream": False, **body}
        if self._sampling.top_p != 1:
            body["top_p"] = self._sampling.top_p
        if (seed := self._sampling.seed if self._luck is None else self._luck) is not None:
            body["seed"] = seed
        answer: dict[str, Any] | None = None
        async with closing(self._server.ask("completions", body)) as objects:
            async for each in objects:
                answer = answer or each
        if answer is None:
            raise self._malformed("nothing")
        self._usage += Usage(up_bytes=len(json.dumps(body)), down_bytes=len(json.dumps(answer)), round_trips=1)
        return answer

    def _count(self, answer: Mapping[str, Any]) -> None:
        usage = answer.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(read, int) or not isinstance(written, int) or read < 0 or written < 0:
            raise self._malformed("no usage")
        self._usage += Usage(read, written)

    def _written(self, answer: Mapping[str, Any], limit: int) -> list[Written]:
        """The tokens of an answer.

        Raises:
            BackendUnavailable: there are none, too many, or no ids among them.
        """
        try:
            choice = answer["choices"][0]
            ids = choice["token_ids"]
            logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or [0.0] * len(ids)
            # A mark in the text stops vLLM too; then `stop_reason` names it.
            ends = choice.get("finish_reason") == "stop" and not isinstance(choice.get("stop_reason"), str)
            written = [Written(_id(i), float(p)) for i, p in zip(ids, logprobs, strict=True)]
        except (LookupError, TypeError, ValueError, AttributeError):
            raise self._malformed("no token ids; is it a server that returns them?") from None
        if not 0 < len(written) <= limit:
            raise self._malformed(f"{len(written)} tokens where 1 to {limit} were asked for")
        last = written[-1]
        return [*written[:-1], Written(last.token_id, last.logprob, ends)]

    def _malformed(self, what: str) -> BackendUnavailable:
        name = self._server.name
        return BackendUnavailable(f"{name}: the server answered {what}", backend=name, retryable=False)

    def _check_asked(self, judge: Judge | None) -> None:
        if judge is not None:
            raise UnsupportedByBackend(f"{self._server.name}: an endpoint writes tokens, and judges none")


class Kept(_Asking):
    """An answer that a `selfroute cloud` keeps open; see `selfroute.backends.sessions.Session`."""

    def __init__(
        self,
        server: Asked,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        look: Look,
        luck: int | None,
        vocabulary: str,
    ) -> None:
        super().__init__(server, sampling, look=look, luck=luck, vocabulary=vocabulary)
        self._messages = messages
        self._id: str | None = None
        self._theirs: list[int] = []  # what the server has of the answer

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """See `Session`."""
        self._ids += ids
        if not every:
            return []
        answer = await self._call(0, every=len(ids))
        try:
            views = [_view(each) for each in answer["selfroute"]["views"]]
        except (LookupError, TypeError, ValueError, AttributeError):
            raise self._malformed("no views") from None
        if len(views) != len(ids) + 1:
            raise self._malformed(f"{len(views)} views of {len(ids)} tokens")
        return views

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """See `Session`; judges are not for an endpoint."""
        self._check_asked(judge)
        written = self._written(await self._call(limit, until=until), limit)
        self._ids += [token.token_id for token in written]
        self._theirs = list(self._ids)
        return written

    async def close(self) -> None:
        """See `Session`; a server that cannot be told forgets it by itself."""
        self._closed = True
        held, self._id = self._id, None
        if held is not None:
            with suppress(BackendError):
                await self._ask({"prompt": [], "max_tokens": 0, "selfroute": {"session": held, "close": True}})

    async def _call(self, limit: int, *, every: int | None = None, until: Sequence[str] = ()) -> dict[str, Any]:
        """Send what is new, and ask for so many tokens; a session that the server has forgotten begins anew."""
        self._check_open()
        try:
            answer = await self._send(limit, every, until)
        except BackendStatusError as error:
            if self._id is None or error.status_code != _GONE:
                raise
            self._id, self._theirs = None, []
            answer = await self._send(limit, every, until)
        self._count(answer)
        about = answer.get("selfroute")
        if not isinstance(about, Mapping) or not isinstance(about.get("session"), str):
            raise self._malformed("no session; is it a selfroute cloud?")
        self._id, self.vocabulary = about["session"], str(about.get("vocabulary", self.vocabulary))
        self._theirs = list(self._ids)
        return answer

    async def _send(self, limit: int, every: int | None, until: Sequence[str]) -> dict[str, Any]:
        at = next(
            (i for i, (own, their) in enumerate(zip(self._ids, self._theirs, strict=False)) if own != their),
            min(len(self._ids), len(self._theirs)),
        )
        if every is not None:
            at = min(at, len(self._ids) - every)
        about: dict[str, Any] = {"at": at}
        if self._id is not None:
            about["session"] = self._id
        else:
            about["messages"] = [{"role": m.role, "content": m.content} for m in self._messages]
            about["own_luck"] = self._luck is not None
            about["luck_tokens"] = self._sampling.max_tokens
        if self._look.top:
            about["top"] = self._look.top
        if every is not None:
            about["every"] = every
        if any(until):
            about["until"] = [mark for mark in until if mark]
        return await self._ask({"prompt": self._ids[at:], "max_tokens": limit, "selfroute": about})


class _Resent(_Asking):
    """An answer whose prompt and ids are sent with every call, as vLLM takes them."""

    def __init__(
        self,
        server: Asked,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        look: Look,
        luck: int | None,
        tokenizer: PreTrainedTokenizerBase,
        own: str,
    ) -> None:
        super().__init__(server, sampling, look=look, luck=luck, vocabulary=own)
        self._prompt = list(prompt)
        self._end = tokenizer.eos_token_id

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """See `Session`; views come from `prompt_logprobs`, and are those of a greedy model."""
        self._ids += ids
        if not every:
            return []
        if self._sampling.temperature:
            raise UnsupportedByBackend(f"{self._server.name}: it scores tokens as a greedy model alone; temperature: 0")
        top = max(1, self._look.top)
        body = {"prompt": [*self._prompt, *self._ids], "max_tokens": 1, "prompt_logprobs": top, "logprobs": top}
        self._check_open()
        answer = await self._ask({**body, "return_token_ids": True})
        self._count(answer)
        [after] = self._written(answer, 1)
        try:
            scored = answer["choices"][0]["prompt_logprobs"][-len(ids) :] if ids else []
            views = [self._scored(places, given) for places, given in zip(scored, ids, strict=True)]
        except (LookupError, TypeError, ValueError, AttributeError):
            raise self._malformed("no prompt_logprobs") from None
        return [*views, View(after.token_id, after.logprob, ends=after.ends)]

    def _scored(self, places: Mapping[str, Any], given: int) -> View:
        found = sorted(((_id(int(i)), float(each["logprob"])) for i, each in places.items()), key=lambda x: -x[1])
        top = dict(found[: max(1, self._look.top)])
        drawn, logprob = found[0]
        return View(drawn, logprob, top, given=dict(found)[given], ends=drawn == self._end)

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """See `Session`; judges are not for an endpoint."""
        self._check_asked(judge)
        body: dict[str, Any] = {"prompt": [*self._prompt, *self._ids], "max_tokens": limit, "return_token_ids": True}
        if any(until):
            body |= {"stop": [mark for mark in until if mark], "include_stop_str_in_output": True}
        self._check_open()
        answer = await self._ask(body)
        self._count(answer)
        written = self._written(answer, limit)
        self._ids += [token.token_id for token in written]
        return written

    async def close(self) -> None:
        """See `Session`; nothing is kept."""
        self._closed = True


def _id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no token id")
    return value


def _view(value: Mapping[str, Any]) -> View:
    top = {_id(int(i)): float(p) for i, p in (value.get("top") or {}).items()}
    given = value.get("given")
    return View(
        drawn=_id(value["drawn"]),
        logprob=float(value["logprob"]),
        top=top,
        given=None if given is None else float(given),
        ends=value.get("ends") is True,
    )
