"""How a model is to be asked: what it carries from its training, and what an option says against that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from selfroute.backends.as_trained import AsTrained
from selfroute.backends.base import Backend
from selfroute.backends.carried import carried_prompt
from selfroute.calls import CALL_FORM
from selfroute.config import (
    BACKENDS,
    STRATEGIES,
    EvaluateRecipe,
    Spec,
    algorithm_of,
    at,
    build,
    identity_of,
    load_values,
    make_task,
    model_value,
    policy_entry,
    trained_prompt,
    window_of,
)
from selfroute.config.serving import ServeRecipe
from selfroute.errors import ConfigError
from selfroute.prompts import PROMPT_FILE, TUNED, PromptTemplate, TrainedPrompt, find_template, is_tuned, read_tuned
from selfroute.strategies.base import Sides

__all__ = [
    "ANSWER_TOKENS",
    "Carried",
    "EvaluatedPrompt",
    "ServedPrompt",
    "carried",
    "check_room",
    "cloud_specs",
    "evaluated_prompt",
    "prompt_of_run",
    "recorded_prompt",
    "served_prompt",
    "shown_name",
    "tuned",
]

ANSWER_TOKENS = 512  # of one answer of an evaluation where neither recipe nor training says


def shown_name(spec: Spec) -> str:
    """What a model is called in the terminal and in health reports."""
    named = spec.options.get("name") or spec.options.get("model")
    return str(named or ":".join(filter(None, (spec.name, spec.value))))


# --- what a model carries ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Carried:
    """What is known of a model's training.

    Attributes:
        prompt: how it was asked; None if that is not known.
        line: what was read and where, for the terminal; empty for a kind of model that carries nothing.
        warnings: what does not fit the model.
    """

    prompt: TrainedPrompt | None
    line: str = ""
    warnings: tuple[str, ...] = ()

    def as_device(self) -> Carried:
        """Of a model in a device's place, see `TrainedPrompt.as_device`."""
        return self if self.prompt is None else replace(self, prompt=self.prompt.as_device())


def carried(spec: Spec, where: str) -> Carried:
    """Look for the prompt that a model was trained with: at its weights, or in the recipe of its run beside them.

    Args:
        where: its role, or the key of the recipe.

    Raises:
        ConfigError: an unknown kind of model, or a prompt that cannot be read.
    """
    if BACKENDS.find(spec.name, where=where).prompt is None:
        return Carried(None)
    name = f"{where} {shown_name(spec)}"
    if (found := trained_prompt(spec, where=where)) is not None:
        return Carried(found, f"{name}: asked as it was trained ({found.described()})")
    folder = Path(model_value(spec, where=where) or "").expanduser()
    if folder.name == "checkpoint" and (found := prompt_of_run(folder.parent)) is not None:
        said = f"no {PROMPT_FILE} beside the weights, so its run's config.yaml is followed ({found.described()})"
        return Carried(found, f"{name}: {said}")
    return Carried(None, f"{name}: how it was trained is not known, as there is no {PROMPT_FILE} with it")


def tuned(name: str, spec: Spec, where: str, *, key: str) -> Carried:
    """How a device is asked by the program of `tuned:FILE`, whatever it carries itself.

    Args:
        where: the device's role, or its key in the recipe.
        key: the template's key.

    Raises:
        ConfigError: the program cannot be read, or its prompts do not fit the device's window; or as `identity_of`.
    """
    found = read_tuned(name, where=key)
    check_room(found, window_of(spec, where=where), name=f"{where} {shown_name(spec)}", key=key)
    line = f"{where} {shown_name(spec)}: asked as {name.removeprefix(TUNED)} says ({found.described()})"
    if not found.tuned_for or (mine := identity_of(spec, where=where)) == found.tuned_for:
        return Carried(found, line)
    warning = (
        f"{key}: {name.removeprefix(TUNED)} was tuned for {found.tuned_for}, and {where} {shown_name(spec)} is {mine}; "
        "tune a program for this model"
    )
    return Carried(found, line, (warning,))


