"""Does the device's state know what the cloud will get wrong? The shipped policy ranked by a head on its hidden states.

    python benchmarks/beyond/knowing.py            # a quarter of an hour on one core; goes on where it was
    python benchmarks/beyond/knowing.py --trained out/evidence-long --names gapg gapg_priced   # by run.py of countdown

A policy's score tells its own failures, and nothing about which of them the cloud will solve. Here a logistic
regression is fitted to the cloud's verdicts on training problems, from the hidden states at the place where the policy
decides and behind its prompt, and problems are ranked by its probability times the score. Beside it: the score alone,
heads for both verdicts, and what perfect knowledge of either verdict would be worth.

Fixed before the run, after a look at other draws: 3,000 training problems, three draws of 800 test problems, one
regularisation (C = 0.03), layers as below. Oracle gain is (right - random) / (oracle - random) at a share; kept
problems count by what the device answers: its attempt, or its answer without the offer where the attempt asked.

With --trained also by the scores of policies that were trained otherwise, three seeds of each, on one draw each. A
group estimator under a price and without the filter keeps what the cloud's verdict says of problems at which all
attempts failed: asking there costs the price, and brings nothing where the cloud fails too.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from selfroute.assemble.pieces import quiet_libraries
from selfroute.backends.base import complete_all, run_sync
from selfroute.backends.embedded import embedded
from selfroute.backends.transformers import TransformersBackend
from selfroute.environment import commit
from selfroute.grading import judge
from selfroute.handoff import HANDOFF_TEXT, decides_at, handoff_score, parse
from selfroute.prompts import TEMPLATES
from selfroute.tasks.base import Row
from selfroute.tasks.countdown import Countdown
from selfroute.types import Completion, Message, Sampling

HERE = Path(__file__).parent
TEMPLATE = TEMPLATES["think"]
FITTED, JUDGED, SEEDS, SHARES, C = 3000, 800, (21, 22, 23), (0.1, 0.2, 0.3, 0.4, 0.5), 0.03
DECIDING, BEHIND_PROMPT = (4, 5), (1, 5)  # layers whose states are read: the last two, and an early and the last
Known = Mapping[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/knowing"))
    parser.add_argument("--trained", type=Path, help="folder of the runs")
    parser.add_argument("--names", nargs="*", default=["gapg", "gapg_priced"], help="of their algorithms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    options.out.mkdir(parents=True, exist_ok=True)
    fitted = known(options.out, "train", 0, FITTED)
    judged = {seed: known(options.out, "test", seed, JUDGED) for seed in SEEDS}
    text = page(fitted, judged)
    if options.trained is not None:
        text += trained_page(options.out, options.trained, options.names)
    (HERE / "knowing.md").write_text(text, encoding="utf-8")
    print((HERE / "knowing.md").read_text(encoding="utf-8"))


# --- what is known of problems --------------------------------------------------------------------------------------


def known(out: Path, split: str, seed: int, count: int) -> Known:
    """Score, verdicts of both sides, and states, of problems; from a file if it is there."""
    file = out / f"{split}-{seed}.npz"
    if not file.exists():
        task, device = Countdown(limit=count, seed=seed), embedded("device-gapg")
        rows = list(islice(task.rows(split), count))
        attempts = said(device, offered(rows), top_logprobs=20)
        pairs = zip(asked(rows), attempts, strict=True)
        found = np.stack([states(device, each, one) for each, one in pairs])
        np.savez(file, **gathered(task, rows, device, attempts), states=found)
        print(f"gathered: {file}", flush=True)
    return dict(np.load(file))


def scored(out: Path, trained: Path, name: str, seed: int) -> Known:
    """Score and verdicts, by a policy that was trained."""
    file = out / f"{name}-{seed}.npz"
    if not file.exists():
        task = Countdown(limit=JUDGED, seed=SEEDS[0] - 1 + seed)
        rows = list(islice(task.rows("test"), JUDGED))
        device = TransformersBackend.load(str(trained / f"{name}-{seed}" / "checkpoint"))
        np.savez(file, **gathered(task, rows, device, said(device, offered(rows), top_logprobs=20)))
        print(f"gathered: {file}", flush=True)
    return dict(np.load(file))


def asked(rows: Sequence[Row]) -> list[list[Message]]:
    return [TEMPLATE.conversation(row.question) for row in rows]


def offered(rows: Sequence[Row]) -> list[list[Message]]:
    return [TEMPLATE.device_messages(each) for each in asked(rows)]


def gathered(task: Countdown, rows: Sequence[Row], device: Any, attempts: Sequence[Completion]) -> dict[str, Any]:
    """Score, and whether each side is right."""
    alone = said(
        device, [TEMPLATE.device_messages(each, offer_handoff=False) for each in asked(rows)], forbid=(HANDOFF_TEXT,)
    )
    clouds = said(embedded("cloud"), asked(rows))
    kept = [other if parse(one.text).wants_cloud else one for one, other in zip(attempts, alone, strict=True)]
    return {
        "score": np.array([handoff_score(one.tokens) or 0.0 for one in attempts]),
        "device": np.array([judge(task, row, one.text)[0] is True for row, one in zip(rows, kept, strict=True)]),
        "cloud": np.array([judge(task, row, one.text)[0] is True for row, one in zip(rows, clouds, strict=True)]),
    }


def said(backend: Any, prompts: Sequence[Any], **sampling: Any) -> list[Completion]:
    found = run_sync(complete_all(backend, prompts, Sampling(max_tokens=256, **sampling)))
    if failed := [one for one in found if not isinstance(one, Completion)]:
        raise SystemExit(f"{backend.name}: {len(failed)} answers failed, the first: {failed[0]}")
    return [one for one in found if isinstance(one, Completion)]


@torch.inference_mode()
def states(device: Any, conversation: Any, attempt: Completion) -> np.ndarray:
    """Hidden states where the attempt decides, and behind the prompt."""
    prompt = device.prompt_ids(TEMPLATE.device_messages(conversation))
    before = attempt.tokens[: decides_at(attempt.tokens)]
    written = device.tokenizer("".join(token.text for token in before), add_special_tokens=False)["input_ids"]
    layers = device.model(torch.tensor([[*prompt, *written]]), output_hidden_states=True).hidden_states
    found = [*(layers[n][0, -1] for n in DECIDING), *(layers[n][0, len(prompt) - 1] for n in BEHIND_PROMPT)]
    return torch.cat(found).numpy()


# --- ranking --------------------------------------------------------------------------------------------------------


def oracle_gain(rank: np.ndarray, problems: Known, share: float) -> float:
    device, cloud = problems["device"].astype(float), problems["cloud"].astype(float)
    most, worth = round(share * len(rank)), cloud - device
    sent = np.argsort(-rank, kind="stable")[:most]
    random = share * worth.mean()
    best = np.sort(worth)[::-1][:most].clip(min=0).mean() * most / len(rank)
    return float((worth[sent].sum() / len(rank) - random) / (best - random))


def rankings(fitted: Known, problems: Known) -> dict[str, np.ndarray]:
    """By name; the last two know what nobody can."""
    heads = {side: head(fitted, side, problems) for side in ("device", "cloud")}
    score = problems["score"]
    return {
        "score": score,
        "score x cloud's head": score * heads["cloud"],
        "both heads": heads["cloud"] * (1 - heads["device"]),
        "own failures known": (~problems["device"]) + 1e-6 * score,
        "score x cloud known": score * problems["cloud"],
    }


def head(fitted: Known, side: str, problems: Known) -> np.ndarray:
    """Probability that a side is right."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    model.fit(inputs(fitted), fitted[side])
    found: np.ndarray = model.predict_proba(inputs(problems))[:, 1]
    return found


