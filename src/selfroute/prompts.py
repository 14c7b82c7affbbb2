"""The words around a question, with and without the offer to hand off; and how they stay with a model.

The templates "think" and "steps" are those of arXiv 2509.24050, Table 5 (V3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

from selfroute.bounds import suggest
from selfroute.calls import CALL_FORM
from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.types import Message

__all__ = [
    "PROMPT_FILE",
    "TEMPLATES",
    "TUNED",
    "Demonstration",
    "PromptTemplate",
    "TrainedPrompt",
    "find_template",
    "is_tuned",
    "last_question",
    "parse_prompt",
    "read_prompt",
    "read_tuned",
    "share_sentence",
    "with_attempt",
    "wrap_question",
    "write_prompt",
]


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
class Demonstration:
    """A question that the device is shown with what it should have written, as though it had."""

    question: str
    reply: str

    @property
    def asks(self) -> bool:
        """Whether the reply is a hand-off."""
        return parse(self.reply).wants_cloud


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The words around a question.

    Attributes:
        system: the device's system prompt.
        help: the sentence that offers the hand-off, appended to `system` unless the attempt is forced.
        user: the user turn, with `{question}`.
        demonstrations: turns between the device's system prompt and the conversation, which the cloud never sees.
    """

    system: str
    help: str
    user: str
    demonstrations: tuple[Demonstration, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PromptTemplate:
        """Read what `facts` gave.

        Raises:
            KeyError: a part is missing.
            TypeError: a part is of another type.
        """
        shown = [Demonstration(str(one["question"]), str(one["reply"])) for one in values.get("demonstrations", ())]
        return cls(str(values["system"]), str(values["help"]), str(values["user"]), tuple(shown))

    def facts(self) -> dict[str, Any]:
        """Its parts, ready for JSON; demonstrations only where there are any, as prompts of before had none."""
        values = asdict(self)
        if not self.demonstrations:
            del values["demonstrations"]
        return values

    def conversation(self, question: str) -> list[Message]:
        """The user's side alone: what the cloud sees."""
        return [Message("user", self.user.format(question=question))]

    def device_messages(
        self, messages: Sequence[Message], *, offer_handoff: bool = True, share: float | None = None
    ) -> list[Message]:
        """The conversation with the device's system prompt in front, joined with the user's own if there is one.

        Without words of either there is no system turn: an empty one is another prompt than none. Demonstrations come
        behind it, and those that hand off only where the hand-off is offered.

        Args:
            share: the wanted call share, said beside the offer to a policy that was trained for several.
        """
        system = self.instructions(offer_handoff=offer_handoff, share=share)
        if messages and messages[0].role in ("system", "developer"):
            own, *messages = messages
            system = f"{system}\n\n{own.content}" if system else own.content
        head = [Message("system", system)] if system else []
        return [*head, *self.shown(offer_handoff=offer_handoff), *messages]

    def instructions(self, *, offer_handoff: bool = True, share: float | None = None) -> str:
        """What the device is told before a conversation, as in `device_messages`."""
        offer = [self.help, "" if share is None else share_sentence(share)] if offer_handoff else []
        return " ".join(part for part in (self.system, *offer) if part)

    def shown(self, *, offer_handoff: bool = True) -> list[Message]:
        """The turns of its demonstrations."""
        shown = [one for one in self.demonstrations if offer_handoff or not one.asks]
        turns = [(*self.conversation(one.question), Message("assistant", one.reply)) for one in shown]
        return [message for pair in turns for message in pair]


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
    # For `context: message`: the device writes what the cloud sees.
    "private": PromptTemplate(
        system="You are a helpful assistant. Return the final answer in <answer> </answer> tags.",
        help=(
            f"If you cannot answer, return: {HANDOFF_TEXT} and behind it a question that can be answered without this "
            "conversation and holds no personal detail that is not needed."
        ),
        user="{question}",
    ),
    # For agents: what can be called stands behind the system prompt.
    "tools": PromptTemplate(
        system=(
            "You are a helpful assistant. You can call tools before you answer: write <tool>name arguments</tool>, and "
            "what came of it follows in <result> </result> tags. Return the final answer in <answer> </answer> tags."
        ),
        help=f"If you cannot find the answer, return: {HANDOFF_TEXT}.",
        user="{question}",
    ),
    # As "think", in few words: each costs a small model as much as one of the answer.
    "short": PromptTemplate(
        system="Work inside <think> </think>, then answer inside <answer> </answer>.",
        help=f"If the work may be wrong, write {HANDOFF_TEXT} instead of an answer.",
        user="{question}",
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


# --- templates by name or file -------------------------------------------------------------------------------------

TUNED = "tuned:"  # begins the name of a template in a file, which `selfroute tune` wrote


def is_tuned(name: object) -> TypeGuard[str]:
    """Whether a template is named by its file."""
    return isinstance(name, str) and name.startswith(TUNED)


def find_template(name: str, *, where: str = "template") -> PromptTemplate:
    """The template of a name in `TEMPLATES`, or of `tuned:FILE`.

    Args:
        where: the key of the recipe, named in errors.

    Raises:
        ConfigError: there is no such template, or its file cannot be read.
    """
    if is_tuned(name):
        return read_tuned(name, where=where).template
    if name not in TEMPLATES:
        known = f"{', '.join(TEMPLATES)}, {TUNED}FILE"
        raise ConfigError(f"{where}: unknown template '{name}'{suggest(name, TEMPLATES)}; known: {known}")
    return TEMPLATES[name]


def read_tuned(name: str, *, where: str = "template") -> TrainedPrompt:
    """How a device is to be asked by the program of `tuned:FILE`.

    Raises:
        ConfigError: the file is not there, or cannot be read.
    """
    file = Path(name.removeprefix(TUNED)).expanduser()
    try:
        return replace(parse_prompt(file.read_text(encoding="utf-8"), str(file)), name=name)
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{where}: cannot read '{file}'; name what selfroute tune wrote, such as {TUNED}out/tuned/program.json"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


# --- conversations of others ---------------------------------------------------------------------------------------


def last_question(messages: Sequence[Message]) -> list[Message]:
    """The last user turn and what comes behind it, and the instructions, which hold for every turn."""
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
    return [m for i, m in enumerate(messages) if i >= last or m.role in ("system", "developer")]


def wrap_question(messages: Sequence[Message], template: PromptTemplate) -> list[Message]:
    """The last user turn in the words that the device was trained with, unless it has them already.

    A turn with more than text in it (an image, say) stays as it is.
    """
    place = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role == "user"), None)
    if place is None or not _is_text(messages[place]):
        return list(messages)
    head, _, tail = template.user.partition("{question}")
    text = messages[place].content
    if text.startswith(head) and text.endswith(tail):
        return list(messages)
    said, raw = f"{head}{text}{tail}", messages[place].raw
    wrapped = list(messages)
    wrapped[place] = replace(messages[place], content=said, raw=None if raw is None else {**raw, "content": said})
    return wrapped


