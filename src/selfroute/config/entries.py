"""What a recipe can name: one `Entry` says all there is to know of a thing, one `Table` holds those of a kind.

Whatever behaves differently for one thing than for another asks its entry; no other place looks at a name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar

from selfroute.bounds import suggest
from selfroute.errors import ConfigError, NotInstalled
from selfroute.handoff import HANDOFF_TEXT

__all__ = [
    "AlgorithmEntry",
    "BackendEntry",
    "Entry",
    "LedgerEntry",
    "StrategyEntry",
    "Table",
    "TaskEntry",
    "TunerEntry",
    "at",
    "not_installed",
]

E = TypeVar("E", bound="Entry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A thing that a recipe can name; places are written `module:attribute` and imported when first asked for.

    Attributes:
        name: as in recipes.
        place: what makes it: a class or a function, whose keyword arguments are its options.
        example: how a recipe writes it, in YAML; the name alone if empty.
        summary: what it is; if empty, the first paragraph of the docstring at `place`.
        options: place of the dataclass of its options in a recipe; None for the arguments of `place`.
        check: place of a function that refuses a value before anything heavy is imported.
        given: arguments of `place` that the program fills in, and no recipe.
        extra: what to install if a library is missing, as in `pip install 'selfroute[EXTRA]'`.
    """

    name: str
    place: str
    example: str = ""
    summary: str = ""
    options: str | None = None
    check: str | None = None
    given: tuple[str, ...] = ()
    extra: str = "train"

    @property
    def written(self) -> str:
        """How a recipe writes it."""
        return self.example or self.name

    def described(self) -> str:
        """What it is, on one line; imports the place if only its docstring says so."""
        text = self.summary or (inspect.getdoc(at(self.place)) or "").split("\n\n")[0]
        return " ".join(text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry(Entry):
    """A task.

    Attributes:
        drawn: it draws its problems, so the run's seed and limit choose them. Elsewhere `seed` moves the held-out
            rows, which must not change between training and evaluation.
        writer: place of what writes completions to imitate, from the task, a `TraceStyle` and a role; None if nothing
            does.
        stepwise: its tasks judge steps; see `selfroute.tasks.base.Stepwise`.
    """

    drawn: bool = False
    writer: str | None = None
    stepwise: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerEntry(Entry):
    """A way to tune a prompt.

    Attributes:
        kind: `team`: workers with a consensus; `alone`: a `selfroute.tuning.base.Tuner` over all slots; `texts`: it
            writes instructions of its own and has no use for slots.
    """

    kind: Literal["team", "alone", "texts"] = "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEntry(Entry):
    """A kind of model.

    Attributes:
        in_process: its weights are loaded into this process: a gateway opens its port before that, a dry run leaves
            it be. Any other is ready as soon as it is made.
        remote: it is behind an endpoint, which a limit of requests per minute spares.
        replays: it holds one answer per prompt, so asking it again says nothing new.
        prompt: place of the function that gives the prompt a value was trained with, as
            `selfroute.prompts.TrainedPrompt` or None, without loading the model; None if a value has no such thing.
        task: place of the function that says which task a value's model was made for; its questions are offered as
            examples. None if that is not known from the value.
        identity: place of the function that tells a value's model from others without loading it; None takes the
            name and value of one in this process, and what any other says of itself.
        window: place of the function that says how many tokens a value's model holds; None where nobody knows.
        files: place of the function that says where a value's weights lie, as `selfroute.backends.files.ModelFiles`,
            for training and export; None if a recipe of training cannot name it.
    """

    in_process: bool = False
    remote: bool = False
    replays: bool = False
    prompt: str | None = None
    task: str | None = None
    identity: str | None = None
    window: str | None = None
    files: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyEntry(Entry):
    """A way to split work between device and cloud.

    Attributes:
        reads: what its score is of, the question alone or the device's answer too; what scores at or above a
            threshold is sent. None for a strategy without such a score.
        fit: place of what fits the score on train rows; None if nothing is fitted. Of `kind` (the name), `examples`,
            `seed`, `embedding` and `encoder` it gets what it has arguments for.
        stored: place of what reads a fitted score from its file.
        stored_in_folder: a fitted score is a folder, not a file.
        pretrained: the score loads a model of transformers.
        asks_again: the device is asked several times for one request.
        policy: the device model itself decides; an evaluation names it under `policies`.
        handoff: what a policy of its kind writes to ask for the cloud; see `selfroute.prompts.TrainedPrompt`.
        without_cloud: the strategy that takes its place where there is no cloud; None if that is an error.
        several: the policy of several clouds decides, and the device is one more of its arms; only a gateway has such.
        free: a baseline that nobody has to work for: it learns nothing, and looks at no answer.
    """

    reads: Literal["question", "answer"] | None = None
    fit: str | None = None
    stored: str = "selfroute.scores.scorers:Scorer.load"
    stored_in_folder: bool = False
    pretrained: bool = False
    asks_again: bool = False
    policy: bool = False
    handoff: str = HANDOFF_TEXT
    without_cloud: str | None = None
    several: bool = False
    free: bool = False

    @property
    def fitted(self) -> bool:
        """Whether its score is learned from train rows."""
        return self.fit is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsEntry(Entry):
    """Where pairs of answers come from.

    Attributes:
        asks: its option that names a model, which is asked for them where it is set.
    """

    given: tuple[str, ...] = ("task", "seed")
    asks: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmEntry(Entry):
    """A way to train; `place` runs its recipe and gives the folder of the trained model.

    Beside the recipe it takes `on_progress`, called with step, steps and metrics, and `say`, for lines before the work.

    Attributes:
        options: place of the dataclass of its recipe.
        offers_handoff: its prompts offer the hand-off; the trainer asks the cloud where a rollout takes it.
        strategy: that serves what it trains, as a recipe has it, with FOLDER for the trained folder; none for the first
            choice of a serving recipe.
        leaves: kind of backend that its folder is; none if it is no model to be asked.
        beside: key of its recipe that names the cloud of what it trains.
        dry_run: place of what checks a recipe and predicts its size without running it.
        no_dry_run: why there is none.
    """

    options: str = "selfroute.config.training:TrainRecipe"
    place: str = "selfroute.assemble.training:train_recipe"
    offers_handoff: bool = True
    strategy: str = ""
    leaves: str = "transformers"
    beside: str = "cloud"
    dry_run: str = "selfroute.assemble.dry_run:dry_run"
    no_dry_run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry(Entry):
    """Where counters are kept.

    Attributes:
        journal: place of the journal that lies there too, with the same options.
    """

    journal: str


class Table(dict[str, E]):
    """The things of a kind by name, in the order in which they are listed.

    Args:
        kind: what one of them is called in messages.
        entries: each under its own name.
        of_path: how a path is written, for who names one in place of an entry.
    """

    def __init__(self, kind: str, *entries: E, of_path: str = "") -> None:
        super().__init__((entry.name, entry) for entry in entries)
        self.kind, self.of_path = kind, of_path

    def find(self, name: str, *, where: str) -> E:
        """The entry of a name.

        Args:
            where: the key of the recipe, for the message.

        Raises:
            ConfigError: there is none; names the nearest.
        """
        if name not in self:
            near = f"; {self.of_path}" if self.of_path and "/" in name else suggest(name, self)
            raise ConfigError(f"{where}: unknown {self.kind} '{name}'{near}; known: {', '.join(self)}")
        return self[name]

    def resolve(self, name: str, *, where: str) -> Callable[..., Any]:
        """Import what makes the thing of a name.

        Raises:
            ConfigError: the name is unknown, or the library behind it is not installed.
        """
        entry = self.find(name, where=where)
        try:
            found: Callable[..., Any] = at(entry.place)
        except ModuleNotFoundError as error:
            raise not_installed(error, f"{self.kind} '{name}'", entry) from error
        return found


def at(place: str) -> Any:
    """Import what stands at `module:attribute`."""
    module, _, attribute = place.partition(":")
    found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def not_installed(error: ModuleNotFoundError, what: str, entry: Entry) -> NotInstalled:
    """The error for a library that `what` needs, with what to install for it; a fault of our own is raised again."""
    missing = (error.name or "a library").partition(".")[0]
    if missing == "selfroute":
        raise error
    command = f"pip install 'selfroute[{entry.extra}]'"
    return NotInstalled(f"{what} needs '{missing}', which is not installed", command=command)
