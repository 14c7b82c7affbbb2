"""Which families a small pretrained model can learn to judge itself on: 50 of them, after one short warm-up on all.

    python benchmarks/pretrained/survey.py              # about half an hour on one core; goes on where it was
    python benchmarks/pretrained/survey.py --write      # survey.md from survey.json

The rule, fixed before the first run:

- **taken**: solved in 20 to 80 % of 8 attempts at temperature 1, with right and wrong attempts for at least half of the
  prompts, and 95 % of the attempts at an end within 64 tokens; one with fewer than 52 different problems is not tried;
- of a kind at most two levels, those nearest to 50 %;
- **held out** for the shift: the last level of every kind of which two are taken, every fifth kind of those taken, by
  name, and of kinds that are taken the next harder level, solved or not.

Nothing here looks at hand-offs: the prompts do not offer any.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from families import FAMILIES, Problem

from selfroute.assemble.pieces import quiet_libraries
from selfroute.assemble.training import warm_up_recipe
from selfroute.backends.base import complete_all, run_sync
from selfroute.backends.transformers import TransformersBackend
from selfroute.config import WarmupRecipe, build
from selfroute.environment import commit
from selfroute.grading import judge
from selfroute.prompts import TEMPLATES
from selfroute.tasks.jsonl import JsonLines
from selfroute.train.folder import goes_on
from selfroute.types import Completion, Sampling

HERE = Path(__file__).parent
FOUND, PAGE = HERE / "survey.json", HERE / "survey.md"
TEMPLATE = "short"
TRAIN, PROMPTS, ATTEMPTS, TOKENS = 40, 24, 8, 64
SOLVED, MIXED, ENDED, LEVELS = (0.2, 0.8), 0.5, 0.95, 2
WARM_STEPS, WARM_TOKENS = 160, 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a family.

    Attributes:
        solved: share of attempts that are right.
        mixed: share of prompts with right and wrong attempts.
        ended: share of attempts at an end within the limit.
        tokens: mean length of an attempt.
    """

    solved: float
    mixed: float
    ended: float
    tokens: float

    @property
    def fits(self) -> bool:
        return SOLVED[0] <= self.solved <= SOLVED[1] and self.mixed >= MIXED and self.ended >= ENDED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/pretrained/survey"))
    parser.add_argument("--steps", type=int, default=WARM_STEPS, help="of the warm-up")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES), metavar="NAME")
    parser.add_argument("--write", action="store_true", help="the page alone")
    options = parser.parse_args()
    if not options.write:
        quiet_libraries()
        survey(options.out, options.families, options.steps)
    PAGE.write_text(page(json.loads(FOUND.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"written: {PAGE}")


def survey(out: Path, names: Sequence[str], steps: int) -> None:
    """Warm up on all, then attempt each family that has not been attempted."""
    options: dict[str, Any] = {
        "path": str(write_rows(out, names)), "verifier": "exact", "template": TEMPLATE, "validation_share": 0.0,
    }  # fmt: skip
    warm = warm_up({"jsonl": options}, out / "warm", steps=steps, seed=0)
    file = out / "seen.json"
    seen: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    backend = TransformersBackend.load(warm)
    few = [name for name in names if len(problems(name, 0, TRAIN + PROMPTS)) < TRAIN + PROMPTS // 2]
    for name in names:
        if name not in seen and name not in few:
            seen[name] = asdict(attempted(backend, name, JsonLines(**options)))
            file.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")
            print(name, seen[name], flush=True)
    about: dict[str, Any] = {"command": "python benchmarks/pretrained/survey.py", "commit": commit()}
    about |= {"warm_steps": steps, "seed": 0, "too few problems": few}
    FOUND.write_text(json.dumps({**about, "families": seen}, indent=1) + "\n", encoding="utf-8")


def write_rows(out: Path, names: Sequence[str]) -> Path:
    """As many rows of each family for training, and others for attempts; the folder of both."""
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for name in names:
        rows = [row(name, problem) for problem in problems(name, 0, TRAIN + PROMPTS)]
        parts["train"] += rows[:TRAIN]
        parts["test"] += rows[TRAIN:]
    for part, rows in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return folder


def problems(name: str, seed: int, most: int) -> list[Problem]:
    """Different problems of a family, fewer where it has no more."""
    found: dict[str, Problem] = {}
    for problem in islice(FAMILIES[name].draw(seed), 20 * most):
        found.setdefault(problem.question, problem)
        if len(found) == most:
            break
    return list(found.values())


def row(name: str, problem: Problem) -> dict[str, str]:
    return {"question": problem.question, "answer": problem.answer, "work": problem.work, "family": name}


def warm_up(task: Mapping[str, Any], out: Path, *, steps: int, seed: int) -> str:
    """SmolLM2 with the form and occasional hand-offs; its folder. Goes on where it was."""
    if not (out / "run.json").is_file():
        values = {
            "task": task, "algorithm": "warm_up", "start": "smollm2", "steps": steps, "batch_tokens": WARM_TOKENS,
            "learning_rate": 1e-4, "traces": {"final_handoff_rate": 0.2}, "seed": seed, "out": str(out),
            "resume": goes_on(out),
        }  # fmt: skip

        def show(step: int, steps: int, numbers: Mapping[str, float]) -> None:
            if step % 10 == 0:
                print(f"warm-up {step}/{steps}  loss {numbers.get('loss', float('nan')):.3f}", flush=True)

        warm_up_recipe(build(WarmupRecipe, values, where="warm-up"), on_progress=show)
    return str(out / "checkpoint")


def attempted(backend: TransformersBackend, name: str, task: JsonLines, most: int = PROMPTS) -> Seen:
    """Attempts at a family's problems, with no hand-off offered."""
    rows = [each for each in task.rows("test") if each.fields["family"] == name][:most]
    template = TEMPLATES[TEMPLATE]
    prompts = [template.device_messages(template.conversation(each.question), offer_handoff=False) for each in rows]
    asked = [prompt for prompt in prompts for _ in range(ATTEMPTS)]
    drawn = run_sync(complete_all(backend, asked, Sampling(temperature=1.0, max_tokens=TOKENS), concurrency=64))
    said = [answer for answer in drawn if isinstance(answer, Completion)]
    if len(said) < len(drawn):
        raise SystemExit(f"{name}: {len(drawn) - len(said)} attempts failed")
    right = [judge(task, rows[place // ATTEMPTS], answer.text)[0] is True for place, answer in enumerate(said)]
    groups = [sum(right[start : start + ATTEMPTS]) for start in range(0, len(right), ATTEMPTS)]
    return Seen(
        solved=sum(right) / len(right),
        mixed=sum(0 < group < ATTEMPTS for group in groups) / len(groups),
        ended=sum(answer.finish_reason == "stop" for answer in said) / len(said),
        tokens=sum(answer.usage.completion_tokens for answer in said) / len(said),
    )


# --- the rule -------------------------------------------------------------------------------------------------------


def taken(seen: Mapping[str, Seen]) -> list[str]:
    """Families of the training mix, by the rule above."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, each in seen.items():
        if each.fits:
            kinds[FAMILIES[name].kind].append(name)
    near = {kind: sorted(names, key=lambda name: abs(seen[name].solved - 0.5)) for kind, names in kinds.items()}
    chosen = {name for names in near.values() for name in names[:LEVELS]}
    return [name for name in seen if name in chosen]


def split(seen: Mapping[str, Seen]) -> tuple[list[str], list[str]]:
    """What is trained on, and what is held out for the shift."""
    every = taken(seen)
    kinds = sorted({FAMILIES[name].kind for name in every})
    unseen = set(kinds[::5])
    trained = [name for name in every if FAMILIES[name].kind not in unseen]
    held = [name for name in every if FAMILIES[name].kind in unseen]
    for kind in sorted({FAMILIES[name].kind for name in trained}):
        of_kind = [name for name in trained if FAMILIES[name].kind == kind]  # the easiest first, as in the table
        if len(of_kind) == LEVELS:
            trained.remove(of_kind[-1])
            held.append(of_kind[-1])
        harder = f"{kind}-{FAMILIES[of_kind[0]].level + 1}"
        if harder in seen and harder not in held:
            held.append(harder)
    return trained, held


def page(found: Mapping[str, Any]) -> str:
    seen = {name: Seen(**values) for name, values in found["families"].items()}
    trained, held = split(seen)
    lines = [
        "# Families that a small model can learn to judge itself on",
        "",
        f"SmolLM2-135M-Instruct after {found['warm_steps']} steps of warm-up on all {len(seen)}; {ATTEMPTS} attempts",
        f"of at most {TOKENS} tokens at each of {PROMPTS} prompts, temperature 1, seed {found['seed']}. In %.",
        f"`{found['command']}`, commit {found['commit']}. The rule stands in the script, as before it ran.",
        "",
        "| family | solved | prompts with right and wrong | at an end | tokens | |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in seen.items():
        place = "trained" if name in trained else "held out" if name in held else ""
        shares = " | ".join(f"{100 * share:.0f}" for share in (each.solved, each.mixed, each.ended))
        lines.append(f"| {name} | {shares} | {each.tokens:.0f} | {place} |")
    lines += [f"| {name} | | | | | too few different problems |" for name in found["too few problems"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
