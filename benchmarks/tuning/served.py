"""A tuned program behind the gateway: held-out questions through the official client, and who answered them.

    python benchmarks/tuning/served.py out/tuning/tuned-0/phone/program.json --rows 50     # after real.py

The wanted share is the one that the program was tuned for. The budget caps calls at it; it never makes more of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from openai import OpenAI

from selfroute.config import TuneRecipe, load_recipe, make_task
from selfroute.environment import commit
from selfroute.grading import judge

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from served_gateway import served

RECIPE = Path(__file__).resolve().parents[2] / "recipes/tuning/sums.yaml"
OUT, PORT = Path("out/tuning"), 8093
DEVICE = OUT / "SmolLM2-135M-Instruct.Q4_0.gguf"  # which real.py writes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--rows", type=int, default=50)
    options = parser.parse_args()
    share = json.loads(options.program.read_text(encoding="utf-8"))["share"]
    recipe = {
        "device": {"llama_cpp": {"path": str(DEVICE), "slots": 1, "threads": 1}},
        "cloud": f"recorded:{OUT / 'cloud.jsonl'}",
        "prompt": {"template": f"tuned:{options.program}"},
        "budget": {"share": share},
    }
    with served(recipe, OUT / "served.yaml", PORT) as address:
        found = asked(address, options.rows)
    print(f"commit {commit()}, {options.rows} rows: {found}, wanted share of the cloud {share:.0%}")


def asked(address: str, count: int) -> dict[str, str]:
    """Shares of who answered and of what was right, of the first held-out rows."""
    task = make_task(load_recipe(TuneRecipe, RECIPE).task)
    rows = list(task.rows("test"))[:count]
    client = OpenAI(base_url=address, api_key="none", timeout=120.0)
    sources: Counter[str] = Counter()
    right = 0
    for row in rows:
        messages = [{"role": "user", "content": row.question}]
        answer = client.chat.completions.create(model="selfroute", messages=messages)  # type: ignore[arg-type]
        sources[answer.selfroute["source"]] += 1  # type: ignore[attr-defined]
        right += judge(task, row, answer.choices[0].message.content or "")[0] is True
    return {**{name: f"{n / len(rows):.0%}" for name, n in sources.items()}, "right": f"{right / len(rows):.0%}"}


if __name__ == "__main__":
    main()
