"""A plan is for the traffic it was made for: two tiny mixture models, two domains, and what the device hands off.

    selfroute evaluate recipes/countdown/evaluate.yaml limit=400 'strategies=[always_cloud]' out=out/placement/evaluated
    python benchmarks/placement/traffic.py

The models have the embedded pair's vocabulary and learn two domains in seconds: Countdown, as the evaluation's cloud
answered it, and the prose of the licence. Loads are then measured from their routers. Requests are split in halves:
plans are made on one half and judged on the other. Writes traffic.md and traffic.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfroute import environment
from selfroute.backends.embedded import asset_path
from selfroute.planning.cluster import fat_tree
from selfroute.planning.load import Load
from selfroute.planning.moves import replan
from selfroute.planning.problem import Problem, Slots, homes_problem, objective
from selfroute.planning.prompts import read_prompts
from selfroute.planning.routers import measured_load, mixture_of
from selfroute.planning.solvers import solve

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EVALUATED = ROOT / "out/placement/evaluated"
SEEDS = (0, 1, 2)
STEPS, BATCH, LENGTH = 150, 16, 64
RANKS = fat_tree(servers=8, leaf=2, pod=2)


def mixtral(vocabulary: int) -> PreTrainedModel:
    config = transformers.MixtralConfig(**shape(vocabulary), num_local_experts=16)
    return transformers.MixtralForCausalLM(config)


def deepseek(vocabulary: int) -> PreTrainedModel:
    config = transformers.DeepseekV3Config(
        **shape(vocabulary), n_routed_experts=16, n_shared_experts=1, n_group=4, topk_group=2,
        moe_intermediate_size=64, first_k_dense_replace=1, q_lora_rank=None, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=16,
    )  # fmt: skip
    model: PreTrainedModel = transformers.DeepseekV3ForCausalLM(config)
    with torch.no_grad():  # its routers start at zero, where every choice is a tie
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.normal_(0, 0.1)
    return model


def shape(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048,
        "num_experts_per_tok": 2, "pad_token_id": 0,
    }  # fmt: skip


def prose() -> list[str]:
    """Paragraphs of the licence: another kind of text, and one that does not change."""
    return [part for part in (ROOT / "LICENSE").read_text("utf-8").split("\n\n") if len(part) > 100]


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], seed: int) -> float:
    """Next-token prediction on pieces of all texts; gives the last steps' loss."""
    ids = torch.tensor([i for text in texts for i in tokenizer(text + "\n")["input_ids"]])
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    losses = []
    for _ in range(STEPS):
        starts = torch.randint(len(ids) - LENGTH, (BATCH,), generator=generator)
        batch = torch.stack([ids[start : start + LENGTH] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    model.eval()
    return mean(losses[-10:])


def judge(make: Callable[[int], PreTrainedModel], seed: int) -> list[dict[str, Any]]:
    """One model: domains against each other, and all requests against those handed off."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(asset_path("cloud").parent / "tokenizer")
    model = make(len(tokenizer))
    requests, handed = read_prompts(EVALUATED), set(read_prompts(EVALUATED, strategy="self_route"))
    start = time.process_time()
    loss = train(model, tokenizer, [*requests, *prose()], seed)
    trained_s = time.process_time() - start

    def problem(texts: Sequence[str]) -> Problem:
        return problem_of(measured_load(model, tokenizer, [texts], about="a benchmark's load"), model)

    halves = [(texts[0::2], texts[1::2]) for texts in (requests, prose(), [r for r in requests if r in handed])]
    countdown, words, sent = ((problem(first), problem(second)) for first, second in halves)
    kept = problem([r for r in requests if r not in handed])
    known = {"model": make.__name__, "seed": seed, "loss": loss, "trained_s": trained_s}
    return [
        known | {"case": "plan for Countdown, used on prose"} | compared(countdown[0], words),
        known | {"case": "plan for prose, used on Countdown"} | compared(words[0], countdown),
        known | {"case": "plan for all requests, used on those handed off"} | compared(countdown[0], sent),
        known | {"case": "plan for those kept, used on those handed off"} | compared(kept, sent),
    ]


def problem_of(load: Load, model: PreTrainedModel) -> Problem:
    mixture = mixture_of(model)
    each = mixture.experts // RANKS.ranks
    return homes_problem(load, mixture, RANKS, Slots(layer=each, total=each * mixture.layers, equal=True))


def compared(made_for: Problem, used_on: tuple[Problem, Problem]) -> dict[str, Any]:
    """A plan for one traffic on another: what it loses, what a new plan recovers, and what linear costs.

    Args:
        used_on: the half that a new plan is made on, and the half on which all are judged.
    """
    seen, judged = used_on
    plan, again = solve("assignment", made_for), replan("assignment", seen, solve("assignment", made_for).assign)
    best, linear = solve("assignment", judged).objective, solve("linear", judged).objective
    stale, fresh = objective(judged, plan.assign), objective(judged, again.assign)
    return {
        "apart": float(np.abs(made_for.load - judged.load).sum(axis=1).mean() / judged.load.sum(axis=1).mean()),
        "lost": stale / best - 1, "after_new_plan": fresh / best - 1, "linear": linear / best - 1,
        "cpu_s": again.cpu_s,
    }  # fmt: skip


def lines(results: dict[str, Any]) -> list[str]:
    rows, n = results["rows"], results["requests"]
    columns = ("apart", "lost", "after_new_plan", "linear")
    out = [
        "# A plan and its traffic",
        "",
        (__doc__ or "").split("\n\n")[2].replace("\n", " "),
        "",
        f"`{results['command']}`, commit {results['commit']}, seeds {', '.join(map(str, SEEDS))} of the models, "
        f"{n['all']} requests, {n['handed_off']} handed off, {n['prose']} paragraphs.",
        "",
        "Costs are hops per token on the half that no plan was made on, above the best plan for that half; mean ±",
        "standard deviation over seeds, in %. Apart: difference of the two loads, of at most 200 %.",
        "",
        "| model | case | apart | lost | after the new plan | linear | CPU s of the new plan |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, case in dict.fromkeys((row["model"], row["case"]) for row in rows):
        own = [row for row in rows if (row["model"], row["case"]) == (kind, case)]
        cells = [
            f"{100 * mean(r[c] for r in own):.1f} ± {100 * stdev(r[c] for r in own):.1f}" for c in columns
        ]  # fmt: skip
        out.append(f"| {kind} | {case} | {' | '.join(cells)} | {max(r['cpu_s'] for r in own):.3f} |")
    trained = max(row["trained_s"] for row in rows)
    return [*out, "", f"Training took at most {trained:.0f} CPU seconds a model ({STEPS} steps).", ""]


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for make in (mixtral, deepseek) for seed in SEEDS for row in judge(make, seed)]
    requests, handed = read_prompts(EVALUATED), read_prompts(EVALUATED, strategy="self_route")
    counts = {"all": len(requests), "handed_off": len(handed), "prose": len(prose())}
    command = "python benchmarks/placement/traffic.py"
    results = {"command": command, "requests": counts, **environment.provenance(), "rows": rows}
    (HERE / "traffic.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "traffic.md").write_text("\n".join(lines(results)), encoding="utf-8")
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
