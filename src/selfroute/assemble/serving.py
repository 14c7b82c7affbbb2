"""`selfroute serve` and `cloud`: from a recipe to a gateway, and from a gateway to a server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.backends.base import Backend
from selfroute.config import BACKENDS, STRATEGIES, Spec, asked_for, make_budget, make_strategy, prepare_backend
from selfroute.config.recipes import CountLimits, UsdLimits
from selfroute.config.serving import ServeRecipe, load_serve_recipe, naming
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.gateway.access import Access, is_loopback
from selfroute.gateway.guard import Guard
from selfroute.gateway.request import Limits
from selfroute.gateway.service import Service, SingleService
from selfroute.prompts import TEMPLATES
from selfroute.shipped import recipe_file
from selfroute.strategies.base import Strategy, check_cloud

if TYPE_CHECKING:  # what serves needs more packages than what answers
    from selfroute.gateway.activity import Activity
    from selfroute.gateway.app import Gateway

__all__ = ["BUDGETED_TOKENS", "ShareFollower", "backend_gateway", "make_gateway", "make_service", "serve_recipe"]

BUDGETED_TOKENS = 4096  # `limits.default_tokens` under a budget of tokens or money, if the recipe sets none


def serve_recipe(
    recipe: ServeRecipe,
    *,
    backend: Spec | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None],
    check: bool = False,
) -> None:
    """Serve until a signal ends it; streams that are under way come to their end.

    Args:
        backend: serve this model alone instead of the recipe's pair.
        file: where the recipe comes from; errors name it, and its `budget.share` may change meanwhile.
        overrides: what was changed of it on the command line.
        say: gets the lines for the terminal.
        check: load everything, and stop there.

    Raises:
        ConfigError: something is wrong with the recipe, a model cannot be loaded, or the port is in use.
    """
    from selfroute.gateway import server

    make = partial(_named_gateway, recipe, backend, file, tuple(overrides))
    if check:
        server.check(make)
        say("the configuration is right and its models load")
        return
    server.serve(
        make,
        host=recipe.host,
        port=recipe.port,
        workers=recipe.workers,
        shutdown_s=recipe.wait.shutdown_s,
        quiet=recipe.log == "errors",
        ready=lambda address: say(_banner(recipe, backend, address)),
    )


def _named_gateway(
    recipe: ServeRecipe, backend: Spec | None, file: Path | None, overrides: tuple[str, ...], **options: Any
) -> Gateway:
    """The pair's gateway or that of one model alone, also in a worker process; errors name the file."""
    with naming(file):
        if backend is not None:
            return backend_gateway(backend, recipe, **options)
        follow = None if file is None else ShareFollower(file, overrides)
        return make_gateway(recipe, follow=follow, **options)


def _banner(recipe: ServeRecipe, backend: Spec | None, address: str) -> str:
    if backend is not None:
        return f"serving {_named(backend)} on {address}/v1"
    cloud = "no cloud" if recipe.cloud is None else f"cloud {_named(recipe.cloud)}"
    return (
        f"serving {address}/v1 (device {_named(recipe.device)}, {cloud}, {recipe.strategy.name}); dashboard: {address}/"
    )


def _named(spec: Spec) -> str:
    return str(spec.options.get("model") or ":".join(filter(None, (spec.name, spec.value))))


# --- Recipes to objects ---------------------------------------------------------------------------------------------


