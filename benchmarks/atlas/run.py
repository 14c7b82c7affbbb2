"""The comparisons of `recipes/atlas` on three seeds, as pages of results.

    python benchmarks/atlas/run.py chain jobs=2                       # what is missing, then the page
    python benchmarks/atlas/run.py countdown seeds=[1] limit=40 evaluate.router_rows=60 out=out/look
    python benchmarks/atlas/run.py --write                            # the pages alone

Runs `selfroute compare recipes/atlas/NAME.yaml` and keeps its table beside this script, as `NAME.json`, from which
`docs/results/atlas-NAME.md` is written, with what `NAME.md` here says of it. With other `seeds` or a `limit` nothing is
kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from selfroute.assemble.comparing import compare_recipe
from selfroute.config import CompareRecipe, load_recipe
from selfroute.errors import ConfigError
from selfroute.evaluation.report.compared import comparison_page

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
NAMES = ("chain", "countdown", "smollm2")


def main(arguments: Sequence[str]) -> None:
    """Run a comparison, or write the pages."""
    if arguments == ["--write"]:
        for name in NAMES:
            write(name)
        return
    if not arguments or arguments[0] not in NAMES:
        raise SystemExit(f"name one of {', '.join(NAMES)}, or --write")
    name, overrides = arguments[0], list(arguments[1:])
    source = f"recipes/atlas/{name}.yaml"
    recipe = load_recipe(CompareRecipe, source, [f"out=out/atlas/{name}", *overrides])
    table = compare_recipe(recipe, source=source, command=f"selfroute compare {source}", say=print)
    if not {one.partition("=")[0] for one in overrides} <= {"only", "jobs", "train", "out"}:
        print(comparison_page(table))
        return
    text = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False)
    text = text.replace(str(recipe.out), f"out/atlas/{name}")
    (HERE / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    write(name)


def write(name: str) -> None:
    file = ROOT / f"docs/results/atlas-{name}.md"
    file.write_text(page(name), encoding="utf-8")
    print(f"written: {file.relative_to(ROOT)}")


def page(name: str) -> str:
    """The page of a comparison, from what is kept of it."""
    table = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    title, origin, rest = comparison_page(table).split("\n\n", 2)
    words = (HERE / f"{name}.md").read_text(encoding="utf-8").strip()
    made = f"Written by `python benchmarks/atlas/run.py {name}`."
    return "\n\n".join([title.replace("jsonl", "SmolLM2"), f"{made} {origin}", words, rest])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
