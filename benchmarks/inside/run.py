"""Working together inside the answer, beside query-level strategies: the common table, on the embedded chain pair.

    python benchmarks/inside/run.py                                    # every row, three seeds, 800 problems each
    python benchmarks/inside/run.py 'rows=["max probability"]'         # one row; the others stay as they are
    python benchmarks/inside/run.py seeds=[1] limit=60 out=out/look page=out/look/inside.md
    python benchmarks/inside/run.py --write                            # the page alone, from what lies in out/inside

Each row of `table_rows.py` is trained and evaluated by itself, once for each seed, on the same test problems. Writes
`docs/results/inside.md`: mean and standard deviation over seeds, which draw other problems and train anew; the pair
stays the same. Stopped and started again it goes on where it was; the page has the
rows that have finished on every seed.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from table_page import AXES, page
from table_rows import ROWS, Row

from selfroute.config import parse_overrides
from selfroute.evaluation.results import write_results

ROOT = Path(__file__).resolve().parents[2]
OWN = ("seeds", "rows", "out", "page")
ENDS = next(iter(ROWS))


def main() -> None:
    """Run what is missing and write the page."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    own = parse_overrides([a for a in arguments if a.partition("=")[0] in OWN])
    others = [a for a in arguments if a.partition("=")[0] not in OWN]
    out, names = Path(str(own.get("out", "out/inside"))), own.get("rows", list(ROWS))
    if unknown := [name for name in names if name not in ROWS]:
        raise SystemExit(f"rows: '{unknown[0]}' is unknown; known: {', '.join(ROWS)}")
    for name in [] if "--write" in sys.argv else names:
        for seed in own.get("seeds", [1, 2, 3]):
            run(out / f"seed-{seed}", name, seed, others)
    places = [place for place in sorted(out.glob("seed-*")) if has_run(place, ENDS)]
    if not places:
        raise SystemExit(f"nothing has finished in {out}")
    done = [name for name in ROWS if all(has_run(place, name) for place in places)]
    joined = [join(place, done) for place in places]
    target = ROOT / str(own.get("page", "docs/results/inside.md"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(joined), encoding="utf-8")
    print(f"written: {target}")


def run(place: Path, name: str, seed: int, others: Sequence[str]) -> None:
    """Train and evaluate one row on one seed, unless it has finished.

    Args:
        place: of everything of the seed.
    """
    folder, row = place / slug(name), ROWS[name]
    if has_run(place, name):
        return
    recipe = {
        "task": "chain",
        "device": "embedded:chain-device",
        "cloud": "embedded:chain-cloud",
        "strategies": [],
        "limit": 800,
        "router_rows": 400,
        "max_tokens": 100,
        "concurrency": 256,  # passes of small models cost nearly the same with many rows as with few
        "cache": str(place / "answers.sqlite"),
        **filled(row.recipe, train(place, row, seed)),
    }
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{slug(name)}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    call(["evaluate", str(file), f"seed={seed}", *others, f"out={folder}"])


def train(place: Path, row: Row, seed: int) -> dict[str, str]:
    """Train what a row needs, unless it is there; the folder of each by name."""
    folders: dict[str, str] = {}
    for name, words in row.trained.items():
        folder = place / "trained" / name
        if not (folder / "run.json").is_file():
            call(["train", *filled(words, folders), f"seed={seed}", f"out={folder}"])
        folders[name] = str(folder)
    return folders


def filled(value: Any, folders: Mapping[str, str]) -> Any:
    """Plain data with folders for their names."""
    if isinstance(value, str):
        for name, folder in folders.items():
            value = value.replace(f"{{{name}}}", folder)
        return value
    if isinstance(value, Mapping):
        return {key: filled(each, folders) for key, each in value.items()}
    return [filled(each, folders) for each in value] if isinstance(value, (list, tuple)) else value


def has_run(place: Path, name: str) -> bool:
    return (place / slug(name) / "summary.json").is_file()


def join(place: Path, names: Sequence[str]) -> Path:
    """Rows of a seed as one evaluation, counted together; its folder."""
    joined = place / "joined"
    joined.mkdir(exist_ok=True)
    folders = [place / slug(name) for name in names]
    abouts = {folder.name: json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in folders}
    if len({about["identity"]["rows"] for about in abouts.values()}) > 1:
        raise SystemExit(f"{place}: rows were run on different problems; delete the folders of those that differ")
    for name in ("records.jsonl", "samples.jsonl"):
        text = "".join((folder / name).read_text(encoding="utf-8") for folder in folders)
        (joined / name).write_text(text, encoding="utf-8")
    first = abouts[slug(ENDS)]
    about = {"commands": {name: [each["command"], each["commit"]] for name, each in abouts.items()}}
    (joined / "run.json").write_text(json.dumps(first | about, indent=2) + "\n", encoding="utf-8")
    seed = int(first["identity"]["seed"])
    write_results(joined, share=first["identity"]["share"], seed=seed, task="chain", axes=AXES)
    return joined


def slug(name: str) -> str:
    """Of a row's folder."""
    return name.replace(",", "").replace(" ", "-")


def call(words: Sequence[str]) -> None:
    print(shlex.join(["selfroute", *words]), flush=True)
    done = subprocess.run([sys.executable, "-m", "selfroute.commands.main", *words], check=False)
    if done.returncode:
        raise SystemExit(f"that failed with exit code {done.returncode}; start again to go on")


if __name__ == "__main__":
    main()
