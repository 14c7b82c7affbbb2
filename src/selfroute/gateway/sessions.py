"""Answers that a model's clients keep open: `/v1/completions` with token ids, for a pair in two processes.

A call names a session, or opens one with the conversation; gives the ids that come at a place of its answer, behind
which all is forgotten; and asks for tokens to be written, or for the views of the ids. Who stays away is forgotten
after a while.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfroute.backends.base import Backend, find_capability
from selfroute.backends.sessions import Look, Session, Sessions, View, Written
from selfroute.gateway.errors import ApiError, bad_request
from selfroute.gateway.request import Limits
from selfroute.types import Message, Sampling

__all__ = ["OpenAnswers"]

_MOST_OPEN = 1024
_IDLE_S = 300.0


@dataclass(eq=False)
class _Open:
    """One of them.

    Attributes:
        work: what is done for the call under way, None before the first.
        read, wrote: tokens that its client has been told of. Forgetting what nobody has read takes back some that were
            told of; they are told of once.
    """

    session: Session
    touched: float = field(default_factory=time.monotonic)
    read: int = 0
    wrote: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    work: asyncio.Task[dict[str, Any]] | None = None


class OpenAnswers:
    """The open answers of one model.

    Args:
        limits: what one client may ask for.
        idle_s: after so long without a call an answer is forgotten.
    """

    def __init__(self, limits: Limits, *, idle_s: float = _IDLE_S) -> None:
        self._limits, self._idle_s = limits, idle_s
        self._open: dict[str, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    @staticmethod
    def about(model: Backend) -> dict[str, Any]:
        """What a client has to know of a model before it asks; empty if it has no sessions in ids."""
        sessions = find_capability(model, Sessions)
        if sessions is None or "ids" not in sessions.gives:
            return {}
        return {"vocabulary": sessions.vocabulary, "gives": sorted(sessions.gives & {"ids", "every", "top", "until"})}

    async def answer(self, model: Backend, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a call asks for.

        Raises:
            ApiError: a field is wrong, the session is unknown, or the model has none.
            BackendError: the model failed.
        """
        await self._forget()
        about = body["selfroute"]
        if not isinstance(about, Mapping):
            raise bad_request("selfroute", "must be an object")
        prompt, limit = _ids(body.get("prompt")), _whole(body, "max_tokens", 0)
        name, opened = self._find(model, body, about)
        if about.get("close") is True:
            await self._close(name)
            return self._said(name, opened, [], None)
        async with opened.turn:
            if name not in self._open:
                raise _unknown()
            opened.touched = time.monotonic()
            limit = min(limit, self._limits.max_tokens)
            opened.work = asyncio.create_task(self._work(name, opened, prompt, limit, about))
            try:
                return await opened.work
            except BaseException as error:
                let_go = name not in self._open
                await asyncio.shield(self._close(name))  # nobody knows how far it came
                if let_go and isinstance(error, asyncio.CancelledError):
                    raise _unknown() from None  # its client closed it meanwhile, and has gone
                raise

    async def _work(
        self, name: str, opened: _Open, prompt: list[int], limit: int, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        session, at = opened.session, _whole(about, "at", 0)
        if at > len(session.ids):
            raise bad_request("selfroute.at", f"is {at}, and the answer has {len(session.ids)} tokens")
        await session.drop(len(session.ids) - at)
        views = None
        if "every" in about:
            scored = _whole(about, "every", 0)
            if scored > len(prompt):
                raise bad_request("selfroute.every", f"is {scored}, and {len(prompt)} ids came")
            await session.read(prompt[: len(prompt) - scored])
            views = await session.read(prompt[len(prompt) - scored :], every=True)
        else:
            await session.read(prompt)
        written = await session.write(limit, until=_marks(about)) if limit else []
        return self._said(name, opened, written, views)

    def _find(self, model: Backend, body: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[str, _Open]:
        name = about.get("session")
        if name is None:
            return self._begin(model, body, about)
        if not isinstance(name, str) or name not in self._open:
            raise _unknown()
        return name, self._open[name]

    def _begin(self, model: Backend, body: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[str, _Open]:
        sessions = find_capability(model, Sessions)
        if sessions is None or "ids" not in sessions.gives:
            raise ApiError("unsupported_by_backend", f"{model.name} has no sessions in token ids; serve another model")
        if len(self._open) >= _MOST_OPEN:
            raise ApiError("too_many_requests", f"{_MOST_OPEN} answers are open; ask again later")
        sampling = Sampling(
            temperature=_number(body, "temperature", 0.0),
            top_p=_number(body, "top_p", 1.0),
            max_tokens=max(1, min(_whole(about, "luck_tokens", 512), self._limits.max_tokens)),
            seed=None if body.get("seed") is None else _whole(body, "seed", 0),
        )
        luck = sampling.seed if about.get("own_luck") is True else None
        look = Look(top=min(_whole(about, "top", 0), 20))
        name = secrets.token_hex(12)
        self._open[name] = _Open(sessions.session(self._messages(about), sampling, look=look, luck=luck))
        return name, self._open[name]

    def _messages(self, about: Mapping[str, Any]) -> list[Message]:
        said = about.get("messages")
        if not isinstance(said, list) or not 0 < len(said) <= self._limits.messages:
            raise bad_request("selfroute.messages", f"must be a list of 1 to {self._limits.messages} messages")
        messages = []
        for each in said:
            role, content = (each.get("role"), each.get("content")) if isinstance(each, Mapping) else (None, None)
            if role not in ("system", "developer", "user", "assistant") or not isinstance(content, str):
                raise bad_request("selfroute.messages", "must hold messages with a role and text")
            messages.append(Message(role, content))
        return messages

    def _said(self, name: str, opened: _Open, written: Sequence[Written], views: list[View] | None) -> dict[str, Any]:
        used = opened.session.used
        read = max(0, used.prompt_tokens - opened.read)
        wrote = max(0, used.completion_tokens - opened.wrote)
        opened.read, opened.wrote = opened.read + read, opened.wrote + wrote
        about: dict[str, Any] = {"session": name, "vocabulary": opened.session.vocabulary}
        if views is not None:
            about["views"] = [_shown(view) for view in views]
        choice = {
            "index": 0,
            "text": "",
            "token_ids": [token.token_id for token in written],
            "logprobs": {"token_logprobs": [token.logprob for token in written]},
            "finish_reason": "stop" if written and written[-1].ends else "length",
        }
        return {
            "id": f"cmpl-{secrets.token_hex(8)}",
            "object": "text_completion",
            "created": int(time.time()),
            "choices": [choice],
            "usage": {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote},
            "selfroute": about,
        }

    async def _close(self, name: str) -> None:
        if (opened := self._open.pop(name, None)) is not None:
            if opened.work is not None:
                opened.work.cancel()
            await opened.session.close()

    async def _forget(self) -> None:
        """Close what nobody has asked for in a long time."""
        due = time.monotonic() - self._idle_s
        for name, opened in list(self._open.items()):
            if opened.touched < due and not opened.turn.locked():
                await self._close(name)


def _unknown() -> ApiError:
    return ApiError("session_unknown", "there is no such session, or no longer; send the conversation again")


def _shown(view: View) -> dict[str, Any]:
    shown: dict[str, Any] = {"drawn": view.drawn, "logprob": view.logprob, "ends": view.ends}
    if view.top:
        shown["top"] = {str(i): p for i, p in view.top.items()}
    if view.given is not None:
        shown["given"] = view.given
    return shown


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in value):
        raise bad_request("prompt", "must be a list of token ids")
    return value


def _marks(about: Mapping[str, Any]) -> list[str]:
    value = about.get("until", [])
    if not isinstance(value, list) or not all(isinstance(mark, str) and mark for mark in value):
        raise bad_request("selfroute.until", "must be a list of texts")
    return value


def _whole(values: Mapping[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise bad_request(key, "must be a whole number, at least 0")
    return value


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise bad_request(key, "must be a number, at least 0")
    return float(value)