def check_room(prompt: TrainedPrompt, window: int | None, *, name: str, key: str) -> None:
    """See that the prompts of a program and their answers fit the device's window, as far as both are known.

    Raises:
        ConfigError: they do not; gives both numbers.
    """
    needed = (prompt.prompt_tokens or 0) + (prompt.max_tokens or 1)
    if prompt.prompt_tokens is not None and window is not None and needed > window:
        raise ConfigError(
            f"{key}: its prompts and answers take up to {needed:,} tokens, and {name} holds {window:,}; give it a "
            "longer context, or tune with fewer demonstrations"
        )


def prompt_of_run(run: Path) -> TrainedPrompt | None:
    """How the policy of a training run was asked, as far as the run's `config.yaml` tells: those of version 0.1 wrote
    no `selfroute.json`.
    """
    try:
        values = load_values(file := run / "config.yaml")
        algorithm = algorithm_of(values)
        recipe = build(at(algorithm.options), values, where=str(file))
        name = make_task(recipe.task).template
        template = find_template(name)
    except (ConfigError, KeyError, AttributeError):  # there is none, it is another version's, or its data are elsewhere
        return None
    if getattr(recipe, "role", "device") == "cloud":
        return TrainedPrompt(template=template, name=name, role="cloud", offers=False, handoff="")
    offers = algorithm.offers_handoff
    return TrainedPrompt(
        template=template,
        name=name,
        offers=offers,
        max_tokens=getattr(recipe, "max_new_tokens", None),
        share=getattr(recipe, "share", None) if offers else None,
        told_shares=tuple(getattr(recipe, "told_shares", ())),
    )


# --- what is evaluated ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedPrompt:
    """How one device of an evaluation is asked.

    Attributes:
        template: with the words that its questions are put into.
        max_tokens: most tokens of its answers, if not those of the evaluation.
        told_share: the share to name in its prompt; None names none.
        asks: what it writes to ask for the cloud, as in `TrainedPrompt`; None if that is not known.
        is_known: whether the template is that of its training.
        line: what was read, for the terminal; empty for a kind of model that carries nothing.
        warnings: options that contradict it.
    """

    template: PromptTemplate
    max_tokens: int | None = None
    told_share: float | None = None
    asks: str | None = None
    is_known: bool = False
    line: str = ""
    warnings: tuple[str, ...] = ()

    def sides(self, sides: Sides, device: Backend) -> Sides:
        """The sides of an evaluation with this device, asked so."""
        calls = self.asks == CALL_FORM
        plain = self.max_tokens is None and not calls
        asked = device if plain else AsTrained(device, max_tokens=self.max_tokens, calls=calls)
        return replace(sides, device=asked, template=self.template)


def evaluated_prompt(recipe: EvaluateRecipe, spec: Spec, where: str, template: PromptTemplate) -> EvaluatedPrompt:
    """How an evaluation asks a device: as the recipe's options say, else as it was trained.

    Args:
        where: the key of the recipe.
        template: that of the task, for a device whose training is not known.

    Raises:
        ConfigError: its prompt cannot be read.
    """
    given = recipe.template or recipe.task.options.get("template")
    found = tuned(given, spec, where, key="template") if is_tuned(given) else carried(spec, where).as_device()
    known = found.prompt
    told = recipe.share if recipe.tell_share else None
    if known is None:
        return EvaluatedPrompt(template=template, told_share=told, line=found.line)
    words = known.template if known.wrap else replace(known.template, user="{question}")
    return EvaluatedPrompt(
        template=words if given is None else template,
        max_tokens=known.max_tokens if recipe.max_tokens is None else None,
        told_share=recipe.share if recipe.tell_share is None and known.told_shares else told,
        asks=known.asks,
        is_known=given is None,
        line=found.line,
        warnings=(*found.warnings, *_evaluated_otherwise(recipe, spec, where, known, words, template)),
    )


def _evaluated_otherwise(
    recipe: EvaluateRecipe,
    spec: Spec,
    where: str,
    known: TrainedPrompt,
    words: PromptTemplate,
    template: PromptTemplate,
) -> Iterator[str]:
    given, is_told = recipe.template or recipe.task.options.get("template"), bool(known.told_shares)
    found: list[tuple[bool, str, object, str]] = [
        (given is not None and words != template, "template", given, f"template {known.name}"),
        (recipe.max_tokens not in (None, known.max_tokens), "max_tokens", recipe.max_tokens, f"{known.max_tokens}"),
        (recipe.temperature != known.temperature, "temperature", recipe.temperature, "greedy answers"),
        (recipe.tell_share not in (None, is_told), "tell_share", recipe.tell_share, f"{is_told}"),
    ]
    for is_other, key, value, was in found:
        if is_other and not (key == "max_tokens" and known.max_tokens is None):
            yield (
                f"{key}: {value} contradicts the training of {where} {shown_name(spec)}, which had {was}; leave it out "
                "to measure the model as it was trained"
            )


