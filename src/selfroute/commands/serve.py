"""The commands that answer questions: a server for apps, and a terminal for people, over the same configuration."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import yaml
from rich.text import Text

from selfroute.commands.terminal import WRITERS, console, next_step, note, say, written
from selfroute.errors import ConfigError, SelfRouteError

if TYPE_CHECKING:
    from rich.console import Console

    from selfroute.config.serving import ServeRecipe
    from selfroute.gateway.service import Service
    from selfroute.types import Message, Role, Trace

__all__ = ["EXAMPLES", "ask", "chat", "cloud", "key", "serve"]

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

EXAMPLES: dict[str, tuple[str, ...]] = {
    "serve": (
        "selfroute serve",
        "selfroute serve recipes/serve/llama-server.yaml --port 9000",
        "selfroute serve device=transformers:out/train/checkpoint limits.max_tokens=512",
    ),
    "cloud": (
        "selfroute cloud --backend embedded:cloud --port 8001",
        "selfroute cloud --backend embedded:chain-cloud --layers 1..",
    ),
    "ask": (
        'selfroute ask "Using the numbers [3, 5, 7], create an equation that equals 26"',
        'selfroute ask --device transformers:out/train/checkpoint "…"',
        'selfroute ask --config recipes/serve/llama-server.yaml "…"',
    ),
    "chat": ("selfroute chat", "selfroute chat --config recipes/serve/llama-server.yaml"),
    "key": ("selfroute key app",),
}

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [KEY=VALUE]", help="Serving recipe, and values that replace its keys."),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on; any but 127.0.0.1 needs api_keys.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that share the port.")]
Check = Annotated[bool, typer.Option("--check", help="Check all, ask each model once, and stop.")]
Config = Annotated[Path | None, typer.Option(metavar="CONFIG.yaml", help="Serving recipe, as for selfroute serve.")]
Device = Annotated[
    str | None, typer.Option(help="Device model; `selfroute backends` shows how to write one.", show_default="embedded")
]
Cloud = Annotated[str | None, typer.Option(help="Cloud model, likewise.", show_default="embedded")]
Template = Annotated[
    str | None, typer.Option(help="Prompt template: think, steps or plain.", show_default="as trained, else think")
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of one side.", show_default="512; the device as trained")
]
Mode = Annotated[str, typer.Option(help="Who may answer: auto, device, cloud or private.")]


def serve(
    config: Arguments = None, host: Host = None, port: Port = None, workers: Workers = None, check: Check = False
) -> None:
    """Serve a pair of models as an OpenAI-compatible endpoint; without a file, the embedded pair."""
    from selfroute.assemble.serving import serve_recipe
    from selfroute.config.serving import load_serve_recipe

    file, overrides = _file_and_overrides(config or [])
    overrides += [f"{k}={v}" for k, v in (("host", host), ("port", port), ("workers", workers)) if v is not None]
    recipe = load_serve_recipe(file, overrides)
    serve_recipe(recipe, file=file, overrides=overrides, say=note, check=check)
    if check:
        next_step(shlex.join(["selfroute", "serve", *([str(file)] if file else []), *overrides]))


def cloud(
    backend: Annotated[str, typer.Option(help="Model to serve; `selfroute backends` shows how to write one.")],
    config: Arguments = None,
    host: Host = None,
    port: Port = 8001,
    layers: Annotated[
        str | None, typer.Option(metavar="FIRST..", help="Serve its layers from this one on to devices, from 0.")
    ] = None,
    check: Check = False,
) -> None:
    """Serve one model alone as an OpenAI-compatible endpoint, e.g. as the cloud of another process."""
    from selfroute.assemble.serving import serve_recipe
    from selfroute.config import parse_spec
    from selfroute.config.serving import load_serve_recipe

    file, overrides = _file_and_overrides(config or [])
    overrides += [f"{k}={v}" for k, v in (("host", host), ("port", port)) if v is not None]
    spec = parse_spec(_yaml(backend), "--backend")
    recipe, first = load_serve_recipe(file, overrides), None if layers is None else _first_layer(layers)
    if first is not None and recipe.workers > 1:
        raise ConfigError(f"workers: {recipe.workers} processes share no hidden states; --layers needs workers=1")
    serve_recipe(recipe, backend=spec, layers=first, file=file, say=note, check=check)


def ask(
    question: Annotated[str, typer.Argument(help="For the embedded pair: a Countdown question.")],
    config: Config = None,
    device: Device = None,
    cloud: Cloud = None,
    template: Template = None,
    max_tokens: MaxTokens = None,
    mode: Mode = "auto",
    preview: Annotated[bool, typer.Option(help="Show what the cloud would get, and ask nobody.")] = False,
) -> None:
    """Ask one question and watch who answers."""
    recipe = _recipe(config, device, cloud, template)

    with _asking(recipe, config, wraps=config is None or template is not None) as (service, run):
        if preview:
            run(_preview(service, [_user(question)], max_tokens or 512, mode))
            return
        run(_turn(service, [_user(question)], max_tokens, mode))


def chat(
    config: Config = None,
    device: Device = None,
    cloud: Cloud = None,
    template: Template = None,
    max_tokens: MaxTokens = None,
    mode: Mode = "auto",
) -> None:
    """Talk in the terminal and watch who answers; an empty line or Ctrl-D ends it."""
    recipe = _recipe(config, device, cloud, template)

    said: list[Message] = []
    with _asking(recipe, config, wraps=config is None or template is not None) as (service, run):
        while question := _read_line().strip():
            said.append(_user(question))
            try:
                answer = run(_turn(service, said, max_tokens, mode))
            except SelfRouteError as error:  # the next question may go better
                note(f"error: {error}")
                said.pop()
                continue
            said.append(_message("assistant", answer))


def key(name: Annotated[str, typer.Argument(help="What to call the client, e.g. app.")]) -> None:
    """Make an API key for a client: the key to give away, and the line for the configuration."""
    from selfroute.gateway.access import hash_key, new_key

    made = new_key()
    say(f"key, shown this once: {made}")
    say(f"for the configuration:\napi_keys:\n  {name}: {hash_key(made)}")
    next_step("selfroute serve CONFIG.yaml --host 0.0.0.0")


# --- Helpers --------------------------------------------------------------------------------------------------------


def _file_and_overrides(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """`[CONFIG.yaml] [KEY=VALUE …]`."""
    from selfroute.config import check_kind

    file = Path(arguments[0]) if arguments and "=" not in arguments[0] else None
    if file is not None:
        check_kind(file, "serve")
    return file, list(arguments[1:] if file else arguments)


def _first_layer(text: str) -> int:
    """The first layer of a range that is open at its end.

    Raises:
        ConfigError: it is none.
    """
    first = text.removesuffix("..")
    if not (text.endswith("..") and first.isdecimal() and first.isascii()):
        raise ConfigError(f"--layers: '{text}' is no range of layers to the last one; write e.g. 4..")
    return int(first)


def _recipe(config: Path | None, device: str | None, cloud: str | None, template: str | None) -> ServeRecipe:
    from selfroute.config import check_kind, load_values, parse_overrides
    from selfroute.config.serving import build_serve_recipe, naming

    if config is not None:
        check_kind(config, "serve")
    values: dict[str, Any] = parse_overrides([]) if config is None else load_values(config)
    values |= {name: _yaml(text) for name, text in (("device", device), ("cloud", cloud)) if text is not None}
    if template is not None:
        values["prompt"] = {**(values.get("prompt") or {}), "template": template}
    with naming(config):
        return build_serve_recipe(values, where=str(config or "ask"))


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _user(question: str) -> Message:
    return _message("user", question)


def _message(role: Role, text: str) -> Message:
    from selfroute.types import Message

    return Message(role, text)


def _read_line() -> str:
    try:
        return input("you: ")
    except EOFError:
        return ""


@contextmanager
def _asking(
    recipe: ServeRecipe, config: Path | None, *, wraps: bool
) -> Iterator[tuple[Service, Callable[[Coroutine[Any, Any, T]], T]]]:
    """A service whose models are loaded, and what runs its answers; lines are read outside the loop, where Ctrl-C ends
    the reading.

    Args:
        wraps: whether a question to a device whose training is not known is put into the template's words, as one that
            is typed without a recipe is.
    """
    from selfroute.assemble.prompting import served_prompt
    from selfroute.assemble.serving import make_service, prompt_lines
    from selfroute.config.serving import naming

    with naming(config):
        service = make_service(recipe, wraps=wraps)
        lines = prompt_lines(served_prompt(recipe, wraps=wraps))
    guards = [guard for _, guard in service.guards()]
    with asyncio.Runner() as runner:
        try:
            for guard in guards:
                runner.run(guard.load())
            for line in lines:
                note(line)
            yield service, runner.run
        finally:
            for guard in guards:
                runner.run(guard.aclose())


async def _turn(service: Service, messages: Sequence[Message], max_tokens: int | None, mode: str) -> str:
    """Print an answer as it comes: who speaks, what, and in the end who answered and why; gives its content."""
    from selfroute.gateway.errors import ApiError
    from selfroute.gateway.exchange import Exchange
    from selfroute.gateway.request import ChatRequest
    from selfroute.types import Retract, Sampling, TextDelta

    out = console()
    request = ChatRequest(model="selfroute", messages=list(messages), sampling=Sampling(max_tokens=max_tokens or 512))
    try:
        exchange = Exchange(service, request, service.mode(mode))
    except ApiError as error:
        raise ConfigError(str(error).replace("x-selfroute-mode", "--mode")) from None
    (choice,) = exchange.choices
    speaker, content = "", ""
    async for _, said in exchange.pieces():
        if isinstance(said, TextDelta):
            if said.source != speaker:
                _print_change(out, speaker, said.source, style=f"bold {WRITERS[said.source]}")
                speaker = said.source
            content += said.text if said.kind == "content" else ""
            out.print(written(said.text, said.source, thought=said.kind == "reasoning"), end="", soft_wrap=True)
        elif isinstance(said, Retract):
            _print_change(out, speaker, "the cloud broke off; the device answers", style="bold")
            speaker = content = ""
        else:
            _print_change(out, speaker, "the device asks for the cloud", style="bold")
            speaker = ""
    assert choice.trace is not None
    _print_end(out, choice.trace)
    return content


async def _preview(service: Service, messages: Sequence[Message], max_tokens: int, mode: str) -> None:
    """Print the body that the cloud would get, and what was taken out of it."""
    from selfroute.gateway.errors import ApiError
    from selfroute.gateway.preview import preview
    from selfroute.gateway.request import ChatRequest
    from selfroute.types import Sampling

    request = ChatRequest(model="selfroute", messages=list(messages), sampling=Sampling(max_tokens=max_tokens))
    try:
        told = await preview(service, request, service.mode(mode))
    except ApiError as error:
        raise ConfigError(str(error).replace("x-selfroute-mode", "--mode")) from None
    if told["refused"]:
        say(f"the cloud would get nothing: {told['refused']}")
        return
    say(told["body"])
    for each in told["placeholders"]:
        note(f"{each['placeholder']} stands for {each['value']} ({each['why']})")


def _print_change(out: Console, before: str, text: str, *, style: str) -> None:
    """A line of our own between what the models write."""
    out.print(Text(("\n" if before else "") + text, style=style))


def _print_end(out: Console, trace: Trace) -> None:
    tokens = ", ".join(f"{side} {trace.usage(side).completion_tokens} tokens" for side in ("device", "cloud"))
    out.print(f"\nanswered by {trace.source} ({trace.reason}); {tokens}; {trace.seconds:.2f} s", style="dim")
    if trace.error:
        out.print(trace.error, style="dim")
