"""The comparisons of `recipes/atlas` on three seeds, as pages of results.

    python benchmarks/atlas/run.py chain jobs=2                       # what is missing, then the page
    python benchmarks/atlas/run.py countdown seeds=[1] limit=40 evaluate.router_rows=60 out=out/look
    python benchmarks/atlas/run.py --write                            # the pages alone

Runs `selfroute compare recipes/atlas/NAME.yaml` and keeps its table beside this script, as `NAME.json`, from which
`docs/results/atlas-NAME.md` is written, with what `NAME.md` here says of it. With other `seeds` or a `limit` nothing is
kept. On chain, rows of `docs/results/inside.md` that the table lacks are put in from there: the problems of a seed are
the same ones.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfroute.assemble.comparing import compare_recipe
from selfroute.config import CompareRecipe, load_recipe
from selfroute.config.comparing import EntryOptions
from selfroute.evaluation.report.compared import comparison_page

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
NAMES = ("chain", "countdown", "smollm2")
# Pages with tables along the same resources, by the titles of their sections.
EARLIER = {
    "chain": (
        "docs/results/inside.md",
        {"cloud_tokens": "Tokens that the cloud writes", "bytes": "Bytes to and from the cloud",
         "round_trips": "Round trips"},
    ),
}  # fmt: skip
_CELL = re.compile(r"([\d.]+)(?: ± ([\d.]+))?")


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
    text = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False).replace(
        str(recipe.out), f"out/atlas/{name}"
    )
    (HERE / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    write(name)


def write(name: str) -> None:
    file = ROOT / f"docs/results/atlas-{name}.md"
    file.write_text(page(name), encoding="utf-8")
    print(f"written: {file.relative_to(ROOT)}")


def page(name: str) -> str:
    """The page of a comparison, from what is kept of it."""
    recipe = load_recipe(CompareRecipe, ROOT / f"recipes/atlas/{name}.yaml", [])
    table = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    added: set[str] = set()
    for axis, title in EARLIER[name][1].items() if name in EARLIER else ():
        part = next(part for part in table["axes"] if part["axis"] == axis)
        added |= add_earlier(part, EARLIER[name][0], title, recipe.entries)
    table["left_out"] = [each for each in table["left_out"] if each["name"] not in added]
    title, origin, rest = comparison_page(table).split("\n\n", 2)
    words = (HERE / f"{name}.md").read_text(encoding="utf-8").strip()
    made = f"Written by `python benchmarks/atlas/run.py {name}`."
    return "\n\n".join([title.replace("jsonl", "SmolLM2"), f"{made} {origin}", words, rest])


def add_earlier(part: dict[str, Any], file: str, title: str, entries: Mapping[str, EntryOptions]) -> set[str]:
    """Add rows of another page that a table lacks, marked by a dagger; their names, which are those of entries."""
    text = (ROOT / file).read_text(encoding="utf-8").split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    there, added = {line["strategy"] for line in part["lines"]}, set()
    for row in [line for line in text.splitlines() if line.startswith("| ")][1:]:
        name, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        oracle = name.endswith(" (oracle)")
        if (name := name.removesuffix(" (oracle)")) not in there and not name.startswith("*"):
            at = [cell_of(cell) for cell in cells]
            about = {"level": entries[name].level, "free": bool(entries[name].free), "oracle": oracle}
            part["lines"].append({"strategy": f"{name} †", **about, "at": at})
            added.add(name)
    return added


def cell_of(text: str) -> Mapping[str, Any]:
    found = _CELL.match(text)
    mean, sd = found.groups() if found else (None, None)
    return {
        "mean": None if mean is None else float(mean) / 100,
        "sd": None if sd is None else float(sd) / 100,
        "near_best": False,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
