"""What the chunks of one chat completion say, in every dress that servers have for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfroute.backends.halves import Halves, mended
from selfroute.backends.sse import DONE, Event, Malformed, error_message
from selfroute.backends.tool_calls import ToolCalls
from selfroute.types import Delta, Message, Token, Usage

__all__ = ["ChunkReader", "tokens_used", "whole_object"]

# Why an answer ended, by the names of many servers; what is not here is "stop".
_REASONS = {
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"), "length"
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use"), "tool_calls"),
    "function_call": "function_call",
    **dict.fromkeys(
        ("content_filter", "safety", "recitation", "refusal", "sensitive", "prohibited_content"), "content_filter"
    ),
}
_BROKEN = frozenset(
    {"error", "failed", "failure", "abort", "aborted", "cancelled", "network_error", "insufficient_system_resource"}
)
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_TEXT_FIELDS = frozenset({"role", "content", *_THOUGHTS})
_SAID = ("error", "errors", "detail", "message", "msg")  # what an error in place of a chunk is said in
_CHARACTERS_PER_TOKEN = 4  # rough, for servers that send no usage
_MOST_TOKENS = 2**53  # more than any answer has, and what every ledger can book


class ChunkReader:
    """Turns the events of one answer into deltas, its reasoning as `<think>…</think>`.

    Attributes:
        began: whether any piece of an answer has come.
        is_done: whether the server has said that nothing more comes.
        characters: of text so far.
        token_count: tokens reported so far.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.began = self.is_done = False
        self.characters = self.token_count = 0
        self._prompt_characters = sum(len(message.content) for message in messages)
        self._thinking = self._opens = self._has_choice = False
        self._thought, self._content = Halves(), Halves()
        self._beside: dict[tuple[str | int, ...], Halves] = {}  # texts beside the answer's, by their place in it
        self._calls = ToolCalls()
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the server has said why the answer ended."""
        return self._finish_reason is not None

    def deltas(self, events: Iterable[Event]) -> Iterator[Delta]:
        """What some events say, up to the one that says that nothing more comes.

        Raises:
            Malformed: one is no chunk of an answer, or reports an error.
        """
        for event in events:
            if (delta := self._read(event)) is not None:
                yield delta
            if self.is_done:
                return

    def end(self) -> Delta:
        """The last delta, once the server has sent everything.

        Raises:
            Malformed: the answer is not whole.
        """
        if self._finish_reason is None:
            raise Malformed(f"the answer ended unfinished after {self.characters} characters")
        reason = _REASONS.get(self._finish_reason, "stop")
        if reason == "stop" and self._calls:  # as many servers end an answer that calls functions
            reason = "tool_calls"
        text = self._thought.close()
        # A thought that was cut stays open, as in the text of a model that writes its own tags.
        text += "</think>" if self._thinking and reason != "length" else ""
        text += self._content.close()
        return Delta(text, finish_reason=reason, usage=self._usage or self._estimate(), extra=self._lost_beside())

    def _read(self, event: Event) -> Delta | None:
        """One event of a stream, or a whole answer that came at once."""
        if event == DONE:
            self.is_done = True
            if self._has_choice:
                self._finish_reason = self._finish_reason or "stop"
            return None
        self.began = self.began or isinstance(event, str)
        event = whole_object(event)
        self.began = True
        try:
            return self._chunk(event)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise Malformed(f"a malformed event: {json.dumps(event, ensure_ascii=False)}") from None

    def _chunk(self, chunk: Mapping[str, Any]) -> Delta | None:
        choices = chunk.get("choices")
        choice = choices[0] if choices else {}
        self._usage = tokens_used(chunk.get("usage") or choice.get("usage")) or self._usage
        if not choices:
            return None
        self._has_choice = True
        self._note_end(choice)
        part = _part(choice)
        text, tokens, extra = self._text(part), _tokens(choice.get("logprobs")), self._beside_text(part)
        self.characters += len(text)
        self.token_count += len(tokens)
        if not (text or tokens or extra):
            return None
        return Delta(text, tokens, extra=extra, aside=self._opens)

    def _note_end(self, choice: Mapping[str, Any]) -> None:
        """Keep why the answer ended, if the choice says so."""
        if not (choice.get("finish_reason") or "message" in choice or "error" in choice):
            return
        if reason := choice.get("finish_reason"):
            self._finish_reason = str(reason).lower()
        elif choice.get("message") and not isinstance(choice.get("delta"), Mapping):
            self._finish_reason = "stop"
        if choice.get("error") or self._finish_reason in _BROKEN:
            said = error_message(json.dumps(choice)) if choice.get("error") else self._finish_reason
            raise Malformed(f"the server reported an error after {self.characters} characters: {said}")

    # --- text

    def _text(self, part: Mapping[str, Any]) -> str:
        """Its reasoning and its content, with tags where one turns into the other."""
        self._opens = False
        if "content" in part and len(part) == 1 and not self._thinking and isinstance(part["content"], str):
            return self._content.feed(part["content"])
        thought, content = _parted(part.get("content"))
        thought = next((_plain(part[name]) for name in _THOUGHTS if part.get(name)), thought)
        self._opens = bool(thought) and not self._thinking
        self._thinking |= self._opens
        text = f"<think>{self._thought.feed(thought)}" if self._opens else self._thought.feed(thought)
        content = self._content.feed(content)
        if self._thinking and (content or part.get("tool_calls")):
            text, self._thinking = f"{text}{self._thought.close()}</think>", False
        return text + content

    def _estimate(self) -> Usage:
        def tokens(characters: int) -> int:
            return math.ceil(characters / _CHARACTERS_PER_TOKEN)

        return Usage(tokens(self._prompt_characters), self.token_count or tokens(self.characters))

    # --- what is beside text

    def _beside_text(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """What a piece of a message holds beside text, as pieces of a stream write it."""
        if _TEXT_FIELDS.issuperset(part):
            return {}
        extra = {name: value for name, value in part.items() if name not in _TEXT_FIELDS and value}
        if calls := extra.get("tool_calls"):
            extra["tool_calls"] = self._calls.read(calls)
        return {name: self._joined(value, name) for name, value in extra.items()}

    def _joined(self, value: Any, *place: str | int) -> Any:
        """A value whose texts go on with those that came at the same place before."""
        if isinstance(value, str):
            return self._beside.setdefault(place, Halves()).feed(value)
        if isinstance(value, Mapping):
            return {key: self._joined(each, *place, key) for key, each in value.items()}
        if isinstance(value, list):
            return [
                self._joined(each, *place, each["index"])
                if isinstance(each, Mapping) and "index" in each
                else _apart(each)
                for each in value
            ]
        return value

    def _lost_beside(self) -> dict[str, Any]:
        """What stands for halves of characters that wait in vain, where they were to come."""
        lost: dict[str, Any] = {}
        for (name, *steps), halves in self._beside.items():
            value: Any = halves.close()
            for step in reversed(steps) if value else ():
                value = [{"index": step, **value}] if isinstance(step, int) else {step: value}
            if value:
                lost[str(name)] = [*lost.get(str(name), []), *value] if isinstance(value, list) else value
        return lost


def whole_object(event: Event) -> dict[str, Any]:
    """The object that an event holds.

    Raises:
        Malformed: it holds none, or reports an error.
    """
    if isinstance(event, str):
        raise Malformed(f"a malformed event: {event}")
    if _is_error(event):
        raise Malformed(f"the server reported an error: {error_message(json.dumps(event, ensure_ascii=False))}")
    return event


def _apart(value: Any) -> Any:
    """A value whose texts stand alone."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, Mapping):
        return {key: _apart(each) for key, each in value.items()}
    return [_apart(each) for each in value] if isinstance(value, list) else value


