"""Writes the table of weights in CONTRIBUTING.md: lines of source that each system has for itself.

    python docs/make_weight.py

Lines are those of files, with docstrings, comments and blanks, rounded to tens. What several systems use is counted
once, in the last row; a test fails where a row is off by more than a tenth and by more than thirty lines, or names a
file that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, PAGE = ROOT / "src/selfroute", ROOT / "CONTRIBUTING.md"
MARK = "<!-- weight -->"
SYSTEMS: Mapping[str, str] = {
    "GAPG": "train/rl/gapg.py train/rl/prompt_filter.py train/rl/preflight.py train/rl/shares.py train/rl/held_out.py "
    "train/rl/alarms.py train/rl/constraints/dual.py train/rl/objectives/group.py train/rl/rollout_metrics.py "
    "rewards/group.py rewards/hierarchical.py strategies/self_route.py",
    "Token level (rewards of tokens, speculative, relay)": "strategies/inside/token_level.py "
    "strategies/inside/speculative.py strategies/inside/relay.py strategies/inside/foresight.py scores/tokens.py "
    "train/fit/token_heads.py train/fit/token_places.py train/fit/token_threshold.py train/rl/rollouts/relay.py "
    "assemble/heads.py",
    "AdaSwitch": "strategies/inside/step_level.py strategies/inside/checkers.py scores/steps.py scores/step_reward.py "
    "train/imitation/adaswitch.py train/imitation/exam.py train/imitation/reflection.py assemble/adaswitch.py",
    "Early exit (CE-CoLLM)": "strategies/inside/early_exit.py strategies/inside/cut.py backends/layers.py "
    "backends/layer_endpoint.py backends/halves.py backends/exits.py backends/torch/layers.py backends/torch/exits.py "
    "network/layer_messages.py network/states.py train/fit/exits.py assemble/exits.py",
    "Adaptive layer splitting": "strategies/inside/split.py network/channel.py train/splitting/*.py "
    "assemble/splitting.py",
    "Amortized inference": "train/rl/objectives/balance.py train/rl/objectives/subtb.py train/rl/objectives/flow.py "
    "train/rl/behaviour.py train/rl/replay.py train/rl/reference.py",
    "ARPO (tool agents)": "train/rl/rollouts/tree.py train/rl/rollouts/branching.py train/rl/objectives/tree.py "
    "strategies/search/tool_agent.py tasks/lookup.py tasks/episode.py tasks/toolbox.py tasks/gym.py actions.py",
    "ARMAP (rewards, planning)": "train/fit/reward_model.py train/fit/pairs.py train/fit/trajectories.py "
    "train/fit/answer_pairs.py scores/reward_model.py rewards/scored.py strategies/search/arena.py "
    "strategies/search/tree_search.py strategies/search/best_of_n.py strategies/search/reflexion.py "
    "strategies/search/planned.py strategies/search/agent.py tasks/shop.py tasks/game24.py assemble/searching.py "
    "assemble/reward_models.py",
    "Privacy, attribute control": "privacy/*.py backends/redacted.py rewards/attributes.py "
    "train/rl/constraints/attributes.py train/rl/constraints/critic.py train/rl/constraints/regulariser.py "
    "train/fit/critic.py backends/torch/critic.py backends/guided.py tasks/tickets.py",
    "EVOLvE (several clouds)": "bandits/*.py strategies/bandit_router.py backends/clouds.py assemble/studying.py "
    "assemble/clouds.py",
    "AsynDBT (tuning)": "tuning/*.py tuning/engines/*.py tuning/tuners/*.py assemble/tuning*.py",
    "Placement": "planning/*.py planning/solvers/*.py planning/report/*.py assemble/placing.py",
    "Budget and gateway": "budget/*.py gateway/*.py assemble/serving.py",
    "Evaluation and its reports": "evaluation/*.py evaluation/counting/*.py evaluation/report/*.py "
    "assemble/evaluating.py assemble/comparing.py",
    "Command line": "commands/*.py",
}


def files() -> dict[str, list[Path]]:
    """The files of each system; what none has for itself comes last.

    Raises:
        ValueError: a pattern that fits nothing, or a file of two systems.
    """
    found = {name: [path for pattern in told.split() for path in _matching(pattern)] for name, told in SYSTEMS.items()}
    every = [path for paths in found.values() for path in paths]
    if twice := {path.name for path in every if every.count(path) > 1}:
        raise ValueError(f"counted twice: {sorted(twice)}")
    rest = set(SOURCE.rglob("*.py")) - set(every)
    return {**found, "What they share": sorted(rest)}


def _matching(pattern: str) -> list[Path]:
    found = sorted(SOURCE.glob(pattern))
    if not found:
        raise ValueError(f"no file fits {pattern}")
    return found


def lines_of(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def table() -> Iterator[str]:
    counts = {name: (len(paths), round(lines_of(paths), -1)) for name, paths in files().items()}
    yield "| system | files | lines |"
    yield "|---|---|---|"
    for name, (number, lines) in counts.items():
        yield f"| {name} | {number} | {lines:,} |"
    yield f"| **all** | {sum(n for n, _ in counts.values())} | {sum(lines for _, lines in counts.values()):,} |"


def main() -> None:
    before, _, after = re.split(rf"(?s){MARK}(.*){MARK}", PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(f"{before}{MARK}\n" + "\n".join(table()) + f"\n{MARK}{after}", encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
