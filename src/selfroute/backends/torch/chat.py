"""Chat templates that know no system turn.

The words of a policy stand in the system turn, the offer to hand off among them. Gemma's template refuses one, others
leave it out without a word: such a template gets a beginning of its own, in its own language, that puts the system's
text on a line in front of the user's, as llama.cpp does by itself. It is saved with the tokenizer and into GGUF files,
so that every program writes the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["keep_system_turn"]

_SAID, _ASKED = "kept system text", "a question"
_FOLD = (
    "{%- set folded = namespace(said='', turns=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' or message['role'] == 'developer' -%}"
    "{%- set folded.said = folded.said + message['content'] + '\\n' -%}"
    "{%- elif message['role'] == 'user' and folded.said -%}"
    "{%- set folded.turns = folded.turns + [{'role': 'user', 'content': folded.said + message['content']}] -%}"
    "{%- set folded.said = '' -%}"
    "{%- else -%}"
    "{%- set folded.turns = folded.turns + [message] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if folded.said -%}"
    "{%- set folded.turns = folded.turns + [{'role': 'user', 'content': folded.said}] -%}"
    "{%- endif -%}"
    "{%- set messages = folded.turns -%}"
)


def keep_system_turn(tokenizer: PreTrainedTokenizerBase, *, where: str) -> None:
    """Change the chat template, if need be, so that a system turn before a user's reaches the model.

    Args:
        where: names the tokenizer in messages.

    Raises:
        ConfigError: the template writes no prompt, not even for a user's turn alone.
    """
    template: Any = tokenizer.chat_template
    if not template or _keeps(tokenizer, None):
        return
    plain = template["default"] if isinstance(template, dict) else template
    if not _keeps(tokenizer, _FOLD + plain):
        raise ConfigError(
            f"the chat template of '{where}' writes no prompt of a system's and a user's turn, nor with both in one; "
            "correct its chat_template"
        )
    tokenizer.chat_template = {**template, "default": _FOLD + plain} if isinstance(template, dict) else _FOLD + plain


def _keeps(tokenizer: PreTrainedTokenizerBase, template: str | None) -> bool:
    """Whether a template, the tokenizer's own without one, writes both turns."""
    turns = [{"role": "system", "content": _SAID}, {"role": "user", "content": _ASKED}]
    try:
        text = str(
            tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True)
        )
    except Exception:  # a template refuses a role by an error of any kind
        return False
    return _SAID in text and _ASKED in text