def _is_error(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk reports an error, in one of the ways in which servers do."""
    if chunk.get("choices") and not chunk.get("error"):
        return False
    if chunk.get("error") or "error" in (chunk.get("object"), chunk.get("type")):
        return True
    return not chunk.get("usage") and any(chunk.get(name) is not None for name in _SAID)


def _part(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a choice holds of its message: a piece of it, or the whole."""
    part = choice.get("delta")
    if part is None:
        part = choice.get("message")
    if part is None:  # as servers of plain completions write it
        part = {"content": choice.get("text")}
    if not isinstance(part, Mapping):
        raise TypeError(part)
    return part


def _parted(content: Any) -> tuple[str, str]:
    """Reasoning and text of a message's content; some servers send it in parts."""
    if not isinstance(content, list):
        return "", _plain(content)
    thoughts = [part for part in content if isinstance(part, Mapping) and "thinking" in part]
    said = [part for part in content if not any(part is thought for thought in thoughts)]
    return "".join(_plain(thought["thinking"]) for thought in thoughts), _plain(said)


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_plain(part.get("text") if isinstance(part, Mapping) else part) for part in content)
    return content if isinstance(content, str) else ""


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    return tuple(
        Token(mended(token["token"]), float(token["logprob"]), _top(token.get("top_logprobs") or []))
        for token in (logprobs or {}).get("content") or []
    )


def _top(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    # Two tokens may print alike, e.g. halves of a character: the likelier one comes first and stays.
    return {mended(str(each["token"])): float(each["logprob"]) for each in reversed(alternatives)}


# --- usage


def tokens_used(value: Any) -> Usage | None:
    """What a server's `usage` says, None where it counts nothing: zeros come from servers that do not count yet."""
    if not isinstance(value, dict):
        return None
    prompt = _count(value.get("prompt_tokens", value.get("input_tokens")))
    completion = _count(value.get("completion_tokens", value.get("output_tokens")))
    if not (prompt or completion):
        return None
    cached = _detail(value, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(value, "completion_tokens_details", "reasoning_tokens")
    return Usage(prompt, completion, cached_tokens=cached, reasoning_tokens=reasoning)


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return _count(details.get(name)) if isinstance(details, Mapping) else 0


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return 0
    return min(int(value), _MOST_TOKENS)
