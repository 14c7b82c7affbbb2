"""How long and how much memory it takes to count a large records file.

    python benchmarks/summary.py [--rows 100000] [--strategies 20] [--against CHECKOUT] [--times 1]

Writes records of that size, then counts them in a process of its own as `selfroute report` does: read and check every
line, all numbers with 1,000 bootstrap samples, figures and report. With another checkout of this repository the same
records are counted by both in turn, and the ratio of their processor times is told.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from selfroute.evaluation.records import Record, Sample, append


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--strategies", type=int, default=20)
    parser.add_argument("--count", type=Path, metavar="FOLDER", help="count what an earlier call wrote there")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only write the records, there")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="count with that code as well")
    parser.add_argument("--times", type=int, default=1, help="how often each counts")
    options = parser.parse_args()
    if options.count is not None:
        count(options.count)
        return
    if options.write is not None:
        options.write.mkdir(parents=True, exist_ok=True)
        write(options.write, rows=options.rows, strategies=options.strategies)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows=options.rows, strategies=options.strategies)
        size = (Path(folder) / "records.jsonl").stat().st_size / 1e6
        print(f"{options.rows:,} rows x {options.strategies} strategies, {size:,.0f} MB of records")
        checkouts = [Path(__file__).resolve().parents[1], *([options.against.resolve()] if options.against else [])]
        spent = [[in_checkout(checkout, folder) for checkout in checkouts] for _ in range(options.times)]
        if options.against:
            ratios = sorted(own / other for own, other in spent)
            told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"processor time here over there: {told} (n = {options.times}, median {median(ratios):.2f})")


def in_checkout(checkout: Path, folder: str) -> float:
    """Processor seconds in which a checkout's code counts a folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    paths = os.pathsep.join([str(checkout / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(checkout / "benchmarks" / "summary.py"), "--count", folder]
    subprocess.run(command, check=True, cwd=checkout, env=os.environ | {"PYTHONPATH": paths})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write(folder: Path, *, rows: int, strategies: int) -> None:
    """Prompts of graded difficulty, and scores that see it through more and more noise."""
    rng = np.random.default_rng(0)
    hard = rng.random(rows)
    device, cloud = hard < 0.6, rng.random(rows) < 0.95 - 0.2 * hard
    (folder / "run.json").write_text(json.dumps({"identity": {"task": "made up", "share": 0.3, "seed": 0}}))
    with (folder / "records.jsonl").open("w") as records, (folder / "samples.jsonl").open("w") as samples:
        for number in range(strategies):
            score = hard + rng.normal(0, 0.1 + 0.05 * number, rows)
            for i in range(rows):
                name, id = f"strategy_{number:02}", f"row-{i:06}"
                sent = bool(score[i] > 0.7)
                line = Record(
                    strategy=name, id=id, source="cloud" if sent else "device", wants_cloud=sent, score=score[i],
                    correct=bool(cloud[i] if sent else device[i]), device_correct=bool(device[i]),
                    cloud_correct=bool(cloud[i]), device_tokens=100 + i % 50, cloud_tokens=i % 70 if sent else 0,
                    seconds=0.5, device_prompt_tokens=80, attempt_prompt_tokens=80, attempt_tokens=100 + i % 50,
                    local_prompt_tokens=80, local_tokens=100 + i % 50, cloud_answer_prompt_tokens=70,
                    cloud_answer_tokens=100 + i % 70,
                )  # fmt: skip
                append(records, line)
                append(samples, Sample(strategy=name, id=id, question=f"What is {i}?", gold=str(i)))


def count(folder: Path) -> None:
    from selfroute.assemble.evaluating import report_folder

    began = time.perf_counter()
    report_folder(folder, ["prices=recipes/prices.yaml"])
    seconds = time.perf_counter() - began
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1000 if sys.platform == "darwin" else 1)
    print(f"counted in {seconds:.1f} s with {kilobytes / 1e6:.2f} GB at most (asked for: 20 s, 2 GB)")


if __name__ == "__main__":
    main()
