"""What an evaluation or a fit keeps of its strategies, and the serving recipe that is made of it.

OUT/strategies.json  how each strategy that can be served was made: its device, threshold, scorer, prompt
OUT/fitted/          the fitted scorers
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import yaml

from selfroute.assemble.prompting import ANSWER_TOKENS, EvaluatedPrompt
from selfroute.config import STRATEGIES, EvaluateRecipe, make_strategy, to_values
from selfroute.config.serving import build_serve_recipe
from selfroute.errors import ConfigError
from selfroute.prompts import TEMPLATES, is_tuned
from selfroute.strategies.base import Knobbed

if TYPE_CHECKING:
    from selfroute.assemble.baselines import Baseline

__all__ = [
    "KEPT_FILE",
    "Point",
    "Ranked",
    "Savable",
    "Served",
    "is_knobbed",
    "keep",
    "point_at",
    "ranked_at",
    "read_kept",
    "served_values",
    "write_serving",
]

KEPT_FILE = "strategies.json"
FITTED = "fitted"
_FORMAT = 1
_POLICY = "self_route"
_TOKENS = "cloud_tokens"  # the axis along which thresholds are chosen where one answer has both writers


@runtime_checkable
class Savable(Protocol):
    """A scorer that can be kept in a file or folder."""

    def save(self, path: Path, /) -> None: ...


def keep(
    out: Path, recipe: EvaluateRecipe, baselines: Sequence[Baseline], asked: Mapping[str, EvaluatedPrompt]
) -> None:
    """Write the fitted scorers, and what a server needs to know of every strategy that can be served.

    Args:
        asked: how the models were asked, by their key in the recipe.
    """
    values = to_values(recipe)
    kept: dict[str, Any] = {}
    for made in baselines:
        options: dict[str, Any] = {} if made.threshold is None else {"threshold": made.threshold}
        if made.scorer is not None:
            if not isinstance(made.scorer, Savable):
                continue  # of a newcomer that keeps nothing
            place = out / FITTED / f"{made.name}{made.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            made.scorer.save(place)
            options["scorer"] = str(place.relative_to(out))
        if options:
            kept[made.name] = {
                "strategy": made.name,
                "options": options,
                "device": values["device"],
                "prompt": _prompt(recipe, asked["device"]),
            }
    for name, spec in values["policies"].items():
        prompt = asked[f"policies.{name}"]
        told = {} if prompt.told_share is None else {"told_share": prompt.told_share}
        kept[name] = {"strategy": _POLICY, "options": told, "device": spec, "prompt": _prompt(recipe, prompt)}
    for name, spec in values["entrants"].items():
        strategy = make_strategy(recipe.entrants[name], where=f"entrants.{name}")
        if getattr(strategy, "oracle", False):
            continue  # it decides by what no server knows
        ((kind, inner),) = spec.items()
        kept[name] = {
            "strategy": kind,
            "options": inner or {},
            "device": values["device"],
            "prompt": _prompt(recipe, asked["device"]),
            "knob": strategy.knob if isinstance(strategy, Knobbed) else None,
        }
    whole = {
        "selfroute": _FORMAT,
        "cloud": values["cloud"],
        "temperature": recipe.temperature,
        "context": recipe.context,
        "strategies": kept,
    }
    (out / KEPT_FILE).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _prompt(recipe: EvaluateRecipe, asked: EvaluatedPrompt) -> dict[str, Any]:
    """The section `prompt` of a serving recipe under which a device is asked as it was here."""
    said: dict[str, Any] = {}
    if not asked.is_known:
        given = recipe.template or recipe.task.options.get("template")
        named = (name for name, template in TEMPLATES.items() if template == asked.template)
        name = given if is_tuned(given) else next(named, None)
        said = {"wrap": True} if name is None else {"template": name, "wrap": True}
    if asked.max_tokens is None:
        said["max_tokens"] = recipe.max_tokens or ANSWER_TOKENS
    return said


def read_kept(folder: Path) -> dict[str, Any]:
    """What `keep` wrote.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    file = folder / KEPT_FILE
    try:
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if kept["selfroute"] != _FORMAT:
            raise ConfigError(f"{file}: it has format {kept['selfroute']}, this version reads {_FORMAT}")
        dict(kept["strategies"])
    except FileNotFoundError:
        raise ConfigError(
            f"'{folder}' holds no {KEPT_FILE}, which evaluations of earlier versions did not write; run selfroute "
            "evaluate with its recipe again, which asks no model anew"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read '{file}': {error}; run selfroute evaluate again") from None
    return kept


# --- which one -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranked:
    """A strategy that can be served, and how many of n prompts it gets right at a call share."""

    name: str
    right: float
    n: int


def ranked_at(folder: Path, share: float, *, seed: int = 0) -> list[Ranked]:
    """The strategies of an evaluation that have a score and can be served, best first.

    Raises:
        ConfigError: none can, or the records cannot be read.
    """
    import numpy as np

    from selfroute.evaluation.counting.columns import read_columns
    from selfroute.evaluation.counting.metrics import calls_at
    from selfroute.evaluation.counting.split import splits_of

    path, known = folder / "records.jsonl", read_kept(folder)["strategies"]
    splits = splits_of(read_columns(path), seed=seed, where=str(path)).splits
    found = [
        Ranked(
            split.name, float(np.where(split.sent(calls_at(share, len(split))), split.cloud, split.device).mean()), n
        )
        for split in splits
        if split.name in known and split.point is None and (n := len(split)) and not np.isnan(split.score).all()
    ]
    if not found:
        raise ConfigError(
            f"'{folder}' holds no strategy with a score that can be served; add e.g. strategies=[answer_features] or a "
            "policy to its recipe"
        )
    return sorted(found, key=lambda ranked: -ranked.right)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a strategy in which both sides write one answer, and what came of it.

    Attributes:
        value: where its knob stands.
        share: of the tokens that the cloud writes where it answers alone.
        right: mean quality of the answers.
    """

    value: float
    share: float
    right: float


def is_knobbed(folder: Path, name: str) -> bool:
    """Whether a strategy of an evaluation was run at several points, and can be served at one of them."""
    if not (folder / KEPT_FILE).is_file():
        return False
    return bool(read_kept(folder)["strategies"].get(name, {}).get("knob"))


def point_at(folder: Path, name: str, share: float) -> Point:
    """The best of a strategy's points that spend at most a share of the cloud's tokens.

    Raises:
        ConfigError: the folder does not tell what points spend, or none spends so little.
    """
    try:
        axes = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["axes"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot read '{folder / 'summary.json'}': {error}; run selfroute evaluate again") from None
    along = next((axis for axis in axes if axis["axis"] == _TOKENS), None)
    if along is None or not along["cloud_spent"]:
        mend = f"selfroute report {folder} axes=[calls,{_TOKENS}]"
        raise ConfigError(f"'{folder}' was not compared along the cloud's tokens; run {mend}")
    line = next(line for line in along["lines"] if line["name"] == name)
    points = [
        Point(one["point"], one["spent"] / along["cloud_spent"], one["accuracy"])
        for one in line["points"]
        if one["spent"] is not None
    ]
    within = [point for point in points if point.share <= share]
    if not within:
        least = min(points, key=lambda point: point.share)
        raise ConfigError(
            f"--share: no point of '{name}' spends at most {100 * share:g} % of the cloud's tokens; the least is "
            f"{100 * least.share:.1f} %, at {least.value:g}"
        )
    return max(within, key=lambda point: (point.right, -point.share))


# --- the recipe ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """A serving recipe to write: its keys, and the lines of comment above them."""

    values: Mapping[str, Any]
    about: tuple[str, ...] = ()


def served_values(
    folder: Path, name: str, *, threshold: float | None = None, share: float | None = None, point: float | None = None
) -> dict[str, Any]:
    """The keys of a serving recipe that does what a strategy did.

    Args:
        threshold: least score that is sent; None for a policy without scores, which is held to `share` by a budget.
        point: where the knob of a strategy that has one stands.

    Raises:
        ConfigError: there is no such strategy, or neither threshold nor share can hold it.
    """
    kept = read_kept(folder)
    if name not in kept["strategies"]:
        known = ", ".join(kept["strategies"]) or "none"
        raise ConfigError(f"--strategy: '{name}' cannot be served from '{folder}'; those that can: {known}")
    one = kept["strategies"][name]
    options = dict(one["options"])
    if Path(options.get("scorer", "")).parts[:1] == (FITTED,):  # else it is a scorer's name
        options["scorer"] = str(folder / options["scorer"])
    if threshold is not None:
        options["threshold"] = threshold
    if point is not None:
        options.pop("points", None)
        options[one["knob"]] = int(point) if point.is_integer() else point
    values: dict[str, Any] = {"device": one["device"], "cloud": kept["cloud"]}
    values["strategy"] = {one["strategy"]: options} if options else one["strategy"]
    if threshold is None and point is None and STRATEGIES[one["strategy"]].policy:
        if share is None:
            raise ConfigError(f"--serve: '{name}' has no scores, so only --share can hold it, by a budget; give one")
        values["budget"] = {"share": share}
    values["prompt"] = one["prompt"]
    values["temperature"] = kept["temperature"]
    values["handoff"] = {"context": kept["context"]}
    if not values["prompt"]:
        del values["prompt"]
    if kept["context"] == "prompt":
        del values["handoff"]
    return values


def write_serving(file: Path, served: Served, *, force: bool = False) -> None:
    """Write a serving recipe once it is known to be one.

    Raises:
        ConfigError: the file is there and may not be replaced, or cannot be written.
    """
    if file.exists() and not force:
        raise ConfigError(f"--serve: '{file}' is there already; add --force to replace it, or name another file")
    build_serve_recipe(served.values, where=str(file))
    head = "".join(f"# {line}\n" for line in (f"selfroute serve {file}", "", *served.about))
    body = yaml.safe_dump(_plain(served.values), sort_keys=False, allow_unicode=True, width=120)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(head.replace("# \n", "#\n") + body, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--serve: cannot write '{file}': {error.strerror or error}") from None


def _plain(value: Any) -> Any:
    """For YAML: no numpy numbers, and whole numbers where nothing is lost."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, float) and not math.isnan(value) else value
