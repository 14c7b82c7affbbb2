"""The words around a question, with and without the offer to hand off.

The templates "think" and "steps" are those of arXiv 2509.24050, Table 5 (V3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfroute.handoff import HANDOFF_TEXT
from selfroute.types import Message

__all__ = ["TEMPLATES", "PromptTemplate", "share_sentence", "with_attempt"]


def share_sentence(share: float) -> str:
    """What a policy that was trained for several call shares is told of the wanted one."""
    return f"You can ask for external assistance for {_in_words(round(100 * share))} of a hundred problems."


_SMALL = (
    "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "a hundred")


def _in_words(number: int) -> str:
    """A whole number from 0 to 100 in words: a small model reads digits as those of its problem."""
    if number < len(_SMALL):
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The words around a question.

    Attributes:
        system: the device's system prompt.
        help: the sentence that offers the hand-off, appended to `system` unless the attempt is forced.
        user: the user turn, with `{question}`.
    """

    system: str
    help: str
    user: str

    def conversation(self, question: str) -> list[Message]:
        """The user's side alone: what the cloud sees."""
        return [Message("user", self.user.format(question=question))]

    def device_messages(
        self, messages: Sequence[Message], *, offer_handoff: bool = True, share: float | None = None
    ) -> list[Message]:
        """The conversation with the device's system prompt in front, joined with the user's own if there is one.

        Args:
            share: the wanted call share, said beside the offer to a policy that was trained for several.
        """
        system = f"{self.system} {self.help}" if offer_handoff else self.system
        if offer_handoff and share is not None:
            system = f"{system} {share_sentence(share)}"
        if messages and messages[0].role in ("system", "developer"):
            own, *messages = messages
            system = f"{system}\n\n{own.content}"
        return [Message("system", system), *messages]


TEMPLATES: dict[str, PromptTemplate] = {
    # Template I, Countdown.
    "think": PromptTemplate(
        system=(
            "You are a helpful assistant. You first think about the reasoning process in your mind and then provide "
            "the user with the answer. Show all your reasoning in <think> </think> tags. And return the final answer "
            "in <answer> </answer> tags at the end."
        ),
        help=(
            "If you did not find a solution after a thorough reasoning process, you can ask for external assistance "
            f"at the end, for example, {HANDOFF_TEXT}."
        ),
        user="{question}. Let me solve this step by step.",
    ),
    # Template II, MATH; the paper sets the number of steps to 6.
    "steps": PromptTemplate(
        system=(
            "You are given a math problem. Solve it step by step. Organize your thoughts using this format: "
            "Step 1: ..., Step 2: ..., Step 3: ..., and so on. Put your final answer within \\boxed{}."
        ),
        help=(f"If you cannot solve the problem after 6 reasoning steps, stop reasoning and return: {HANDOFF_TEXT}."),
        user="{question}. Let's think step by step.",
    ),
    # No words around the question: for questions that carry their own instructions, and for recorded answers.
    "plain": PromptTemplate(
        system="You are a helpful assistant.",
        help=f"If you cannot answer, return: {HANDOFF_TEXT}.",
        user="{question}",
    ),
}


def with_attempt(messages: Sequence[Message], attempt: str) -> list[Message]:
    """The conversation with what the device wrote added to its last user turn, for a cloud that may see it.

    Added to a turn and not as one of its own: many chat templates refuse two turns of one role in a row.
    """
    places = [index for index, message in enumerate(messages) if message.role == "user"]
    if not places or not attempt.strip():
        return list(messages)
    note = f"\n\nA smaller model tried this and asked for help. It wrote:\n<attempt>\n{attempt.strip()}\n</attempt>"
    told = list(messages)
    told[places[-1]] = _with_note(told[places[-1]], note)
    return told


def _with_note(message: Message, note: str) -> Message:
    raw = message.raw
    if raw is not None:
        said = raw.get("content")
        parts = [*said, {"type": "text", "text": note}] if isinstance(said, list) else f"{said or ''}{note}"
        raw = {**raw, "content": parts}
    return replace(message, content=message.content + note, raw=raw)