# --- what is recorded ----------------------------------------------------------------------------------------------


def recorded_prompt(spec: Spec, *, made_by: Spec) -> Carried:
    """How a device is asked whose answers are recorded: as the task's options say, else as it was trained.

    Args:
        made_by: the task.

    Raises:
        ConfigError: its prompt cannot be read.
    """
    found, given = carried(spec, "--backend"), made_by.options.get("template")
    if found.prompt is None or found.prompt.role == "cloud":
        return Carried(None, found.line)
    if given is None:
        return found
    return Carried(
        None,
        f"warning: template={given} contradicts the training of {shown_name(spec)} ({found.prompt.described()}); leave "
        "it out to record the model as it was trained",
    )


# --- what is served ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPrompt:
    """How a pair is asked behind the gateway.

    Attributes:
        template, wrap: the device's prompt, and whether questions are put into its words for both sides.
        device_last, cloud_last: whether a side sees the last question alone.
        strip_cloud_tags: whether the cloud's text is shown as the device's, without tags.
        max_tokens: most tokens of the device; None for what requests say.
        temperature: of the device where nobody says; None leaves it to its server.
        calls: whether the device calls for tokens inside its answers.
        told_share: the share to name in the prompt; None names none.
        lines: what was read, for the terminal.
        warnings: options that contradict it.
    """

    template: PromptTemplate
    wrap: bool
    device_last: bool
    cloud_last: bool
    strip_cloud_tags: bool
    max_tokens: int | None = None
    temperature: float | None = None
    calls: bool = False
    told_share: float | None = None
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def last_turn(self) -> bool:
        """Whether both sides see the last question alone."""
        return self.device_last and self.cloud_last

    def device(self, model: Backend | Callable[[], Backend]) -> Backend | Callable[[], Backend]:
        """The device, asked so, also one that is loaded later."""
        return self._asked(
            model, max_tokens=self.max_tokens, temperature=self.temperature, last=self.device_last, calls=self.calls
        )

    def cloud(self, model: Backend | Callable[[], Backend]) -> Backend | Callable[[], Backend]:
        """The cloud, likewise."""
        return self._asked(model, max_tokens=None, temperature=None, last=self.cloud_last)

    def _asked(
        self,
        model: Backend | Callable[[], Backend],
        *,
        max_tokens: int | None,
        temperature: float | None,
        last: bool,
        calls: bool = False,
    ) -> Backend | Callable[[], Backend]:
        alone = last and not self.last_turn  # else the gateway has cut the conversation for both
        if max_tokens is None and temperature is None and not (alone or calls):
            return model

        def asked(backend: Backend) -> Backend:
            return AsTrained(
                backend,
                max_tokens=max_tokens,
                temperature=temperature,
                last_turn=alone,
                shown=self.template.shown(),
                calls=calls,
            )

        return asked(model) if isinstance(model, Backend) else lambda: asked(model())


def served_prompt(recipe: ServeRecipe, *, wraps: bool = False) -> ServedPrompt:
    """How a serving recipe asks its models: as its options say, else as the models were trained.

    Args:
        wraps: whether questions to a device whose training is not known are put into the template's words.

    Raises:
        ConfigError: a prompt cannot be read, or `prompt.trained` names none.
    """
    device, clouds = _device(recipe), [carried(spec, "cloud") for spec in cloud_specs(recipe)]
    known, options = device.prompt, recipe.prompt
    template = find_template(options.template or "think") if known is None or options.template else known.template
    cloud_turns = {"all" if cloud.prompt is None else cloud.prompt.turns for cloud in clouds}
    plain = bool(clouds) and all(cloud.prompt is not None for cloud in clouds)
    device_turns = "all" if known is None else known.turns
    device_last = (options.turns or device_turns) == "last"
    made = ServedPrompt(
        template=template,
        wrap=(wraps if known is None else known.wrap) if options.wrap is None else options.wrap,
        device_last=device_last,
        cloud_last=device_last if not clouds else ({options.turns} if options.turns else cloud_turns) == {"last"},
        strip_cloud_tags=(options.cloud_tags or ("strip" if plain else "keep")) == "strip",
        max_tokens=options.max_tokens or (None if known is None else known.max_tokens),
        temperature=None if known is None else known.temperature,
        calls=known is not None and known.calls,
        told_share=None if known is None else _told_share(recipe, known),
        lines=_lines(device, clouds, options.template or "think"),
        warnings=() if known is None else (*device.warnings, *_contradictions(recipe, known)),
    )
    return made


