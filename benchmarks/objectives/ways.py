"""How many different right solutions a policy has, and whether it asks as often as it says.

    python benchmarks/objectives/ways.py out/balance     # a folder of benchmarks/countdown/run.py

Of every policy in the folder, and of the device that all of them began from, 16 attempts at temperature 1 at each of
the first problems of the evaluation. Two solutions are one if they differ in the order of what is added or multiplied
alone. What a policy says of asking is the score of its evaluation: the probability of a hand-off along one greedy
answer. It is held against the part of the 16 attempts that asked. Policies that are there are not asked again; writes
`ways.json` and `ways.md` beside the results of the same folder.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from selfroute.backends.base import complete_all
from selfroute.config import Spec, make_backend
from selfroute.environment import provenance
from selfroute.handoff import parse
from selfroute.prompts import find_template
from selfroute.tasks.base import Row
from selfroute.tasks.countdown import Countdown
from selfroute.types import Completion, Sampling

HERE = Path(__file__).resolve().parent / "countdown"
ATTEMPTS, MOST_TOKENS, ROWS_SEED = 16, 256, 1000
BEGUN = "begun"


def canonical(equation: str) -> str:
    """An expression with what commutes in one order: `3*(2+1)` and `(1+2)*3` are one."""
    return _ordered(ast.parse(equation.partition("=")[0].strip(), mode="eval").body)


def _ordered(node: ast.expr) -> str:
    if not isinstance(node, ast.BinOp):
        return ast.unparse(node)
    kind = type(node.op)
    if kind in (ast.Add, ast.Mult):
        return f"{kind.__name__}({','.join(sorted(_terms(node, kind)))})"
    return f"{kind.__name__}({_ordered(node.left)},{_ordered(node.right)})"


def _terms(node: ast.expr, kind: type[ast.operator]) -> Iterator[str]:
    """What is added, or multiplied, whatever the brackets."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, kind):
        yield from _terms(node.left, kind)
        yield from _terms(node.right, kind)
    else:
        yield _ordered(node)


def attempts(policy: Spec, task: Countdown, rows: Sequence[Row]) -> list[list[str]]:
    """Texts of the attempts at each problem."""
    backend, template = make_backend(policy), find_template(task.template)
    said: list[list[str]] = [[] for _ in rows]
    prompts = [template.device_messages(template.conversation(row.question), offer_handoff=True) for row in rows]
    for seed in range(ATTEMPTS):
        sampling = Sampling(temperature=1.0, max_tokens=MOST_TOKENS, seed=seed)
        for texts, found in zip(said, asyncio.run(complete_all(backend, prompts, sampling)), strict=True):
            assert isinstance(found, Completion), found
            texts.append(found.text)
    return said


def ways(policy: Spec, task: Countdown, rows: Sequence[Row]) -> dict[str, Any]:
    """What a policy does at each problem: its different right solutions, right attempts and hand-offs."""
    found = []
    for row, texts in zip(rows, attempts(policy, task, rows), strict=True):
        verdicts = [task.verify(row, text) for text in texts if not parse(text).wants_cloud]
        right = [str(one.answer) for one in verdicts if one.correct]
        found.append({"ways": len(set(map(canonical, right))), "right": len(right), "asks": ATTEMPTS - len(verdicts)})
    return {"rows": found}


def reliability(found: Sequence[Mapping[str, int]], scores: Sequence[float | None]) -> dict[str, float]:
    """Of the score against the sampled part that asks: mean error, its sign, and over ten equal bins of the score.

    An answer that was cut off has no score and no part in it.
    """
    asked = [one["asks"] / ATTEMPTS for one in found]
    known = [(score, score - part) for score, part in zip(scores, asked, strict=True) if score is not None]
    gaps = [gap for _, gap in known]
    bins: dict[int, list[float]] = defaultdict(list)
    for score, gap in known:
        bins[min(9, int(10 * score))].append(gap)
    return {
        "error": statistics.fmean(map(abs, gaps)),
        "over": statistics.fmean(gaps),
        "calibration_error": sum(abs(sum(some)) for some in bins.values()) / len(gaps),
    }


def scores_of(out: Path, seed: str, name: str) -> dict[str, float | None]:
    """Score of each problem in the evaluation of a seed."""
    file = out / f"evaluation-{seed}" / "records.jsonl"
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["score"] for line in lines if line["strategy"] == name}


def run(given: argparse.Namespace) -> dict[str, Any]:
    file = given.results / "ways.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"policies": {}}
    policies = {BEGUN: Spec("embedded", "device")} | {
        path.parent.name: Spec("transformers", str(path))
        for path in sorted(given.out.glob("*-*/checkpoint"))
        if not path.parent.name.startswith("evaluation")
    }
    if len(policies) == 1:
        sys.exit(f"error: {given.out} holds no policies; run: python benchmarks/countdown/run.py out={given.out}")
    task = Countdown(seed=ROWS_SEED)
    rows = list(islice(task.rows("test"), given.rows))
    given.results.mkdir(parents=True, exist_ok=True)
    for name, policy in policies.items():
        if name not in kept["policies"]:
            kept["policies"][name] = ways(policy, task, rows)
            kept |= {"ids": [row.id for row in rows], "command": f"ways.py {given.out.name}", **provenance()}
            file.write_text(json.dumps(kept) + "\n", encoding="utf-8")
            print(name, statistics.fmean(one["ways"] for one in kept["policies"][name]["rows"]), flush=True)
    return kept  # type: ignore[no-any-return]


def page(kept: Mapping[str, Any], out: Path) -> str:
    n = len(kept["ids"])
    lines = [
        "# Different right solutions, and what a policy says of asking",
        "",
        f"`python benchmarks/objectives/ways.py`, commit {kept['commit']}: {ATTEMPTS} attempts at temperature 1 at "
        f"each of {n} held-out problems; means over seeds, the least and the highest in brackets.",
        "",
        "| | different right solutions | right attempts | solved by one of them | asks | score less asked | mean error "
        "| calibration error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in kept["policies"]:
        groups[name.rpartition("-")[0] or name].append(name)
    for algorithm, names in groups.items():
        told = [_told(kept, name, algorithm, out) for name in names]
        lines.append(f"| {algorithm} | " + " | ".join(_cell([one[i] for one in told]) for i in range(7)) + " |")
    return "\n".join(lines) + "\n"


def _told(kept: Mapping[str, Any], name: str, algorithm: str, out: Path) -> list[float | None]:
    rows, seed = kept["policies"][name]["rows"], name.rpartition("-")[2]
    known = scores_of(out, seed, algorithm) if algorithm != name else {}
    said = reliability(rows, [known[i] for i in kept["ids"]]) if known else {}
    return [
        statistics.fmean(one["ways"] for one in rows),
        statistics.fmean(one["right"] / ATTEMPTS for one in rows),
        statistics.fmean(one["right"] > 0 for one in rows),
        statistics.fmean(one["asks"] / ATTEMPTS for one in rows),
        *(said.get(name) for name in ("over", "error", "calibration_error")),
    ]


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.fmean(known):.3f}" + (f" ({min(known):.3f} to {max(known):.3f})" if len(known) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("--rows", type=int, default=200)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (given.results / "ways.md").write_text(page(run(given), given.out), encoding="utf-8")


if __name__ == "__main__":
    main()
