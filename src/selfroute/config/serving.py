"""The recipe of serving: its keys, and what is wrong with one before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from selfroute.backends.clouds import Mode as ChoiceMode
from selfroute.bounds import Bounds, Count, NotNegative, Positive, Rate
from selfroute.config.budgets import BudgetOptions, UsdLimits
from selfroute.config.values import Spec, build, load_values, parse_overrides
from selfroute.errors import ConfigError
from selfroute.gateway.access import is_loopback
from selfroute.gateway.request import Limits
from selfroute.gateway.service import MODES, Mode
from selfroute.prices import Price, Prices
from selfroute.prompts import find_template

__all__ = [
    "BreakerOptions",
    "ChooseOptions",
    "CloudOptions",
    "FeedbackOptions",
    "HandoffOptions",
    "PrivacyOptions",
    "PromptOptions",
    "ServeRecipe",
    "WaitOptions",
    "build_serve_recipe",
    "load_serve_recipe",
    "naming",
]

EMBEDDED_DEVICE, EMBEDDED_CLOUD = Spec("embedded", "device-gapg"), Spec("embedded", "cloud")
SELF_ROUTE, THOMPSON = Spec("self_route"), Spec("thompson")
Port = Annotated[int, Bounds(0, 65535)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """The device's prompt; what is null is as in the device's training, which it carries with its weights.

    Attributes:
        trained: whose training is followed: a checkpoint, an exported GGUF file or Modelfile, for a device behind a
            server of its own; null takes what the device carries.
        template: its system prompt, with the sentence that offers the hand-off; `tuned:FILE` is a tuned program; null
            is `think` where the training is not known.
        wrap: put the last user turn into the template's words; null does not where the training is not known.
        turns: what the models see of a conversation, all of it or the last question; null shows all of it to a model
            whose training is not known.
        max_tokens: most tokens of one answer of the device, also where a request allows more.
        cloud_tags: pass the cloud's `<answer>` tags on, or strip them as the device's; null strips those of a cloud
            that was trained here.
    """

    trained: str | None = None
    template: str | None = None
    wrap: bool | None = None
    turns: Literal["all", "last"] | None = None
    max_tokens: Count | None = None
    cloud_tags: Literal["keep", "strip"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffOptions:
    """What the cloud sees after a hand-off: the conversation alone, also what the device wrote, or only its message."""

    context: Literal["prompt", "attempt", "message"] = "prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyOptions:
    """What of a request may leave for the cloud; see docs/privacy.md.

    Attributes:
        kinds: by kind of value `send`, `redact` (a placeholder goes in its place) or `refuse` (the device answers);
            kinds that are not named are redacted.
        names: that the detectors look for, beside what has a form of its own.
        regions: countries, by two letters, whose telephones and personal numbers are known.
        restore: put the values back into what the cloud answers.
    """

    kinds: Mapping[str, Literal["send", "redact", "refuse"]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "ES", "IT", "NL")
    restore: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOptions:
    """Patience with the models, in seconds.

    Attributes:
        device_first_token_s, cloud_first_token_s: until the first piece of an answer; then the other side answers.
            null leaves it to the backend's own limit.
        load_s: how long a request waits for a device that is still loading.
        shutdown_s: how long streams may go on after the gateway was told to stop.
    """

    device_first_token_s: Positive | None = None
    cloud_first_token_s: Positive | None = None
    load_s: NotNegative = 60.0
    shutdown_s: Count = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOptions:
    """After `failures` in a row a model is left alone for `rest_s` seconds, then tried once."""

    failures: Count = 5
    rest_s: Positive = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOptions:
    """One of several clouds.

    Attributes:
        name: in traces, metrics and the log; no two share one.
        model: as `cloud` has it.
        prices: USD per million tokens.
        tags: what requests may ask for with `x-selfroute-tags`, e.g. `[eu, fast]`.
        context_tokens: its window; conversations that are longer go elsewhere. null knows of none.
    """

    name: str
    model: Spec
    prices: Price = field(default_factory=Price)
    tags: tuple[str, ...] = ()
    context_tokens: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseOptions:
    """Which of several clouds answers; see docs/several-clouds.md.

    Attributes:
        policy: how it is chosen: a policy of docs/several-clouds.md, or `{name: {option: value}}`.
        mode: `observe` asks the default and logs what the policy would have done, `act` does what it says.
        default: who answers in mode `observe`; null is the first one. `device` too, under `bandit_router`.
        explore: share of the requests that any candidate answers in mode `observe`, so that the log can be replayed.
        frozen: learn nothing more, and choose by what is known.
        usd_per_request: what a request may cost in the mean; a price of money moves until it does. null paces nothing.
        price_weight: a fixed price of money, quality per USD, in the place of `usd_per_request`.
        latency_weight: what a second is worth, in quality.
        most_usd: dearest quote that is asked at all; the cheapest candidate always is.
        tasks: kinds of work that `x-selfroute-task` may name.
        state: where what is learnt is kept and shared, as `budget.ledger`; null takes that, else `sqlite`.
        scope: keeps apart gateways that share a store.
        log: file of decisions and what came of them, for `selfroute replay`; null writes none.
        seed: of all draws.
    """

    policy: Spec = THOMPSON
    mode: ChoiceMode = "observe"
    default: str | None = None
    explore: Rate = 0.0
    frozen: bool = False
    usd_per_request: Positive | None = None
    price_weight: NotNegative | None = None
    latency_weight: NotNegative = 0.0
    most_usd: Positive | None = None
    tasks: tuple[str, ...] = ()
    state: Spec | None = None
    scope: str = "default"
    log: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackOptions:
    """Scores of answers, by `POST /v1/feedback`.

    Attributes:
        lifetime_s: how long an answer can be judged.
        limit: most answers that wait for it.
        per_minute: most pieces of one client, in one worker process.
        weights: how much a source counts: `verifier` (1 if not named), `user` (0.5), `failure` (0.25).
        task: a task whose verifier judges answers to its questions, of whatever client; null judges none.
        split: of that task.
        rows: most questions of it that are known.
    """

    lifetime_s: Positive = 86400.0
    limit: Count = 100_000
    per_minute: Count = 6000
    weights: Mapping[str, Positive] = field(default_factory=dict)
    task: Spec | None = None
    split: str = "test"
    rows: Count = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRecipe:
    """What `selfroute serve` needs; without a file it serves the embedded pair.

    Attributes:
        device: model on the device; `selfroute backends` shows how to write one.
        cloud: model in the cloud; null keeps every request on the device.
        clouds: several clouds in the place of `cloud`, among which `choose` says how to choose.
        strategy: how work is split, a name of `selfroute strategies` or `{name: {option: value}}`.
        privacy: what may leave for the cloud; null lets all of a request leave.
        budget: limits on cloud use, see docs/budget.md; null sets none.
        on_budget: what happens when the budget refuses: the device answers, or the client gets a 429.
        on_device_error: what happens when the device fails: the cloud answers, or the client is told.
        modes: what `x-selfroute-mode` may ask for.
        temperature: of requests that do not say; null leaves it to the model's server.
        prices: USD per million tokens, of `device` and `cloud`.
        host: address to listen on; any but this machine's own needs `api_keys`.
        port: 0 takes a free one.
        workers: processes that share the port; each loads its own in-process models.
        api_keys: client's name -> SHA-256 of its key; `selfroute key NAME` makes one.
        origins: web pages' origins that may ask, e.g. `https://app.example.com`.
        hosts: further names under which this machine is asked without keys, e.g. `host.docker.internal`.
        examples: questions that the dashboard offers; null takes some of the task that the device was trained on, where
            that is known.
        log: failures alone, a line per request, or also prompts and answers.
    """

    device: Spec = EMBEDDED_DEVICE
    cloud: Spec | None = EMBEDDED_CLOUD
    clouds: tuple[CloudOptions, ...] = ()
    choose: ChooseOptions = ChooseOptions()
    feedback: FeedbackOptions = FeedbackOptions()
    strategy: Spec = SELF_ROUTE
    prompt: PromptOptions = PromptOptions()
    handoff: HandoffOptions = HandoffOptions()
    privacy: PrivacyOptions | None = None
    budget: BudgetOptions | None = None
    on_budget: Literal["device", "reject"] = "device"
    on_device_error: Literal["cloud", "error"] = "cloud"
    modes: tuple[Mode, ...] = MODES
    temperature: NotNegative | None = None
    prices: Prices = field(default_factory=Prices)
    limits: Limits = field(default_factory=Limits)
    wait: WaitOptions = WaitOptions()
    breaker: BreakerOptions = BreakerOptions()
    host: str = "127.0.0.1"
    port: Port = 8000
    workers: Count = 1
    api_keys: Mapping[str, str] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    examples: tuple[str, ...] | None = None
    log: Literal["errors", "requests", "content"] = "errors"


def load_serve_recipe(path: Path | None, overrides: Sequence[str] = ()) -> ServeRecipe:
    """Read a serving recipe, or the one of the embedded pair, and check it.

    Raises:
        ConfigError: a key, value or combination is wrong; names it.
    """
    values = parse_overrides(overrides) if path is None else load_values(path, overrides)
    with naming(path):
        return build_serve_recipe(values, where=str(path or "serve"))


@contextmanager
def naming(file: Path | None) -> Iterator[None]:
    """Let errors of the configuration say which file they come from."""
    try:
        yield
    except ConfigError as error:
        if file is None or str(error).startswith(f"{file}:"):
            raise
        raise ConfigError(f"{file}: {error}") from error


def build_serve_recipe(values: Mapping[str, Any], *, where: str) -> ServeRecipe:
    """Check plain values, as `load_serve_recipe` does."""
    recipe = build(ServeRecipe, values, where=where)
    if recipe.prompt.template is not None:
        find_template(recipe.prompt.template, where="prompt.template")
    if not recipe.modes:
        raise ConfigError(f"modes: the list is empty; name some of {', '.join(MODES)}")
    _check_address(recipe.host, recipe.api_keys)
    if recipe.clouds:
        _check_clouds(recipe, values)
    return recipe


def _check_clouds(recipe: ServeRecipe, values: Mapping[str, Any]) -> None:
    if values.get("cloud") is not None:
        raise ConfigError("clouds: there is a cloud beside them; move it into the list, or leave it out")
    choose, usd = recipe.choose, recipe.budget is not None and recipe.budget.usd != UsdLimits()
    if choose.usd_per_request is not None and choose.price_weight is not None:
        raise ConfigError("choose: usd_per_request and price_weight are two prices of money; give one of them")
    needs_price = "budget.usd" if usd else "choose.usd_per_request" if choose.usd_per_request else None
    for cloud in recipe.clouds:
        if needs_price and cloud.prices == Price():
            raise ConfigError(f"clouds: '{cloud.name}' has no prices, and {needs_price} counts money; add prices: …")


def _check_address(host: str, api_keys: Mapping[str, str]) -> None:
    if not is_loopback(host) and not api_keys:
        raise ConfigError(
            f"host: {host} can be reached from other machines, so clients need keys; add api_keys "
            "(`selfroute key NAME` makes one), or listen on 127.0.0.1"
        )
