"""Ollama's Modelfile: how a model's conversations are written, and how its answers end.

Ollama writes conversations with a Go template, the model comes with a Jinja one. The first is inferred from what the
second writes around each role's words, and only used if it writes the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["ROLES", "Chat", "Render", "infer_chat", "modelfile"]

# Role and content of each turn, and whether the answer is to begin: what a chat template writes. May raise.
Render = Callable[[Sequence[tuple[str, str]], bool], str]

ROLES = ("system", "user", "assistant")
_LAST = "{{ $last := eq (len (slice $.Messages $i)) 1 }}"  # as Ollama's own templates find the last turn


@dataclass(frozen=True, slots=True)
class Chat:
    """What a chat template writes around each role's words.

    Attributes:
        around: by role, the text before and after.
        answer: what begins an answer.
        system: the system prompt of a conversation without one; empty for none.
        folded: what stands between the system's text and the user's, where the template puts both into the user's
            turn; empty if it has a turn of its own.
    """

    around: dict[str, tuple[str, str]]
    answer: str
    system: str = ""
    folded: str = ""

    def render(self, turns: Sequence[tuple[str, str]], answer: bool) -> str:
        """As the chat template does, but for the system prompt of a conversation without one."""
        turns = _in_one(turns, self.folded) if self.folded else turns
        written = [f"{self.around[role][0]}{content}{self.around[role][1]}" for role, content in turns]
        return "".join(written) + (self.answer if answer else "")

    def go_template(self, wrap: tuple[str, str] = ("", "")) -> str:
        """As a Go template of Ollama.

        Args:
            wrap: what stands before and after the last question, where it is the last turn.
        """
        if self.folded:
            return self._go_template_of_folded_turns(wrap)
        spelled = {
            tuple(text.replace(role, "{{ .Role }}", 1) for text in self.around[role])
            if self.around[role][0].count(role) == 1
            else self.around[role]
            for role in ROLES
        }
        if len(spelled) == 1 and not any(wrap):
            before, after = spelled.pop()
            turn = f"{before}{{{{ .Content }}}}{after}"
        else:
            inner = {**dict.fromkeys(ROLES, "{{ .Content }}"), "user": _wrapped(*wrap)}
            cases = [
                f'if eq .Role "{role}" }}}}{before}{inner[role]}{after}{{{{ '
                for role, (before, after) in ((role, self.around[role]) for role in ROLES)
            ]
            turn = f"{{{{ {'else '.join(cases)}end }}}}"
        if not any(wrap):
            return f"{{{{ range .Messages }}}}{turn}{{{{ end }}}}{self.answer}"
        return f"{{{{ range $i, $_ := .Messages }}}}{_LAST}{turn}{{{{ end }}}}{self.answer}"

    def _go_template_of_folded_turns(self, wrap: tuple[str, str]) -> str:
        """With a variable that keeps the system's text until the user's turn; Go reads the joint as JSON would."""
        (asked, asked_end), (said, said_end) = self.around["user"], self.around["assistant"]
        keep = f"{{{{ $said = print .Content {json.dumps(self.folded)} }}}}"
        turns = f"{{{{ range $i, $_ := .Messages }}}}{_LAST}" if any(wrap) else "{{ range .Messages }}"
        content = _wrapped(*wrap)
        return (
            f'{{{{ $said := "" }}}}{turns}{{{{ if eq .Role "system" }}}}{keep}'
            f'{{{{ else if eq .Role "user" }}}}{asked}{{{{ $said }}}}{content}{asked_end}{{{{ $said = "" }}}}'
            f'{{{{ else if eq .Role "assistant" }}}}{said}{{{{ .Content }}}}{said_end}{{{{ end }}}}{{{{ end }}}}'
            f"{self.answer}"
        )


def _wrapped(head: str, tail: str) -> str:
    around = [f"{{{{ if $last }}}}{text}{{{{ end }}}}" if text else "" for text in (head, tail)]
    return f"{around[0]}{{{{ .Content }}}}{around[1]}"


def _in_one(turns: Sequence[tuple[str, str]], joint: str) -> list[tuple[str, str]]:
    """The turns, each system's text in front of the user's behind it."""
    kept, said = [], ""
    for role, content in turns:
        if role == "system":
            said = f"{content}{joint}"
        else:
            kept.append((role, f"{said}{content}" if role == "user" else content))
            said = "" if role == "user" else said
    return kept


def infer_chat(render: Render, *, bos: str = "") -> Chat | None:
    """What a chat template writes around each role's words; None if it does more than that.

    Args:
        bos: text that Ollama writes before a conversation by itself.
    """
    return _infer_turns(render, bos) or _infer_folded(render, bos)


def _infer_folded(render: Render, bos: str) -> Chat | None:
    """Of a template that puts the system's text into the user's turn."""
    words = [("user", "⟦u⟧"), ("assistant", "⟦a⟧"), ("user", "⟦v⟧")]
    asked = [("system", "⟦s⟧"), *words]
    try:
        begun = _between(render(words, True).removeprefix(bos), words)
        whole = _between(render(words, False).removeprefix(bos), words)
        folded = _between(render(asked, False).removeprefix(bos), asked)
        around = {"user": (whole[0], whole[3]), "assistant": ("", "")}
        around["assistant"] = (_without(whole[1], whole[3], ""), _without(whole[2], "", whole[0]))
        chat = Chat({"system": ("", ""), **around}, _without(begun[3], whole[3], ""), folded=folded[1])
        as_is = all(
            chat.render(turns, True) == render(turns, True).removeprefix(bos) for turns in (asked, asked[:2], words)
        )
    except Exception:  # a template refuses a role by an error of any kind
        return None
    return chat if as_is and chat.folded and folded[0] == whole[0] and _is_clear(chat) else None


def _is_clear(chat: Chat) -> bool:
    """Whether nothing that it writes has a meaning to Go or to a Modelfile."""
    literals = [chat.answer, chat.system, *(text for around in chat.around.values() for text in around)]
    return not any(mark in text for mark in ("{{", '"""') for text in literals)