def _is_text(message: Message) -> bool:
    parts = None if message.raw is None else message.raw.get("content")
    return not isinstance(parts, list) or all(isinstance(p, Mapping) and p.get("type") == "text" for p in parts)


# --- the prompt that a model was trained with ----------------------------------------------------------------------

PROMPT_FILE = "selfroute.json"  # beside the weights
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPrompt:
    """How a model was asked in its training, kept with its weights: asked in another way, it answers in another way.

    Attributes:
        template: the words themselves, which stay what they were when `TEMPLATES` changes.
        name: of the template in `TEMPLATES` at the time.
        role: a "cloud" was asked without a system prompt.
        offers: whether it was offered the hand-off.
        wrap: whether questions stood in the template's user turn.
        turns: "last": each conversation was one question.
        max_tokens: most tokens of one answer; None if there was no limit.
        share: call share that it was trained for; None for none.
        told_shares: those that its prompts named, as `share_sentence` does.
        temperature: at which it is meant to answer; 0 is greedy, as policies are measured.
        tuned_for: identity of the device that a prompt was tuned for, which lies apart from any weights; empty for one
            that lies with them.
        prompt_tokens: of the longest prompt that it was tuned with; None where nobody counted.
        handoff: what it writes to ask for the cloud, see `asks`; empty for a cloud. A model that asks for tokens inside
            its answers has `selfroute.calls.CALL_FORM`, and no offer in its prompt.
    """

    template: PromptTemplate
    name: str = ""
    role: Literal["device", "cloud"] = "device"
    offers: bool = True
    wrap: bool = True
    turns: Literal["all", "last"] = "last"
    max_tokens: int | None = None
    share: float | None = None
    told_shares: tuple[float, ...] = ()
    temperature: float = 0.0
    handoff: str = HANDOFF_TEXT
    tuned_for: str = ""
    prompt_tokens: int | None = None

    @property
    def system(self) -> str:
        """The system prompt of a conversation that has none of its own; empty for a cloud."""
        return "" if self.role == "cloud" else self.template.instructions(offer_handoff=self.offers)

    @property
    def shown(self) -> list[Message]:
        """The turns of its demonstrations; none for a cloud."""
        return self.template.shown(offer_handoff=self.offers) if self.role == "device" else []

    def as_device(self) -> TrainedPrompt:
        """Of a model in a device's place; one that was trained as a cloud is asked as it was, and offered nothing."""
        if self.role == "device":
            return self
        template = PromptTemplate("", "", self.template.user)
        return replace(self, template=template, role="device", offers=False, handoff="")

    @property
    def calls(self) -> bool:
        """Whether it asks for tokens inside its answers."""
        return self.handoff == CALL_FORM

    @property
    def asks(self) -> str:
        """The form in which it asks for the cloud, whatever its words; empty for a model that does not ask."""
        return self.handoff if self.calls else HANDOFF_TEXT if self.offers else ""

    @property
    def around(self) -> tuple[str, str]:
        """What stands before and after a question."""
        head, _, tail = self.template.user.partition("{question}")
        return head, tail

    @property
    def told_share(self) -> float | None:
        """The share to name in its prompts where nobody wants another; None for a policy that is told none."""
        return (self.share if self.share is not None else self.told_shares[0]) if self.told_shares else None

    def conversation(self, question: str) -> list[Message]:
        """A question as it was put in training, without the system prompt, which strategies add for the device."""
        return self.template.conversation(question) if self.wrap else [Message("user", question)]

    def described(self) -> str:
        """What it holds, in a few words."""
        facts = [f"template {self.name or 'of its own'}"]
        facts.append("question wrapped" if self.wrap else "question as it comes")
        facts.append("last question alone" if self.turns == "last" else "whole conversation")
        if self.max_tokens is not None:
            facts.append(f"at most {self.max_tokens} tokens")
        if shown := self.template.demonstrations:
            facts.append(f"{len(shown)} demonstrations")
        if self.calls:
            facts.append("calls for tokens" + (f", share {self.share:g} of them" if self.share is not None else ""))
        elif self.role == "device" and not self.offers:
            facts.append("no hand-off offered")
        elif self.told_shares:
            facts.append(f"told shares {', '.join(f'{share:g}' for share in self.told_shares)}")
        elif self.share is not None:
            facts.append(f"call share {self.share:g}")
        return ", ".join(facts)

    def text(self) -> str:
        """As JSON, on one line."""
        return json.dumps({"selfroute": _FORMAT, **self.facts()}, ensure_ascii=False)

    def facts(self) -> dict[str, Any]:
        """Its parts, ready for JSON."""
        values = {**asdict(self), "template": self.template.facts()}
        if not self.tuned_for:
            del values["tuned_for"], values["prompt_tokens"]
        return values


