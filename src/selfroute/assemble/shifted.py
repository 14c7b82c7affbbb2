"""Whether a recording's answers stand beside their own rows, before an evaluation is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfroute.backends.base import Backend, complete_all
from selfroute.config import BACKENDS, Spec
from selfroute.errors import ConfigError
from selfroute.grading import judge
from selfroute.prompts import PromptTemplate
from selfroute.recordings import rows_looked_at, shifted
from selfroute.tasks.base import Row, Task
from selfroute.types import Completion, Sampling
from selfroute.verify.base import is_solved

__all__ = ["check_recorded"]


async def check_recorded(
    models: Mapping[str, tuple[Spec, Backend]], task: Task, template: PromptTemplate, rows: Sequence[Row]
) -> None:
    """Refuse recordings that answer the rows before or behind theirs.

    A task of recorded answers has looked at them itself.

    Args:
        models: by their key in the recipe.

    Raises:
        ConfigError: names the recording.
    """
    for where, (spec, backend) in models.items():
        if (
            BACKENDS[spec.name].replays
            and task.name != "recorded"
            and (by := await _shift(backend, task, template, rows))
        ):
            raise ConfigError(
                f"{where}: the answers of '{backend.name}' are right for the row {'behind' if by > 0 else 'before'} "
                "theirs; the recording is shifted by a row, put each answer beside its own prompt"
            )


async def _shift(backend: Backend, task: Task, template: PromptTemplate, rows: Sequence[Row]) -> int:
    """As `shifted`; 0 where prompts are missing, of which others say more."""
    places = sorted({place for some in rows_looked_at(len(rows)) for place in some})
    prompts = [template.conversation(rows[place].question) for place in places]
    answers = dict(zip(places, await complete_all(backend, prompts, Sampling()), strict=True))
    texts = {place: answer.text for place, answer in answers.items() if isinstance(answer, Completion)}
    if len(texts) < len(places):
        return 0
    return shifted(lambda one, other: is_solved(judge(task, rows[other], texts[one])[0]), len(rows))
