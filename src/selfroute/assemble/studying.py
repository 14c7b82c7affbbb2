"""The study of exploration: settings, policies and models by name, played on the same seeds and judged alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.backends.base import Backend, complete_all
from selfroute.config import Spec, make_policy, suggest
from selfroute.errors import ConfigError
from selfroute.types import Completion, Sampling

if TYPE_CHECKING:
    from selfroute.bandits.environments import Environment
    from selfroute.bandits.play import Played
    from selfroute.bandits.prompting import Shown

__all__ = ["Studied", "environment_maker", "judge", "model_runs", "policy_runs", "write_demonstrations"]

Make = Callable[[int], "Environment"]
OnProgress = Callable[[int, int], object]
# Between the seeds of a run's environment, of the policy in it, and of the run that examples are taken from.
APART = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Studied:
    """Runs of one agent, one per seed.

    Attributes:
        unreadable: replies of a model that named no arm, over all runs; None for a policy.
    """

    runs: Sequence[Played]
    unreadable: int | None = None


def environment_maker(
    setting: str,
    *,
    names: str = "video",
    steps: int | None = None,
    movielens: Path | None = None,
    train: bool = False,
) -> Make:
    """The function that draws a setting from a seed.

    Args:
        setting: one of `selfroute.bandits.environments.SETTINGS`, or films-K for the contextual one.
        names: which of the paper's two sets of names.
        steps: horizon other than the paper's.
        movielens: folder of MovieLens for films-K; without it a table is generated.
        train: users 0 to 199 of the table come, in place of the others.

    Raises:
        ConfigError: an unknown setting, or files that are not there.
    """
    from dataclasses import replace

    from selfroute.bandits.environments import SETTINGS, MultiArmed

    if setting in SETTINGS:
        chosen = SETTINGS[setting] if steps is None else replace(SETTINGS[setting], horizon=steps)
        return lambda seed: MultiArmed(chosen, seed=seed, names=names)
    kind, _, count = setting.partition("-")
    if kind != "films" or not count.isdigit() or not int(count):
        known = [*SETTINGS, "films-10", "films-30"]
        raise ConfigError(f"setting: unknown '{setting}'{suggest(setting, known)}; known: {', '.join(known)}")
    return _films(int(count), steps or 200, movielens, range(200) if train else None)


def _films(count: int, horizon: int, movielens: Path | None, users: range | None) -> Make:
    from selfroute.bandits.environments import Contextual, generated_ratings
    from selfroute.bandits.movielens import read_movielens

    if movielens is None:
        ratings, titles = generated_ratings(1000, count), [f"film {number + 1}" for number in range(count)]
    else:
        ratings, titles = read_movielens(movielens, count)
    come = users or range(200, len(ratings))
    return lambda seed: Contextual(ratings, titles, seed=seed, horizon=horizon, users=come)


def policy_runs(spec: Spec, make: Make, seeds: int, *, seed: int = 0, where: str = "policy") -> Studied:
    """Play a policy on seeds `seed` to `seed` + `seeds` - 1.

    Raises:
        ConfigError: an unknown policy or option, or one that does not suit the setting.
    """
    from selfroute.bandits.play import play

    runs = []
    for number in range(seed, seed + seeds):
        environment = make(number)
        runs.append(play(_policy(spec, environment, APART + number, where), environment))
    return Studied(runs)


def _policy(spec: Spec, environment: Environment, seed: int, where: str) -> Any:
    """A policy of the study: without a floor, unless the spec has one."""
    own = {"uniform", "epsilon_greedy"}  # what they do is their floor
    options = spec.options if spec.name in own else {"floor": 0.0, **spec.options}
    features = len(environment.features())
    return make_policy(
        Spec(spec.name, spec.value, options), arms=environment.arms, features=features, seed=seed, where=where
    )


async def model_runs(
    backend: Backend,
    make: Make,
    seeds: int,
    *,
    shown: Shown,
    shots: int = 0,
    seed: int = 0,
    max_tokens: int = 16,
    on_progress: OnProgress | None = None,
) -> Studied:
    """Play a model on the same seeds, all runs in step, so that a backend that answers in batches does.

    Args:
        shots: examples of a UCB run (LinUCB with a context) in another draw of the setting.
        on_progress: called with steps done and in all.
    """
    from selfroute.bandits.play import Tape
    from selfroute.bandits.prompting import Scribe, examples

    environments = [make(number) for number in range(seed, seed + seeds)]
    turns = examples(_teacher(make(APART)), make(APART), shown=shown, count=shots) if shots else []
    scribes = [Scribe(e.arms, shown=shown, features=len(e.features()), shots=turns) for e in environments]
    tapes = [Tape(environment) for environment in environments]
    sampling = Sampling(max_tokens=max_tokens)
    for step in range(environments[0].horizon):
        contexts = [environment.features() for environment in environments]
        prompts = [scribe.messages(x) for scribe, x in zip(scribes, contexts, strict=True)]
        for tape, scribe, x, answer in zip(
            tapes, scribes, contexts, await complete_all(backend, prompts, sampling), strict=True
        ):
            arm = scribe.read(answer.text if isinstance(answer, Completion) else None)
            scribe.told(arm, tape.pull(scribe.arms.index(arm)), x)
        if on_progress is not None:
            on_progress(step + 1, environments[0].horizon)
    return Studied([tape.played() for tape in tapes], sum(scribe.unreadable for scribe in scribes))


def _teacher(environment: Environment, seed: int = APART) -> Any:
    name = "linucb" if environment.features() else "ucb"
    return _policy(Spec(name), environment, seed, "policy")


def judge(studied: Mapping[str, Studied], arms: int) -> dict[str, dict[str, Any]]:
    """Every agent's numbers over its runs: means, standard deviation of regret, and the fit of its growth."""
    from selfroute.bandits.metrics import best_share, fit_growth, greedy_frequency, suffix_fails, win_rates

    regrets = {name: _array([run.regret.sum() for run in one.runs]) for name, one in studied.items()}
    comparable = len(studied) > 1 and all(len(values) > 1 for values in regrets.values())
    wins = win_rates({name: [values] for name, values in regrets.items()}) if comparable else {}
    found = {}
    for name, one in studied.items():
        growth = fit_growth(_array([run.regret.cumsum() for run in one.runs]).mean(0))
        found[name] = {
            "seeds": len(one.runs),
            "regret": float(regrets[name].mean()),
            "regret_sd": float(regrets[name].std(ddof=1)) if len(one.runs) > 1 else None,
            "best_share": float(_array([best_share(run) for run in one.runs]).mean()),
            "suffix_fail": float(_array([suffix_fails(run) for run in one.runs]).mean()),
            "greedy_frequency": float(_array([greedy_frequency(run, arms) for run in one.runs]).mean()),
            "beta": growth.beta,
            "alpha": growth.alpha,
            "win_rate": wins.get(name),
            "unreadable": one.unreadable,
        }
    return found


