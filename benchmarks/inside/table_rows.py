"""The rows of the common table: a strategy each, with what is trained for it. A method joins by adding a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ROWS", "Row"]

HEAD_POINTS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
FEW_POINTS = (0.8, 0.95)


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        recipe: what it adds to the recipe of the evaluation. `{name}` stands for the folder of something trained.
        trained: by name, what `selfroute train` is told, in this order; run once for each seed, and shared by the rows
            that have one of that name. `{name}` of an earlier one stands for its folder.
    """

    recipe: Mapping[str, Any]
    trained: Mapping[str, Sequence[str]] = field(default_factory=dict)


def strategies(*names: str) -> Row:
    return Row({"strategies": list(names)})


def entrant(name: str, strategy: str, **options: Any) -> Row:
    return Row({"entrants": {name: {strategy: options}}})


def tokens(name: str, scorer: str, points: Sequence[float], **options: Any) -> Row:
    # The threshold is that of serving; an evaluation runs the points.
    return entrant(name, "token_level", scorer=scorer, threshold=0.5, points=list(points), **options)


def head(
    name: str, kind: str, points: Sequence[float] = HEAD_POINTS, *, scorer: str = "reward_head", **options: Any
) -> Row:
    made = tokens(name, scorer, points, head=f"{{head-{kind}}}/checkpoint", **options)
    return Row(
        made.recipe, {f"head-{kind}": ["recipes/chain/head.yaml", f"kind={kind}", "share=null", "concurrency=256"]}
    )


HANDOFFS = ("traces.call_rate=0", "traces.handoff_rate=0.03", "traces.final_handoff_rate=0.3")


def policy(name: str, recipe: str, *told: str, form: str, form_told: Sequence[str] = ()) -> Row:
    """A device that asks by itself, with the short warm-up that teaches it how."""
    words = [f"recipes/chain/{recipe}.yaml", f"model={{{form}}}/checkpoint", *told]
    trained = {form: ["recipes/chain/relay_form.yaml", *form_told], slug(name): words}
    return Row({"policies": {name: f"transformers:{{{slug(name)}}}/checkpoint"}}, trained)


def steps(name: str, checker: str, points: Sequence[float]) -> Row:
    return entrant(name, "step_level", checker=checker, threshold=0.5, step_end=";", points=list(points))


def adaswitch(name: str, checker: str, points: Sequence[float], *, control: bool = False) -> Row:
    """Steps of a device that was trained to tag them, or of the control that learnt the same steps without."""
    place, told = ("control", ["gold_only=true"]) if control else ("adaswitch", [])
    own = {"step_end": ";"} if control else {"tags": f"{{{place}}}/checkpoint"}
    made = entrant(name, "step_level", checker=checker, threshold=0.5, points=list(points), **own)
    device = {"device": f"transformers:{{{place}}}/checkpoint"}
    return Row({**made.recipe, **device}, {place: ["recipes/chain/steps.yaml", *told]})


def layers(name: str, strategy: str, device: str, *, points: Sequence[float], **options: Any) -> Row:
    """One model in two places: the device holds part of the cloud's, or all of it. Lists of words are trained."""
    trained = {key: value for key, value in options.items() if isinstance(value, list)}
    own = {key: value for key, value in options.items() if key not in trained}
    made = entrant(name, strategy, **own, points=list(points))
    return Row({**made.recipe, "device": device}, trained)


def slug(name: str) -> str:
    """Of what is trained for a row."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


# The first one holds both ends. Query level, then tokens and steps.
ROWS: dict[str, Row] = {
    "ends": strategies("always_device", "always_cloud", "random_offload"),
    "min_logprob": strategies("min_logprob"),
    "reward head, rel": head("reward head, rel", "rel"),
    "max probability": tokens("max probability", "max_probability", (0.5, 0.8, 0.95, 0.99, 0.997, 0.9995)),
    "oracle tokens": tokens("oracle tokens", "oracle", (0.5,)),
    "speculative": entrant("speculative", "speculative", block=4),
    "random tokens": tokens("random tokens", "random", (0.1, 0.5)),
    "entropy": tokens("entropy", "entropy", (0.97, 0.999)),
    "answer_features": strategies("answer_features"),
    "prompt_router": strategies("prompt_router"),
    "reward head, 4 at a time": head("reward head, 4 at a time", "rel", (0.8, 0.95), tokens=4),
    "relay, 2 % wanted": policy("relay, 2 % wanted", "relay", "share=0.02", form="relay-form"),
    "relay, 5 % wanted": policy("relay, 5 % wanted", "relay", "share=0.05", form="relay-form"),
    "relay, 10 % wanted": policy("relay, 10 % wanted", "relay", "share=0.1", form="relay-form"),
    "self_route": policy("self_route", "gapg", form="handoff-form", form_told=HANDOFFS),
    "min probability, steps": steps("min probability, steps", "min_probability", (0.6, 0.5, 0.3)),
    "random steps": steps("random steps", "random", (0.8, 0.5)),
    "oracle steps": steps("oracle steps", "oracle", (0.9,)),
    "first entropy, steps": steps("first entropy, steps", "first_entropy", (1.0, 0.5)),
    "AdaSwitch": adaswitch("AdaSwitch", "tag", (0.5, 0.3, 0.1, 0.03)),
    "AdaSwitch, min probability": adaswitch("AdaSwitch, min probability", "min_probability", (0.6, 0.5, 0.3)),
    "gold-only control": adaswitch("gold-only control", "min_probability", (1.0, 0.5), control=True),
    "early exit": layers(
        "early exit",
        "early_exit",
        "exits:{exits}/checkpoint",
        exits=["recipes/chain/exits.yaml"],
        thresholds=0.9,
        points=[0.8, 0.9, 0.95, 0.99],
    ),
    "split, lossy link": layers(
        "split, lossy link",
        "split",
        "embedded:chain-cloud",
        split=["recipes/chain/split.yaml"],
        policy="{split}/checkpoint",
        channel={"kind": "packet_drop", "packet_bytes": 32},
        weather={"good": 0.1, "bad": 0.6, "worsens": 0.1, "clears": 0.1},
        points=[0.3, 1.0, 10.0],
    ),
    "CITER": head("CITER", "citer", FEW_POINTS, scorer="citer"),
    "Co-LLM": head("Co-LLM", "co_llm", FEW_POINTS, scorer="co_llm"),
    "reward head, accept": head("reward head, accept", "accept", FEW_POINTS),
    "reward head, prob": head("reward head, prob", "prob", FEW_POINTS),
    "reward head, pair": head("reward head, pair", "pair", FEW_POINTS),
}
