"""`selfroute serve` and `cloud`: from a recipe to a gateway, and from a gateway to a server."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from selfroute.assemble.clouds import make_clouds, make_verifier
from selfroute.assemble.examples import example_questions
from selfroute.assemble.prompting import ServedPrompt, cloud_specs, served_prompt, shown_name
from selfroute.backends.base import Backend
from selfroute.backends.clouds import Clouds
from selfroute.backends.redacted import RedactedBackend
from selfroute.budget.shared import SharedBeliefs
from selfroute.config import BACKENDS, STRATEGIES, Spec, asked_for, make_budget, make_strategy, prepare_backend
from selfroute.config.budgets import CountLimits, UsdLimits
from selfroute.config.serving import CloudOptions, PrivacyOptions, ServeRecipe, load_serve_recipe, naming
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.gateway.access import Access, is_loopback
from selfroute.gateway.guard import Guard
from selfroute.gateway.request import Limits
from selfroute.gateway.service import Service, SingleService, Switch
from selfroute.shipped import recipe_file
from selfroute.strategies.base import Strategy, check_cloud

if TYPE_CHECKING:  # what serves needs more packages than what answers
    from selfroute.gateway.activity import Activity
    from selfroute.gateway.app import Gateway

__all__ = [
    "BUDGETED_TOKENS",
    "ShareFollower",
    "SwitchFollower",
    "backend_gateway",
    "make_gateway",
    "make_service",
    "prompt_lines",
    "serve_recipe",
]

T = TypeVar("T")

BUDGETED_TOKENS = 4096  # `limits.default_tokens` under a budget of tokens or money, if the recipe sets none


def serve_recipe(
    recipe: ServeRecipe,
    *,
    backend: Spec | None = None,
    layers: int | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None],
    check: bool = False,
) -> None:
    """Serve until a signal ends it; streams that are under way come to their end.

    Args:
        backend: serve this model alone instead of the recipe's pair.
        layers: of this model, serve those from this one on as well, from 0, to devices that hold the others.
        file: where the recipe comes from; errors name it, and its `budget.share` may change meanwhile.
        overrides: what was changed of it on the command line.
        say: gets the lines for the terminal.
        check: load everything, ask each model once, hold the budget against one call, and stop there.

    Raises:
        ConfigError: something is wrong with the recipe, a model cannot be loaded, or the port is in use.
        SelfRouteError: with `check`, a model does not answer, or the budget lets no call pass.
    """
    from selfroute.gateway import server
    from selfroute.gateway.preflight import preflight

    make = partial(_named_gateway, recipe, backend, layers, file, tuple(overrides))
    with naming(file):
        lines = [] if backend is not None else prompt_lines(served_prompt(recipe))
    if check:
        preflight(make, say=say)
        for line in lines:
            say(line)
        say("ready: the configuration is right, every model answers, and the budget lets calls pass")
        return
    server.serve(
        make,
        host=recipe.host,
        port=recipe.port,
        workers=recipe.workers,
        shutdown_s=recipe.wait.shutdown_s,
        quiet=recipe.log == "errors",
        ready=lambda address: say("\n".join([_banner(recipe, backend, address), *lines])),
    )


def _named_gateway(
    recipe: ServeRecipe,
    backend: Spec | None,
    layers: int | None,
    file: Path | None,
    overrides: tuple[str, ...],
    **options: Any,
) -> Gateway:
    """The pair's gateway or that of one model alone, also in a worker process; errors name the file."""
    with naming(file):
        if backend is not None:
            return backend_gateway(backend, recipe, layers=layers, **options)
        if file is None:
            return make_gateway(recipe, **options)
        switch = SwitchFollower(file, overrides) if recipe.clouds else None
        return make_gateway(recipe, follow=ShareFollower(file, overrides), switch=switch, **options)


def _banner(recipe: ServeRecipe, backend: Spec | None, address: str) -> str:
    if backend is not None:
        return f"serving {shown_name(backend)} on {address}/v1"
    cloud = "no cloud" if recipe.cloud is None else f"cloud {shown_name(recipe.cloud)}"
    if recipe.clouds:
        cloud = f"clouds {', '.join(cloud.name for cloud in recipe.clouds)}, {recipe.choose.mode}"
    pair = f"device {shown_name(recipe.device)}, {cloud}, {recipe.strategy.name}"
    return f"serving {address}/v1 ({pair}); dashboard: {address}/"


def prompt_lines(prompt: ServedPrompt) -> list[str]:
    """How the models are asked, and loudly what contradicts their training, for the terminal."""
    return [*prompt.lines, *(f"WARNING: {warning}" for warning in prompt.warnings)]


