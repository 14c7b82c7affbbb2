"""DSPy's GEPA on the problems of `real.py`, in an environment of its own: it brings some 70 packages.

    python -m venv .venv-dspy && .venv-dspy/bin/pip install dspy
    selfroute serve device=smollm2 cloud=null strategy=always_device port=8090      # in another terminal
    .venv-dspy/bin/python benchmarks/tuning/dspy_peer.py --calls 240

Needs nothing of selfroute but the endpoint and the files of `real.py --inputs`. Calls are counted at the endpoint's
client, those of the task and of reflection apart: DSPy's own count is loose.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

OUT = Path("out/tuning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=240)
    parser.add_argument("--base-url", default="http://127.0.0.1:8090/v1")
    parser.add_argument("--reflector", default=None, help="base URL of a stronger model; the device itself without it")
    options = parser.parse_args()
    import dspy  # type: ignore[import-not-found]

    device = model(dspy, options.base_url, max_tokens=24)
    reflector = model(dspy, options.reflector or options.base_url, max_tokens=1024)
    dspy.configure(lm=device)
    rows = [json.loads(line) for line in (OUT / "data/train.jsonl").read_text(encoding="utf-8").splitlines()]
    examples = [dspy.Example(question=r["question"], answer=str(r["answer"])).with_inputs("question") for r in rows]
    tuner = dspy.GEPA(metric=judged, max_metric_calls=options.calls, reflection_lm=reflector, seed=0)
    program = tuner.compile(dspy.Predict("question -> answer"), trainset=examples[20:], valset=examples[:20])
    print("device calls:", len(device.history), "reflections:", len(reflector.history))
    print(program.signature.instructions)


def model(dspy: Any, base_url: str, *, max_tokens: int) -> Any:
    return dspy.LM("openai/smollm2", api_base=base_url, api_key="none", cache=False, max_tokens=max_tokens)


def judged(gold: Any, predicted: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> float:
    """Whether the last number that was written is the answer."""
    numbers = re.findall(r"-?\d+", str(getattr(predicted, "answer", "")))
    return float(bool(numbers) and numbers[-1] == gold.answer)


if __name__ == "__main__":
    main()
