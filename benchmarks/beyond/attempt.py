"""Does a cloud answer better if it sees the device's attempt? docs/beyond-the-paper.md#hand-off-of-the-attempt.

    python benchmarks/beyond/attempt.py             # about an hour on one core
    python benchmarks/beyond/attempt.py steps=200   # a quick look

Three clouds are trained on from the embedded one for as many steps: on questions alone, and with a device's attempt in
half of the prompts, to go on with or to ignore. They and the embedded cloud then answer the hand-offs of the shipped
policy, from the question alone and with the attempt beside it. Stopped and started again, it goes on where it was.
Writes `attempt.json` and `attempt.md` beside this file.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from run import HERE, Job, in_parallel, resumed, selfroute
from scipy.stats import binomtest

from selfroute.backends.embedded import asset_path
from selfroute.environment import provenance
from selfroute.train.folder import TRAINER_STATE

OUT = Path("out/attempt")
PROBLEMS = 1000
CONTEXTS = ("prompt", "attempt")
# What each cloud was trained on, by name; none is the embedded cloud as it is shipped.
CLOUDS: dict[str, str | None] = {
    "embedded": None,
    "questions alone": "shown_rate: 0",
    "to ignore attempts": "shown_rate: 0.5, shown: ignore",
    "to go on with attempts": "shown_rate: 0.5, shown: continue",
}


@dataclass(frozen=True)
class Answers:
    """What a cloud made of the hand-offs, in the order of their prompts."""

    right: list[bool]
    tokens: list[int]
    prompt_tokens: list[int]


def folder(name: str) -> Path:
    return OUT / name.replace(" ", "-")


def training(name: str, steps: int, seed: int) -> Job:
    out = folder(name)

    def words() -> list[str]:
        return selfroute(
            "train", "recipes/countdown/warmup.yaml", "role=cloud", "start=embedded:cloud", f"steps={steps}",
            "learning_rate=5e-4", f"traces={{attempts: 12, solution_rate: 0.25, {CLOUDS[name]}}}", f"seed={seed}",
            f"out={out}", *resumed(out, TRAINER_STATE),
        )  # fmt: skip

    return Job(out.name, words, out / "run.json")


def as_assets(name: str) -> Path:
    """A folder of the trained cloud in the shape of the package's assets, so that it too writes up to 8 answers."""
    root = folder(name) / "assets"
    if not (root / "cloud").exists():
        shutil.copytree(asset_path("cloud").parent / "tokenizer", root / "tokenizer", dirs_exist_ok=True)
        shutil.copytree(folder(name) / "checkpoint", root / "cloud")
    return root


def judged_in(name: str, context: str) -> Path:
    return OUT / f"judged-{name.replace(' ', '-')}-{context}"


def judging(name: str, context: str) -> Job:
    out, trained = judged_in(name, context), CLOUDS[name] is not None

    def words() -> list[str]:
        root = f", root: {as_assets(name)}" if trained else ""
        return selfroute(
            "evaluate", "recipes/countdown/evaluate.yaml", "seed=1000", f"limit={PROBLEMS}", f"context={context}",
            f"cloud={{embedded: {{name: cloud{root}}}}}", "policies={policy: 'embedded:device-gapg'}",
            "strategies=[]", f"out={out}",
        )  # fmt: skip

    return Job(out.name, words, out / "summary.json", (folder(name).name,) if trained else ())


def answers(name: str, context: str) -> Answers:
    lines = (judged_in(name, context) / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    sent = sorted((r for r in records if r["strategy"] == "policy" and r["source"] == "cloud"), key=lambda r: r["id"])
    return Answers(
        [bool(record["correct"]) for record in sent],
        [record["cloud_tokens"] for record in sent],
        [record["cloud_prompt_tokens"] for record in sent],
    )


def row(name: str) -> dict[str, Any]:
    alone, shown = (answers(name, context) for context in CONTEXTS)
    helped = sum(after and not before for before, after in zip(alone.right, shown.right, strict=True))
    harmed = sum(before and not after for before, after in zip(alone.right, shown.right, strict=True))
    found: dict[str, Any] = {"cloud": name, "n": len(alone.right), "helped": helped, "harmed": harmed}
    found["p"] = float(binomtest(helped, helped + harmed).pvalue) if helped + harmed else 1.0  # McNemar's, exact
    for context, given in zip(CONTEXTS, (alone, shown), strict=True):
        found[context] = {
            "right": float(np.mean(given.right)),
            "tokens": float(np.mean(given.tokens)),
            "prompt_tokens": float(np.mean(given.prompt_tokens)),
        }
    return found


def markdown(rows: list[dict[str, Any]], steps: int, seed: int) -> str:
    heads = ("cloud, trained", "right alone, %", "right with the attempt, %", "helped", "harmed", "p",
             "tokens written alone", "with the attempt", "read alone", "with it")  # fmt: skip
    lines = [
        f"The {rows[0]['n']} hand-offs of the shipped policy among {PROBLEMS} held-out problems; clouds trained on for "
        f"{steps} steps, seed {seed}. Helped: wrong alone and right with the attempt. p: exact, of as many helped as "
        "harmed. Tokens per hand-off, of all answers that a cloud writes for it, at most 8.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for one in rows:
        alone, shown = one["prompt"], one["attempt"]
        cells = [one["cloud"], f"{100 * alone['right']:.1f}", f"{100 * shown['right']:.1f}", one["helped"],
                 one["harmed"], f"{one['p']:.2g}", f"{alone['tokens']:.0f}", f"{shown['tokens']:.0f}",
                 f"{alone['prompt_tokens']:.0f}", f"{shown['prompt_tokens']:.0f}"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    steps, seed, jobs = (int(options.pop(name, value)) for name, value in (("steps", 800), ("seed", 1), ("jobs", 1)))
    if options:
        raise SystemExit(f"unknown: {', '.join(options)}; known: steps=800, seed=1, jobs=1")
    OUT.mkdir(parents=True, exist_ok=True)
    trainings = [training(name, steps, seed) for name, traces in CLOUDS.items() if traces is not None]
    in_parallel([*trainings, *(judging(name, context) for name in CLOUDS for context in CONTEXTS)], jobs, OUT)
    rows = [row(name) for name in CLOUDS]
    command = f"python benchmarks/beyond/attempt.py steps={steps} seed={seed}"
    result = {"command": command, **provenance(), "rows": rows}
    (HERE / "attempt.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE / "attempt.md").write_text(text := markdown(rows, steps, seed), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