def parse_prompt(text: str, where: str) -> TrainedPrompt:
    """Read what `TrainedPrompt.text` wrote; keys that this version does not know are passed over.

    Args:
        where: named in errors.

    Raises:
        ConfigError: it is damaged, of a later format, or of a policy that asks for the cloud in words unknown here.
    """
    try:
        values = json.loads(text)
        version = values["selfroute"]
        if isinstance(version, int) and version > _FORMAT:
            raise ConfigError(
                f"{where}: its prompt has format {version}, this version reads {_FORMAT}; upgrade selfroute"
            )
        template = PromptTemplate.of(values["template"])
        known = {field.name: values[field.name] for field in fields(TrainedPrompt) if field.name in values}
        known["told_shares"] = tuple(float(share) for share in values.get("told_shares", ()))
        found = TrainedPrompt(**{**known, "template": template})
        _check(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{where}: the prompt of the training cannot be read ({reason}); restore the file, or delete it and set "
            "prompt.template and prompt.wrap"
        ) from None
    if found.offers and found.role == "device" and not parse(found.handoff).wants_cloud:
        raise ConfigError(
            f"{where}: the policy asks for the cloud with {found.handoff!r}, which this version does not read"
        )
    return found


def _check(prompt: TrainedPrompt) -> None:
    """Refuse values that no training writes.

    Raises:
        ValueError: names the field.
    """
    choices: Mapping[str, tuple[Any, ...]] = {
        "role": ("device", "cloud"), "turns": ("all", "last"), "wrap": (True, False), "offers": (True, False),
    }  # fmt: skip
    for name, known in choices.items():
        if getattr(prompt, name) not in known:
            raise ValueError(f"{name}: {getattr(prompt, name)!r}")
    if prompt.template.user.count("{question}") != 1:
        raise ValueError("template.user: {question} must stand in it once")
    for name in ("max_tokens", "prompt_tokens"):
        count = getattr(prompt, name)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{name}: {count!r}")
    for share in (*prompt.told_shares, *([] if prompt.share is None else [prompt.share])):
        if not 0 <= share <= 1:
            raise ValueError(f"share: {share!r}")
    if not prompt.temperature >= 0:
        raise ValueError(f"temperature: {prompt.temperature!r}")


def read_prompt(folder: Path) -> TrainedPrompt | None:
    """The prompt that a model in a folder was trained with; None where there is no `selfroute.json`.

    Raises:
        ConfigError: as `parse_prompt`, or the file cannot be read.
    """
    file = folder / PROMPT_FILE
    try:
        return parse_prompt(file.read_text(encoding="utf-8"), str(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{file}': {error}; restore the file") from None


def write_prompt(folder: Path, prompt: TrainedPrompt) -> None:
    """Write `selfroute.json` beside the weights in a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = json.dumps(json.loads(prompt.text()), ensure_ascii=False, indent=2)
    (folder / PROMPT_FILE).write_text(shown + "\n", encoding="utf-8")
