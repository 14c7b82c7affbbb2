"""A serving recipe to a running gateway: models, strategy and limits put together, sockets, worker processes."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from selfroute.backends.base import Backend
from selfroute.config import (
    BACKENDS,
    STRATEGIES,
    Bounds,
    BudgetOptions,
    Count,
    NotNegative,
    Positive,
    Spec,
    asked_for,
    build,
    load_values,
    make_budget,
    make_strategy,
    parse_overrides,
    prepare_backend,
    suggest,
    to_values,
)
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.gateway.access import Access, is_loopback
from selfroute.gateway.activity import Activity
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard
from selfroute.gateway.request import Limits
from selfroute.gateway.service import MODES, Mode, Service, SingleService
from selfroute.prices import Prices
from selfroute.prompts import TEMPLATES
from selfroute.strategies.base import Sides, Strategy, check_sides

__all__ = [
    "ServeRecipe",
    "ShareFollower",
    "backend_gateway",
    "build_recipe",
    "check_worker",
    "load_serve_recipe",
    "make_gateway",
    "make_service",
    "naming",
    "serve",
    "worker",
]

_WORKER = "SELFROUTE_WORKER"  # how a worker process learns what to serve
EMBEDDED_DEVICE, EMBEDDED_CLOUD = Spec("embedded", "device-gapg"), Spec("embedded", "cloud")
SELF_ROUTE = Spec("self_route")
Port = Annotated[int, Bounds(0, 65535)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """The device's prompt.

    Attributes:
        template: its system prompt, with the sentence that offers the hand-off.
        wrap: put the last user turn into the template's words, as in training; null does so for embedded devices.
        turns: what the models see of a conversation, all of it or the last question; null keeps the last question for
            the embedded pair, which was trained on one.
        cloud_tags: pass the cloud's `<answer>` tags on, or strip them as the device's; null strips those of the
            embedded cloud.
    """

    template: str = "think"
    wrap: bool | None = None
    turns: Literal["all", "last"] | None = None
    cloud_tags: Literal["keep", "strip"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffOptions:
    """What the cloud sees after a hand-off: the conversation alone, or also what the device wrote."""

    context: Literal["prompt", "attempt"] = "prompt"


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
class ServeRecipe:
    """What `selfroute serve` needs; without a file it serves the embedded pair.

    Attributes:
        device: model on the device; `selfroute backends` shows how to write one.
        cloud: model in the cloud; null keeps every request on the device.
        strategy: how work is split, a name of `selfroute strategies` or `{name: {option: value}}`.
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
        log: failures alone, a line per request, or also prompts and answers.
    """

    device: Spec = EMBEDDED_DEVICE
    cloud: Spec | None = EMBEDDED_CLOUD
    strategy: Spec = SELF_ROUTE
    prompt: PromptOptions = PromptOptions()
    handoff: HandoffOptions = HandoffOptions()
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
    log: Literal["errors", "requests", "content"] = "errors"


def load_serve_recipe(path: Path | None, overrides: Sequence[str] = ()) -> ServeRecipe:
    """Read a serving recipe, or the one of the embedded pair, and check it.

    Raises:
        ConfigError: a key, value or combination is wrong; names it.
    """
    values = parse_overrides(overrides) if path is None else load_values(path, overrides)
    with naming(path):
        return build_recipe(values, where=str(path or "serve"))


@contextmanager
def naming(file: Path | None) -> Iterator[None]:
    """Let errors of the configuration say which file they come from."""
    try:
        yield
    except ConfigError as error:
        if file is None or str(error).startswith(f"{file}:"):
            raise
        raise ConfigError(f"{file}: {error}") from error


def build_recipe(values: Mapping[str, Any], *, where: str) -> ServeRecipe:
    """Check plain values, as `load_serve_recipe` does."""
    recipe = build(ServeRecipe, values, where=where)
    if recipe.prompt.template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        wrong = recipe.prompt.template
        raise ConfigError(f"prompt.template: unknown template '{wrong}'{suggest(wrong, TEMPLATES)}; known: {known}")
    if not recipe.modes:
        raise ConfigError(f"modes: the list is empty; name some of {', '.join(MODES)}")
    _check_address(recipe.host, recipe.api_keys)
    return recipe


def _check_address(host: str, api_keys: Mapping[str, str]) -> None:
    if not is_loopback(host) and not api_keys:
        raise ConfigError(
            f"host: {host} can be reached from other machines, so clients need keys; add api_keys "
            "(`selfroute key NAME` makes one), or listen on 127.0.0.1"
        )


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
    check_sides(strategy, Sides(device=device, cloud=cloud))
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
    share = recipe.budget.share if recipe.budget else None
    share = recipe.strategy.options.get("share") if share is None else share
    return Gateway(
        make_service(recipe),
        limits=recipe.limits,
        access=_access(recipe.api_keys, recipe.host, recipe.origins),
        temperature=recipe.temperature,
        share=share if isinstance(share, float | int) else None,
        activity=activity,
        log_content=recipe.log == "content",
        follow=follow,
        on_load_failure=on_load_failure,
    )


def _access(api_keys: Mapping[str, str], host: str, origins: Sequence[str]) -> Access:
    return Access(api_keys, local_only=is_loopback(host) and not api_keys, origins=origins)


def backend_gateway(spec: Spec, recipe: ServeRecipe, **options: Any) -> Gateway:
    """One model alone as an OpenAI-compatible endpoint; its prompt is the client's, and its text is not changed.

    Raises:
        ConfigError: an unknown name or option.
    """
    service = SingleService(backend=_guard(spec, "backend", recipe, recipe.wait.cloud_first_token_s))
    access = _access(recipe.api_keys, recipe.host, recipe.origins)
    return Gateway(service, limits=recipe.limits, access=access, log_content=recipe.log == "content", **options)


# --- Serving --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What one process serves: a recipe's pair or one model alone, and the file that errors name."""

    recipe: ServeRecipe
    backend: Spec | None = None
    file: Path | None = None
    overrides: tuple[str, ...] = ()

    def app(self, **options: Any) -> Gateway:
        with naming(self.file):
            if self.backend is not None:
                return backend_gateway(self.backend, self.recipe, **options)
            follow = None if self.file is None else ShareFollower(self.file, self.overrides)
            return make_gateway(self.recipe, follow=follow, **options)