def _device(recipe: ServeRecipe) -> Carried:
    place, template = recipe.prompt.trained, recipe.prompt.template
    if template is not None and is_tuned(template):
        return tuned(template, recipe.device, "device", key="prompt.template")
    if place is None:
        return carried(recipe.device, "device").as_device()
    found = carried_prompt(place)
    if found is None:
        raise ConfigError(
            f"prompt.trained: '{place}' holds no prompt of a training; name a checkpoint of selfroute train, or what "
            "selfroute export made of it"
        )
    line = f"device {shown_name(recipe.device)}: asked as {place} was trained ({found.described()})"
    return Carried(found, line).as_device()


def cloud_specs(recipe: ServeRecipe) -> list[Spec]:
    """The models that are asked as a cloud."""
    if recipe.clouds:
        return [cloud.model for cloud in recipe.clouds]
    return [] if recipe.cloud is None else [recipe.cloud]


def _lines(device: Carried, clouds: Sequence[Carried], template: str) -> tuple[str, ...]:
    known = [device.line, *(cloud.line for cloud in clouds if cloud.prompt)]
    if device.line and device.prompt is None:
        known[0] += f"; template {template}, or as prompt.template, prompt.wrap and prompt.turns say"
    return tuple(line for line in known if line)


def _told_share(recipe: ServeRecipe, known: TrainedPrompt) -> float | None:
    wanted = recipe.budget.share if recipe.budget else None
    return wanted if wanted is not None and known.told_shares else known.told_share


def _contradictions(recipe: ServeRecipe, known: TrainedPrompt) -> Iterator[str]:
    """What an operator has set against the training; the option holds, and the operator is told."""
    options, limits = recipe.prompt, recipe.limits
    other = options.template is not None and find_template(options.template) != known.template
    most = options.max_tokens
    entry = STRATEGIES.get(recipe.strategy.name)
    told = recipe.strategy.options.get("told_share")
    found: list[tuple[bool, str, object, str]] = [
        (other, "prompt.template", options.template, f"template {known.name or 'words of its own'}"),
        (options.wrap not in (None, known.wrap), "prompt.wrap", options.wrap, f"wrap: {known.wrap}"),
        (options.turns not in (None, known.turns), "prompt.turns", options.turns, f"turns: {known.turns}"),
        (
            None not in (most, known.max_tokens) and most != known.max_tokens,
            "prompt.max_tokens",
            most,
            f"max_tokens: {known.max_tokens}",
        ),
        (recipe.temperature not in (None, known.temperature), "temperature", recipe.temperature, "greedy answers"),
        (told is not None and not known.told_shares, "strategy.self_route.told_share", told, "no share in its prompt"),
    ]
    for name in ("default_tokens", "max_tokens"):
        value, longest = getattr(limits, name), most or known.max_tokens
        if value is not None and longest is not None:
            found.append((value < longest, f"limits.{name}", value, f"answers of up to {longest} tokens"))
    for is_other, key, value, was in found:
        if is_other:
            yield (
                f"{key}: {value} contradicts the training of device {shown_name(recipe.device)}, which had {was}; "
                "leave it out to serve the model as it was trained"
            )
    if entry is not None and entry.policy and not known.asks:
        yield (
            f"strategy: {recipe.strategy.name} offers a hand-off, and device {shown_name(recipe.device)} was trained "
            "without; take a router, a cascade or always_device"
        )
    elif entry is not None and entry.policy and known.asks != entry.handoff:
        yield (
            f"strategy: {recipe.strategy.name} listens for {entry.handoff}, and device {shown_name(recipe.device)} was "
            f"trained to ask with {known.asks}; take {policy_entry(known.asks).name}"
        )
