"""The whole road of a trained SmolLM2: exported, served by llama.cpp, asked by the official client.

    python benchmarks/pretrained/road.py out/pretrained/seed-1                 # after run.py; minutes of a core
    python benchmarks/pretrained/road.py out/pretrained/seed-1 --rows 20 --files f16

`selfroute export` writes GGUF, `selfroute calibrate --serve` a serving recipe with the threshold of the wanted share,
and `selfroute serve` runs it with the file for its device. The first problems of the evaluation are asked again; a
decision is who answers, and what the device answers where it does. Where one differs from the evaluation's, the line
says what either said, and how far the evaluation's score was from the threshold.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from openai import OpenAI

from selfroute.environment import commit
from selfroute.handoff import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from served_gateway import served

PORT = 8094
SELFROUTE = (sys.executable, "-m", "selfroute.commands.main")


@dataclass(frozen=True, slots=True)
class Decided:
    """Who answers a problem, the device's answer where it is the device, and the score, which decides no comparison."""

    source: str
    answer: str
    score: float | None = field(compare=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="folder of a seed of run.py")
    parser.add_argument("--arm", default="GAPG")
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--files", nargs="*", default=["f16", "q8_0"])
    options = parser.parse_args()
    folder = options.place / options.arm.lower() / "export"
    if not folder.exists():
        call("export", str(folder.parent), "--out", str(folder), "--format", "gguf")
    recipe = calibrated(options.place, options.arm, options.share)
    threshold = float(recipe["strategy"]["self_route"]["threshold"])
    before = evaluated(options.place / "warm-test", options.arm, threshold, options.rows)
    print(f"commit {commit()}, {options.arm}, {len(before)} problems, threshold {threshold:.4f} of {options.share:.0%}")
    for kind in options.files:
        file = next(folder.glob(f"*-{kind}.gguf"))
        # One thread, one answer at a time.
        device = {"llama_cpp": {"path": str(file), "slots": 1, "threads": 1, "context_tokens": 1024}}
        with served({**recipe, "device": device}, options.place / f"served-{kind}.yaml", PORT) as address:
            client = OpenAI(base_url=address, api_key="none", timeout=120.0)
            now = {question: asked(client, question) for question in before}
        report(kind, before, now, threshold)


def call(*words: str) -> None:
    print(shlex.join(["selfroute", *words]), flush=True)
    subprocess.run([*SELFROUTE, *words], check=True)


def calibrated(place: Path, arm: str, share: float) -> dict[str, Any]:
    """The serving recipe of an arm at a share."""
    file = place / "serve.yaml"
    call("calibrate", str(place / "warm-test"), "--strategy", arm, "--share", str(share), "--serve", str(file))
    recipe: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return recipe


# --- what was decided, then and now ---------------------------------------------------------------------------------


def lines(file: Path, arm: str) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as text:
        yield from (found for found in map(json.loads, text) if found["strategy"] == arm)


def evaluated(folder: Path, arm: str, threshold: float, count: int) -> dict[str, Decided]:
    """By question what an evaluation decides at a threshold; of the device's hand-offs below it, what it says alone."""
    attempts = {line["id"]: line for line in lines(folder / "samples.jsonl", arm)}
    found = {}
    for record in islice(lines(folder / "records.jsonl", arm), count):
        attempt = attempts[record["id"]]
        sends = record["score"] >= threshold
        text = attempt["local_text"] if record["wants_cloud"] else attempt["device_text"]
        found[attempt["question"]] = Decided("cloud", "", record["score"]) if sends else kept(text, record["score"])
    return found


def kept(text: str, score: float | None) -> Decided:
    return Decided("device", parse(text).answer, score)


def asked(client: OpenAI, question: str) -> Decided:
    """The same through the gateway."""
    messages = [{"role": "user", "content": question}]
    made: Any = client.chat.completions.create(model="selfroute", messages=messages)  # type: ignore[call-overload]
    said = made.selfroute
    if said["source"] != "device":
        return Decided(said["source"], "", said.get("score"))
    return kept(made.choices[0].message.content or "", said.get("score"))


def report(kind: str, before: Mapping[str, Decided], now: Mapping[str, Decided], threshold: float) -> None:
    same = [question for question in before if before[question] == now[question]]
    sources = sum(before[question].source == now[question].source for question in before)
    print(f"{kind}: same decision {len(same)} of {len(before)}, same side {sources}", flush=True)
    for question in before:
        then, again = before[question], now[question]
        if then != again:
            off = "no score" if then.score is None else f"score {then.score:.4f}, {then.score - threshold:+.4f}"
            print(f"  {question[:60]!r}: {then.source} {then.answer!r} -> {again.source} {again.answer!r}; {off}")


if __name__ == "__main__":
    main()