class ShareFollower:
    """Looks for another `budget.share` in the file of a running gateway; every worker looks for itself.

    Args:
        file: the recipe.
        overrides: of the command line, which still win.
    """

    def __init__(self, file: Path, overrides: Sequence[str] = ()) -> None:
        self.file = file
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


def serve(
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
    job = _Job(recipe=recipe, backend=backend, file=file, overrides=tuple(overrides))
    if check:
        _check(job)
        say("the configuration is right and its models load")
        return
    sock = _bind(recipe.host, recipe.port)
    with sock:
        address = f"http://{_in_url(recipe.host)}:{sock.getsockname()[1]}"
        if recipe.workers > 1:
            _serve_many(job, sock, lambda: say(_banner(recipe, backend, address)))
            return
        _quiet_logs(recipe.log)
        failures: list[SelfRouteError] = []
        server: Any = None

        def stop(failure: SelfRouteError) -> None:
            failures.append(failure)
            server.should_exit = True

        app = job.app(on_load_failure=stop)
        say(_banner(recipe, backend, address))
        server = _uvicorn().Server(_server_config(app, recipe))
        with _calm_signals():
            server.run(sockets=[sock])
    if failures:
        raise failures[0]


def _check(job: _Job) -> None:
    app = job.app()

    async def load() -> None:
        for _, guard in app.service.guards():
            await guard.load()
            await guard.aclose()

    asyncio.run(load())


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host.strip("[]"), port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} on {host} is in use; choose another with --port, or 0 for any") from None
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}; check --host and --port") from None
    return sock


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _banner(recipe: ServeRecipe, backend: Spec | None, address: str) -> str:
    if backend is not None:
        return f"serving {_named(backend)} on {address}/v1"
    cloud = "no cloud" if recipe.cloud is None else f"cloud {_named(recipe.cloud)}"
    return (
        f"serving {address}/v1 (device {_named(recipe.device)}, {cloud}, {recipe.strategy.name}); dashboard: {address}/"
    )


def _named(spec: Spec) -> str:
    return str(spec.options.get("model") or ":".join(filter(None, (spec.name, spec.value))))


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise ConfigError("serving needs 'uvicorn', which is not installed; pip install 'selfroute[serve]'") from None
    return uvicorn


def _server_config(app: Any, recipe: ServeRecipe, **options: Any) -> Any:
    return _uvicorn().Config(
        app,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=recipe.wait.shutdown_s,
        **options,
    )


def _quiet_logs(log: str) -> None:
    """One line per failure on stderr, or one per request; the server's own notes only if something is wrong."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("selfroute.gateway").setLevel(logging.WARNING if log == "errors" else logging.INFO)


class _calm_signals:
    """A signal that ended the server in good order does not kill the process a second time."""

    def __enter__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, lambda *_: None)

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


# --- Several workers ------------------------------------------------------------------------------------------------


def _serve_many(job: _Job, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Worker processes over one socket; a worker that dies is replaced."""
    from uvicorn.supervisors import Multiprocess

    with tempfile.TemporaryDirectory(prefix="selfroute-") as folder:
        (Path(folder) / "metrics").mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = f"{folder}/metrics"
        told = {**to_values(job), "folder": folder}
        os.environ[_WORKER] = json.dumps(told)
        try:
            _check_in_child()
            ready()
            config = _server_config("selfroute.serving:worker", job.recipe, factory=True, workers=job.recipe.workers)
            with _calm_signals():
                Multiprocess(config, sockets=[sock]).run()
        finally:
            os.environ.pop(_WORKER, None)
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)


def _check_in_child() -> None:
    """Load everything once in a process of its own: a worker that cannot start would be restarted for ever."""
    code = "from selfroute.serving import check_worker; check_worker()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise ConfigError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise SelfRouteError(f"a worker cannot start: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def _told() -> tuple[_Job, Path]:
    told = json.loads(os.environ[_WORKER])
    folder = Path(told.pop("folder"))
    return build(_Job, told, where="worker"), folder


def check_worker() -> None:
    """What a child process of `serve` does to see whether a worker could start."""
    job, _ = _told()
    try:
        _check(job)
    except ConfigError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        raise SystemExit(2) from None


def worker() -> Gateway:
    """The application of one worker process."""
    job, folder = _told()
    _quiet_logs(job.recipe.log)
    return job.app(activity=Activity(folder))