def _array(values: Sequence[Any]) -> Any:
    import numpy as np

    return np.array(values, dtype=float)


def write_demonstrations(
    path: Path,
    makes: Sequence[Make],
    spec: Spec,
    *,
    shown: Shown,
    runs: int,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> int:
    """An algorithm's decisions as chat data: a line per step, with the prompt's messages and the reply to learn.

    The lines are in the prompt-completion form that TRL's `SFTTrainer` takes. Whole or not there.

    Returns:
        Number of lines.

    Raises:
        ConfigError: an unknown policy or option.
    """
    from selfroute.evaluation.files import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    count, total = 0, runs * len(makes)
    with replacing(path) as partial_path, partial_path.open("w", encoding="utf-8") as file:
        for done, (make, number) in enumerate(((m, n) for m in makes for n in range(seed, seed + runs)), 1):
            for line in _lines(make, number, spec, shown):
                file.write(line + "\n")
                count += 1
            if on_progress is not None:
                on_progress(done, total)
    return count


def _lines(make: Make, number: int, spec: Spec, shown: Shown) -> Iterator[str]:
    from selfroute.bandits.prompting import demonstrations

    environment = make(number)
    teacher = _policy(spec, environment, APART + number, "--policy")
    for messages, chosen in demonstrations(teacher, environment, shown=shown):
        prompt = [{"role": message.role, "content": message.content} for message in messages]
        yield json.dumps({"prompt": prompt, "completion": [{"role": "assistant", "content": chosen}]})
