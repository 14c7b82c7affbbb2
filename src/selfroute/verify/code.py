"""Verifiers that run something: a pattern, tests, or a function of the user's. Each in bounded time but the last."""

from __future__ import annotations

import difflib
import re
from importlib import import_module

from selfroute.errors import ConfigError
from selfroute.verify.base import Verdict
from selfroute.verify.bounded import bounded
from selfroute.verify.extract import after_reasoning, boxed, code_in, tagged_answer
from selfroute.verify.sandbox import run_tests
from selfroute.verify.verifiers import VERIFIERS, Verifier

__all__ = ["code", "named_verifier", "regex"]

_LONGEST = 10_000


def regex(completion: str, gold: str) -> Verdict:
    """The whole answer matches the gold as a regular expression of Python.

    Marked by tag or box, else all text outside the reasoning. Patterns can take forever on some texts, so the match is
    made in a process that is killed when it is late; the verdict is then not correct, reason "timeout".
    """
    tagged = tagged_answer(completion)
    box = boxed(after_reasoning(completion) if tagged is None else tagged)
    answer = box or tagged or after_reasoning(completion).strip()
    if not answer:
        return Verdict(False, reason="no answer")
    if len(answer) > _LONGEST:
        return Verdict(False, answer[:200], f"longer than {_LONGEST} characters")
    done, matches = bounded(_matches, gold, answer)
    if not done:
        return Verdict(False, answer[:200], "timeout")
    return Verdict(bool(matches), answer[:200], "" if matches else "does not match")


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def code(completion: str, gold: str) -> Verdict:
    """The first code block, followed by the gold's tests, runs through in `selfroute.verify.sandbox`."""
    answer = code_in(completion)
    if not answer.strip():
        return Verdict(False, reason="no code")
    ran = run_tests(answer, gold)
    return Verdict(ran.passed, answer[-200:], ran.reason)


def named_verifier(name: str) -> Verifier:
    """One of ours by name, or a user's by dotted path.

    Raises:
        ConfigError: there is none of that name, or nothing to call at that path.
    """
    known: dict[str, Verifier] = {**VERIFIERS, "regex": regex, "code": code}
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon and "." in name:
        module, _, attribute = name.rpartition(".")
    if not attribute:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(known)}, or package.module:function"
        raise ConfigError(f"unknown verifier '{name}'; {hint}")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"verifier '{name}' cannot be imported ({error}); write package.module:function") from error
    if not callable(function):
        raise ConfigError(f"verifier '{name}' is no function; write package.module:function")

    def verify(completion: str, gold: str) -> Verdict:
        said = function(completion, gold)
        return Verdict.of(said if isinstance(said, Verdict | float) else bool(said))

    return verify
