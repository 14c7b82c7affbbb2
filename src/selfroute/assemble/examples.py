"""Questions that the dashboard offers: some of the task that the served device was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selfroute.assemble.pieces import first_rows
from selfroute.config import BACKENDS, Spec, at, load_values, make_task, parse_spec
from selfroute.config.serving import ServeRecipe
from selfroute.errors import SelfRouteError

__all__ = ["example_questions"]

_MOST = 3
_LONGEST = 300  # characters; longer ones are no example to click on


def example_questions(recipe: ServeRecipe) -> tuple[str, ...]:
    """Those of the recipe, else the first test questions of the device's task; none where that is not known.

    A task whose data are elsewhere now gives none: a gateway starts without them.
    """
    if recipe.examples is not None:
        return recipe.examples
    try:
        task = _task_of(recipe.device)
        if task is None:
            return ()
        rows = first_rows(make_task(task, limit=_MOST), "test", _MOST)
    except (SelfRouteError, OSError):
        return ()
    return tuple(row.question for row in rows if len(row.question) <= _LONGEST)


def _task_of(device: Spec) -> Spec | None:
    """The task that a device is known for, or that the run behind its folder was trained on."""
    named = BACKENDS[device.name].task
    if named is not None and device.value is not None:
        find: Callable[[str], str] = at(named)
        return Spec(find(device.value))
    config = Path(device.value or "").expanduser().parent / "config.yaml"
    if not device.value or not config.is_file():
        return None
    return parse_spec(load_values(config).get("task"), "task")