def inputs(problems: Known) -> np.ndarray:
    score = np.clip(problems["score"], 1e-6, 1 - 1e-6)
    return np.column_stack([problems["states"], np.log(score / (1 - score))])


def page(fitted: Known, judged: Mapping[int, Known]) -> str:
    made = {seed: rankings(fitted, problems) for seed, problems in judged.items()}
    lines = [
        "# Knowing the cloud too",
        "",
        f"`python benchmarks/beyond/knowing.py`, commit {commit()}. Heads fitted on {FITTED} training problems; three",
        f"draws of {JUDGED} test problems, mean ± standard deviation. Oracle gain at a call share:",
        "",
        "| ranked by | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |",
        "|---|" + "---|" * len(SHARES),
    ]
    for name in next(iter(made.values())):
        cells = [spread([oracle_gain(made[seed][name], judged[seed], share) for seed in judged]) for share in SHARES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Area under the curve:", "", "| for | by the score | by the head |", "|---|---|---|"]
    for name, cells in areas(fitted, judged).items():
        lines.append(f"| {name} | " + " | ".join(map(spread, cells)) + " |")
    return "\n".join(lines) + "\n"


def trained_page(out: Path, trained: Path, names: Sequence[str]) -> str:
    """Policies that were trained otherwise, ranked by their own scores."""
    lines = [
        "",
        f"Policies that were trained otherwise, three seeds of each, {JUDGED} problems each, ranked by their score.",
        "Oracle gain at a share; area under the curve for own failures, and among them for those the cloud solves:",
        "",
        "| algorithm | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | own failures | cloud solves |",
        "|---|" + "---|" * (len(SHARES) + 2),
    ]
    for name in names:
        runs = [scored(out, trained, name, seed) for seed in (1, 2, 3)]
        cells = [spread([oracle_gain(run["score"], run, share) for run in runs]) for share in SHARES]
        cells += [spread(list(found)) for found in zip(*map(areas_of_score, runs), strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def areas_of_score(problems: Known) -> tuple[float, float]:
    """For own failures, and among them for those that the cloud solves."""
    failed, score = ~problems["device"], problems["score"]
    return float(roc_auc_score(failed, score)), float(roc_auc_score(problems["cloud"][failed], score[failed]))


def areas(fitted: Known, judged: Mapping[int, Known]) -> dict[str, tuple[list[float], list[float]]]:
    """How well score and heads tell own failures, and among these the ones that the cloud solves."""
    own: tuple[list[float], list[float]] = ([], [])
    other: tuple[list[float], list[float]] = ([], [])
    for problems in judged.values():
        device, cloud, failed = problems["device"], problems["cloud"], ~problems["device"]
        heads = head(fitted, "device", problems), head(fitted, "cloud", problems)
        for found, area in zip((own, other), areas_of_score(problems), strict=True):
            found[0].append(area)
        own[1].append(roc_auc_score(device, heads[0]))
        other[1].append(roc_auc_score(cloud[failed], heads[1][failed]))
    return {"own failures": own, "those that the cloud solves, among them": other}


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