# --- Recipes to objects ---------------------------------------------------------------------------------------------


def make_service(recipe: ServeRecipe, *, wraps: bool = False) -> Service:
    """The pair behind the gateway; in-process models load later, in `Guard.load`.

    Args:
        wraps: as in `served_prompt`.

    Raises:
        ConfigError: an unknown name or option, or a missing key.
    """
    prompt = served_prompt(recipe, wraps=wraps)
    device = _guard(recipe.device, "device", recipe, recipe.wait.device_first_token_s, asked=prompt.device)
    cloud, learning = _cloud(recipe, prompt)
    strategy = _strategy(recipe, prompt.told_share)
    check_cloud(strategy, cloud)
    return Service(
        strategy=strategy,
        device=device,
        cloud=cloud,
        template=prompt.template,
        prices=recipe.prices,
        modes=frozenset(recipe.modes),
        budget=make_budget(recipe.budget),
        on_budget=recipe.on_budget,
        on_device_error=recipe.on_device_error,
        wrap=prompt.wrap,
        last_turn=prompt.last_turn,
        strip_cloud_tags=prompt.strip_cloud_tags,
        learning=learning,
        examples=example_questions(recipe),
    )


def _cloud(recipe: ServeRecipe, prompt: ServedPrompt) -> tuple[Guard | Clouds | None, SharedBeliefs | None]:
    """The cloud, or several and what they learn."""
    patience_s = recipe.wait.cloud_first_token_s
    if recipe.clouds:

        def guarded(cloud: CloudOptions) -> Guard:
            where = f"clouds.{cloud.name}"
            return _guard(cloud.model, where, recipe, patience_s, name=cloud.name, asked=prompt.cloud)

        return make_clouds(recipe, guarded)
    if recipe.cloud is None:
        return None, None
    return _guard(recipe.cloud, "cloud", recipe, patience_s, asked=prompt.cloud), None


def _guard(
    spec: Spec,
    role: str,
    recipe: ServeRecipe,
    first_token_s: float | None,
    *,
    name: str | None = None,
    asked: Callable[[Backend | Callable[[], Backend]], Backend | Callable[[], Backend]] = lambda model: model,
) -> Guard:
    made = asked(_model(spec, role, name))
    if role != "device" and recipe.privacy is not None:
        made = _behind_door(made, recipe.privacy)
    return Guard(
        name or shown_name(spec),
        made,
        failures=recipe.breaker.failures,
        rest_s=recipe.breaker.rest_s,
        first_token_s=first_token_s,
        load_wait_s=recipe.wait.load_s,
    )


def _behind_door(made: Backend | Callable[[], Backend], options: PrivacyOptions) -> Backend | Callable[[], Backend]:
    """A cloud that gets what may leave alone.

    Raises:
        ConfigError: an option is wrong, or a library is missing.
    """
    # Its patterns take a third of the gateway's start to compile.
    from selfroute.privacy.numbers import Numbers
    from selfroute.privacy.patterns import Patterns
    from selfroute.privacy.redaction import Redactor

    redactor = Redactor([Patterns(options.names), Numbers(options.regions)], options.kinds)

    def wrapped(backend: Backend) -> Backend:
        return RedactedBackend(backend, redactor, restore=options.restore)

    if isinstance(made, Backend):
        return wrapped(made)
    load = made
    return lambda: wrapped(load())


def _model(spec: Spec, role: str, name: str | None) -> Backend | Callable[[], Backend]:
    """A light model at once, as its faults should show before the port opens; a heavy one when it is loaded."""
    load = prepare_backend(spec, where=role, name=name)
    if BACKENDS[spec.name].in_process:
        return load
    backend = load()
    backend.check()
    return backend


def _strategy(recipe: ServeRecipe, told_share: float | None) -> Strategy:
    spec, context = recipe.strategy, {"context": recipe.handoff.context}
    if told_share is not None:
        told = asked_for(STRATEGIES.resolve(spec.name, where="strategy"), {"told_share": told_share})
        spec = replace(spec, options={**told, **spec.options})
    entry = STRATEGIES.find(spec.name, where="strategy")
    if not cloud_specs(recipe) and entry.without_cloud:
        spec = Spec(entry.without_cloud)
    if entry.several and not recipe.clouds:
        raise ConfigError(f"strategy: '{spec.name}' chooses among several clouds; write clouds: in the place of cloud:")
    if recipe.handoff.context == "prompt":
        return make_strategy(spec)
    if not asked_for(STRATEGIES.resolve(spec.name, where="strategy"), context):
        raise ConfigError(f"handoff.context: '{spec.name}' makes no attempt before it asks the cloud; use prompt")
    return make_strategy(replace(spec, options={**spec.options, **context}))