def _infer_turns(render: Render, bos: str) -> Chat | None:
    """Of a template with a turn for each role."""
    words = [("system", "⟦s⟧"), ("user", "⟦u⟧"), ("assistant", "⟦a⟧"), ("user", "⟦v⟧")]
    try:
        begun = _between(render(words, True).removeprefix(bos), words)
        whole = _between(render(words, False).removeprefix(bos), words)
        three = _between(render(words[:3], False).removeprefix(bos), words[:3])
        after_user, after_answer = whole[4], three[3]
        before_user = _without(whole[3], after_answer, "")
        chat = Chat(
            around={
                "system": (whole[0], _without(whole[1], "", before_user)),
                "user": (before_user, after_user),
                "assistant": (_without(whole[2], after_user, ""), after_answer),
            },
            answer=_without(begun[4], after_user, ""),
        )
        alone = render(words[1:2], True).removeprefix(bos)
        default = _without(alone, "", chat.render(words[1:2], True))
        if default:
            chat = Chat(chat.around, chat.answer, _without(default, *chat.around["system"]))
    except Exception:  # a template refuses a role by an error of any kind
        return None
    as_is = all(chat.render(turns, True) == render(turns, True).removeprefix(bos) for turns in (words, words[:2]))
    return chat if as_is and _is_clear(chat) and (chat.system or not default) else None


def _between(text: str, turns: Sequence[tuple[str, str]]) -> list[str]:
    """What stands before, between and after the contents of turns.

    Raises:
        ValueError: a content is not there once, in its order.
    """
    pieces = []
    for _, content in turns:
        before, found, text = text.partition(content)
        if not found or content in text:
            raise ValueError(content)
        pieces.append(before)
    return [*pieces, text]


def _without(text: str, start: str, end: str) -> str:
    """A text without its known start and end.

    Raises:
        ValueError: it has not got them.
    """
    if not (text.startswith(start) and text.endswith(end) and len(text) >= len(start) + len(end)):
        raise ValueError(text)
    return text[len(start) : len(text) - len(end)]


def modelfile(
    file: str,
    chat: Chat | None,
    *,
    others: Sequence[str] = (),
    system: str = "",
    shown: Sequence[tuple[str, str]] = (),
    stop: Sequence[str] = (),
    context_tokens: int,
    max_tokens: int,
    wrap: tuple[str, str] = ("", ""),
    notes: Sequence[str] = (),
) -> str:
    """The text of a Modelfile.

    Args:
        file: the GGUF file beside it.
        chat: None leaves it to Ollama to read the chat template in the GGUF file.
        others: further files that could stand in place of `file`.
        system: the system prompt of conversations without one; by default the chat template's own.
        shown: role and content of turns before every conversation.
        stop: texts that end an answer.
        wrap: as in `Chat.go_template`.
        notes: lines of comment for the end, each beginning with "#".
    """
    lines = [f"FROM ./{file}", *(f"# FROM ./{other}" for other in others)]
    if chat is None:
        lines.append("# The model's chat template cannot be written as one of Ollama's; Ollama reads the file's own.")
    else:
        lines.append(f'TEMPLATE """{chat.go_template(wrap)}"""')
    if said := system or (chat.system if chat else ""):
        lines.append(f'SYSTEM """{said}"""')
    lines += [f'MESSAGE {role} """{content}"""' for role, content in shown]
    # Greedy, and without the penalty on repetition that Ollama would apply: as it was trained and measured.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {context_tokens}"]
    lines += [f"PARAMETER num_predict {max_tokens}", *(f'PARAMETER stop "{text}"' for text in stop)]
    return "\n".join([*lines, *notes]) + "\n"
