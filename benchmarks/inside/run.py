"""Working together inside the answer, beside query-level strategies: the common table, on the embedded chain pair.

    python benchmarks/inside/run.py                                    # every row, three seeds, 800 problems each
    python benchmarks/inside/run.py 'rows=["max probability"]'         # one row; the others stay as they are
    python benchmarks/inside/run.py seeds=[1] limit=60 out=out/look page=out/look/inside.md
    python benchmarks/inside/run.py --write                            # the page alone

The runs are those of `benchmarks/atlas/run.py chain`, which makes a table along more resources; this adds what the page
says of gaps, trained devices, parts of the problems, heads and tags, and writes `docs/results/inside.md`: mean and
standard deviation over seeds, which draw other problems and train anew; the pair stays the same. Stopped and started
again it goes on where it was; the page has the rows that have finished on every seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from table_page import page

from selfroute.assemble.comparing import compare_recipe
from selfroute.config import CompareRecipe, load_recipe, parse_overrides
from selfroute.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "recipes/atlas/chain.yaml"


def main() -> None:
    """Run what is missing and write the page."""
    given = [argument for argument in sys.argv[1:] if argument != "--write"]
    target = ROOT / str(parse_overrides(given).get("page", "docs/results/inside.md"))
    rows = [f"only={argument.removeprefix('rows=')}" for argument in given if argument.startswith("rows=")]
    others = [argument for argument in given if not argument.startswith(("page=", "rows="))]
    overrides = ["out=out/atlas/chain", *others, *(["only=[]"] if "--write" in sys.argv else rows)]
    recipe = load_recipe(CompareRecipe, RECIPE, overrides)
    compare_recipe(recipe, source=RECIPE, command=f"selfroute compare {RECIPE}", say=print)
    own = [name for name, entry in recipe.entries.items() if entry.evaluate.keys() & {"policies", "device"}]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page([recipe.out / f"seed-{seed}" / "joined" for seed in recipe.seeds], own), encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