def make_gateway(
    recipe: ServeRecipe,
    *,
    activity: Activity | None = None,
    follow: Callable[[], float | None] | None = None,
    switch: Callable[[], Switch | None] | None = None,
    on_load_failure: Callable[[SelfRouteError], None] | None = None,
) -> Gateway:
    """The application that a recipe describes.

    Raises:
        ConfigError: as `make_service`.
    """
    from selfroute.gateway.app import Gateway

    share = recipe.budget.share if recipe.budget else None
    share = recipe.strategy.options.get("share") if share is None else share
    service = make_service(recipe)
    verifier = make_verifier(recipe.feedback, service.template) if recipe.clouds else None
    return Gateway(
        service,
        feedback_per_minute=recipe.feedback.per_minute,
        verifier=verifier,
        switch=switch,
        limits=_limits(recipe),
        access=_access(recipe),
        temperature=recipe.temperature,
        share=share if isinstance(share, float | int) else None,
        activity=activity,
        log_content=recipe.log == "content",
        follow=follow,
        on_load_failure=on_load_failure,
    )


def _limits(recipe: ServeRecipe) -> Limits:
    """Under a budget of tokens or money every call has a limit of its own, as what is reserved has to be enough."""
    budget, limits = recipe.budget, recipe.limits
    counts_tokens = budget is not None and (budget.tokens != CountLimits() or budget.usd != UsdLimits())
    if counts_tokens and limits.default_tokens is None:
        return replace(limits, default_tokens=min(BUDGETED_TOKENS, limits.max_tokens))
    return limits


def _access(recipe: ServeRecipe) -> Access:
    return Access(
        recipe.api_keys,
        local_only=is_loopback(recipe.host) and not recipe.api_keys,
        origins=recipe.origins,
        hosts=recipe.hosts,
    )


def backend_gateway(spec: Spec, recipe: ServeRecipe, *, layers: int | None = None, **options: Any) -> Gateway:
    """One model alone as an OpenAI-compatible endpoint; its prompt is the client's, and its text is not changed.

    Raises:
        ConfigError: an unknown name or option.
    """
    from selfroute.gateway.app import Gateway

    service = SingleService(backend=_guard(spec, "backend", recipe, recipe.wait.cloud_first_token_s))
    return Gateway(
        service,
        limits=recipe.limits,
        access=_access(recipe),
        log_content=recipe.log == "content",
        layers=layers,
        **options,
    )


# --- What may change while it runs ----------------------------------------------------------------------------------


class _Follower(ABC, Generic[T]):
    """Looks for another value in the file of a running gateway; every worker looks for itself.

    Args:
        file: the recipe.
        overrides: of the command line, which still win.
    """

    what: str

    def __init__(self, file: Path, overrides: Sequence[str] = ()) -> None:
        self.file = recipe_file(file)
        self.overrides = overrides
        self._stamp, self._value = self._changed(), self._read()

    @abstractmethod
    def of(self, recipe: ServeRecipe) -> T | None:
        """The value in a recipe; None if it sets none."""

    def __call__(self) -> T | None:
        """The new value; None if it is the old one, or cannot be read."""
        stamp = self._changed()
        if stamp is None or stamp == self._stamp:
            return None
        self._stamp = stamp
        value = self._read()
        if value is None or value == self._value:
            return None
        self._value = value
        return value

    def _changed(self) -> int | None:
        try:
            return self.file.stat().st_mtime_ns
        except OSError:  # being replaced
            return None

    def _read(self) -> T | None:
        try:
            recipe = load_serve_recipe(self.file, self.overrides)
        except ConfigError as error:
            logging.getLogger("selfroute.gateway").warning("%s as it is: %s", self.what, error)
            return None
        return self.of(recipe)


class ShareFollower(_Follower[float]):
    """Looks for another `budget.share`."""

    what = "the call share stays"

    def of(self, recipe: ServeRecipe) -> float | None:
        return None if recipe.budget is None else recipe.budget.share


class SwitchFollower(_Follower[Switch]):
    """Looks for another `choose.mode` or `choose.frozen`, or other prices of several clouds."""

    what = "the choice among clouds stays"

    def of(self, recipe: ServeRecipe) -> Switch | None:
        prices = tuple((cloud.name, cloud.prices) for cloud in recipe.clouds)
        return Switch(recipe.choose.mode, recipe.choose.frozen, prices)