def make_service(recipe: ServeRecipe) -> Service:
    """The pair behind the gateway; in-process models load later, in `Guard.load`.

    Raises:
        ConfigError: an unknown name or option, or a missing key.
    """
    device = _guard(recipe.device, "device", recipe, recipe.wait.device_first_token_s)
    cloud = None
    if recipe.cloud is not None:
        cloud = _guard(recipe.cloud, "cloud", recipe, recipe.wait.cloud_first_token_s)
    # Both models have been found by now, so their names are in the table.
    plain_device = BACKENDS[recipe.device.name].template_only
    plain_cloud = recipe.cloud is not None and BACKENDS[recipe.cloud.name].template_only
    both = plain_device and (plain_cloud or recipe.cloud is None)
    wrap = plain_device if recipe.prompt.wrap is None else recipe.prompt.wrap
    tags = recipe.prompt.cloud_tags or ("strip" if plain_cloud else "keep")
    turns = recipe.prompt.turns or ("last" if both else "all")
    strategy = _strategy(recipe)
    check_cloud(strategy, cloud)
    return Service(
        strategy=strategy,
        device=device,
        cloud=cloud,
        template=TEMPLATES[recipe.prompt.template],
        prices=recipe.prices,
        modes=frozenset(recipe.modes),
        budget=make_budget(recipe.budget),
        on_budget=recipe.on_budget,
        on_device_error=recipe.on_device_error,
        wrap=wrap,
        last_turn=turns == "last",
        strip_cloud_tags=tags == "strip",
    )


def _guard(spec: Spec, role: str, recipe: ServeRecipe, first_token_s: float | None) -> Guard:
    made = _model(spec, role)
    return Guard(
        str(spec.options.get("name") or spec.options.get("model") or ":".join(filter(None, (spec.name, spec.value)))),
        made,
        failures=recipe.breaker.failures,
        rest_s=recipe.breaker.rest_s,
        first_token_s=first_token_s,
        load_wait_s=recipe.wait.load_s,
    )


def _model(spec: Spec, role: str) -> Backend | Callable[[], Backend]:
    """A light model at once, as its faults should show before the port opens; a heavy one when it is loaded."""
    load = prepare_backend(spec, where=role)
    if BACKENDS[spec.name].in_process:
        return load
    backend = load()
    backend.check()
    return backend


def _strategy(recipe: ServeRecipe) -> Strategy:
    spec, context = recipe.strategy, {"context": recipe.handoff.context}
    if recipe.cloud is None and spec.name in STRATEGIES and (alone := STRATEGIES[spec.name].without_cloud):
        spec = Spec(alone)
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
    on_load_failure: Callable[[SelfRouteError], None] | None = None,
) -> Gateway:
    """The application that a recipe describes.

    Raises:
        ConfigError: as `make_service`.
    """
    from selfroute.gateway.app import Gateway

    share = recipe.budget.share if recipe.budget else None
    share = recipe.strategy.options.get("share") if share is None else share
    return Gateway(
        make_service(recipe),
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


def backend_gateway(spec: Spec, recipe: ServeRecipe, **options: Any) -> Gateway:
    """One model alone as an OpenAI-compatible endpoint; its prompt is the client's, and its text is not changed.

    Raises:
        ConfigError: an unknown name or option.
    """
    from selfroute.gateway.app import Gateway

    service = SingleService(backend=_guard(spec, "backend", recipe, recipe.wait.cloud_first_token_s))
    return Gateway(
        service, limits=recipe.limits, access=_access(recipe), log_content=recipe.log == "content", **options
    )


# --- Another share while it runs ------------------------------------------------------------------------------------


class ShareFollower:
    """Looks for another `budget.share` in the file of a running gateway; every worker looks for itself.

    Args:
        file: the recipe.
        overrides: of the command line, which still win.
    """

    def __init__(self, file: Path, overrides: Sequence[str] = ()) -> None:
        self.file = recipe_file(file)
        self.overrides = overrides
        self._stamp, self._share = self._changed(), self._read()

    def __call__(self) -> float | None:
        """The new share; None if it is the old one, or cannot be read."""
        stamp = self._changed()
        if stamp is None or stamp == self._stamp:
            return None
        self._stamp = stamp
        share = self._read()
        if share is None or share == self._share:
            return None
        self._share = share
        return share

    def _changed(self) -> int | None:
        try:
            return self.file.stat().st_mtime_ns
        except OSError:  # being replaced
            return None

    def _read(self) -> float | None:
        try:
            budget = load_serve_recipe(self.file, self.overrides).budget
        except ConfigError as error:
            logging.getLogger("selfroute.gateway").warning("the call share stays as it is: %s", error)
            return None
        return None if budget is None else budget.share
