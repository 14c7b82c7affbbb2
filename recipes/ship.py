"""Put trained models into the package's assets, with a record of how they were made.

    python recipes/ship.py device=out/device cloud=out/cloud
    python recipes/ship.py chain-device=out/chain/device chain-cloud=out/chain/cloud
    python recipes/ship.py chain-exits=out/chain/exits

Weights are stored in bfloat16, which halves them; the record in `assets/provenance.json` holds what the run wrote
about itself and the greedy accuracy on held-out problems, measured on the stored weights.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from selfroute.backends.base import complete_all, run_sync
from selfroute.backends.carried import carried_prompt
from selfroute.backends.embedded import ASSETS, asset_path, embedded
from selfroute.backends.exits import exits, save_exits
from selfroute.config import Spec, make_task, parse_overrides
from selfroute.environment import provenance
from selfroute.errors import SelfRouteError
from selfroute.grading import judge
from selfroute.handoff import parse
from selfroute.prompts import TEMPLATES, write_prompt
from selfroute.tasks.base import Row
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.types import Sampling

ROWS = 500


def main() -> None:
    for name, source in parse_overrides(sys.argv[1:]).items():
        run = Path(str(source))
        facts = about(run)
        store(name, run)
        record(name, {**facts, "held_out": measure(name), "recorded_with": provenance()})
    build_tokenizer().save_pretrained(str(asset_path("device").parent / "tokenizer"))


def store(name: str, run: Path) -> None:
    if ASSETS[name].exits:
        store_exits(run / "checkpoint", asset_path(name))
    else:
        model = AutoModelForCausalLM.from_pretrained(run / "checkpoint", dtype=torch.bfloat16)
        model.save_pretrained(asset_path(name))
    if (prompt := carried_prompt(run)) is None:
        raise SystemExit(f"no selfroute.json in {run / 'checkpoint'}: train it with this version")
    write_prompt(asset_path(name), prompt)


def store_exits(source: Path, target: Path) -> None:
    made = exits(source, dtype="bfloat16", device="cpu")
    target.mkdir(exist_ok=True)
    save_exits(target, made.model, None, made._exits, made.whole)
    for file in target.iterdir():
        file.chmod(0o644)


def about(run: Path) -> Mapping[str, Any]:
    """What the run wrote about itself."""
    file = run / "run.json"
    if not file.exists():
        raise SystemExit(f"no run.json in {run}: name the folder of a finished `selfroute train`")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def measure(name: str) -> dict[str, Any]:
    """Greedy accuracy on test problems; the device alone (no hand-off offered) and with the offer."""
    task = make_task(Spec(ASSETS[name].task), seed=0, limit=ROWS)
    template, rows = TEMPLATES[task.template], list(task.rows("test"))
    results: dict[str, Any] = {"split": "test", "seed": 0, "n": len(rows)}
    prompt = carried_prompt(asset_path(name))
    # Exits begin a cloud's answers, and are asked as it is.
    as_cloud = ASSETS[name].exits or (prompt is not None and prompt.role == "cloud")
    offers = {"alone": None} if as_cloud else {"alone": False, "offered": True}
    for title, offer in offers.items():
        prompts = [template.conversation(row.question) for row in rows]
        if offer is not None:
            prompts = [template.device_messages(prompt, offer_handoff=offer) for prompt in prompts]
        started = time.perf_counter()
        answers = run_sync(complete_all(embedded(name), prompts, Sampling(max_tokens=512)))
        texts = ["" if isinstance(answer, SelfRouteError) else answer.text for answer in answers]
        verdicts = [bool(judge(task, row, text)[0]) for row, text in zip(rows, texts, strict=True)]
        asked = [parse(text).wants_cloud for text in texts]
        kinds = [kind_of(row) for row in rows]
        results[title] = {
            "accuracy": _mean(verdicts),
            **{
                f"accuracy_{kind}": _mean(v for v, own in zip(verdicts, kinds, strict=True) if own == kind)
                for kind in sorted(set(kinds))
            },
            "asked": _mean(asked),
            "seconds": round(time.perf_counter() - started, 1),
        }
    print(name, json.dumps(results, indent=1))
    return results


def kind_of(row: Row) -> str:
    """What accuracies are told apart by: Chain's kinds, Countdown's numbers."""
    return str(row.fields["kind"]) if "kind" in row.fields else f"{len(row.fields['numbers'])}_numbers"


def _mean(values: Iterable[bool]) -> float:
    listed = list(values)
    return sum(listed) / max(1, len(listed))


def record(name: str, entry: Mapping[str, Any]) -> None:
    file = asset_path("device").parent / "provenance.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**known, name: entry}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
