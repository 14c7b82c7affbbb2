"""What a hand-off looks like: the prompts that offer it and the text that makes it.

The templates are those of arXiv 2509.24050, Table 5 (V3). The call for the cloud is plain text, not a special
token: a special token would be stripped before a reward function sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfroute.types import Message

__all__ = ["HANDOFF_TEXT", "TEMPLATES", "PromptTemplate"]

HANDOFF_TEXT = "<unknown> I need external assistance </unknown>"


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

    def device_messages(self, messages: Sequence[Message], *, offer_handoff: bool = True) -> list[Message]:
        """The conversation with the device's system prompt in front."""
        system = f"{self.system} {self.help}" if offer_handoff else self.system
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
        help=(
            "If you cannot solve the problem after 6 reasoning steps, stop reasoning and return: "
            f"{HANDOFF_TEXT}."
        ),
        user="{question}. Let's think step by step.",
    ),
}
