"""`selfroute train --dry-run`: build all of a run but its weights, and say how large it will be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfroute.assemble.pieces import price_table, quiet_libraries, template_of
from selfroute.assemble.training import model_files
from selfroute.backends.base import find_capability
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.config import (
    BACKENDS,
    PAIRS,
    RewardRecipe,
    Spec,
    TrainRecipe,
    make_objective,
    make_pairs,
    make_task,
    prepare_backend,
)
from selfroute.errors import ConfigError
from selfroute.scores.reward_model import check_reward_folder, scored_ids
from selfroute.tasks.base import Row, Task
from selfroute.tasks.data import local_path

__all__ = ["DryRun", "dry_run", "reward_dry_run"]

CHARACTERS_PER_TOKEN = 3.0  # where no tokenizer is within reach; English has about four
LOOKED_AT = 64  # walks of a reward's pairs, to see how long they are
WRITTEN = "checkpoint/, checkpoints/, metrics.jsonl, rollouts.jsonl, config.yaml, data.json, run.json"


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would be.

    Attributes:
        facts: lines of name and value.
        memory: parts of one process's memory and their bytes, the most at once last.
        notes: what could not be looked at from here, and what is still missing for the run.
    """

    facts: tuple[tuple[str, str], ...]
    memory: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]


def dry_run(recipe: TrainRecipe, *, beside: Path, processes: int = 1) -> DryRun:
    """Check every key of a recipe by building what it names; nothing is written and no model is asked.

    Args:
        beside: folder in whose `models/NAME/` the configuration of a hub repository out of reach is looked for.
        processes: that the run is meant for.

    Raises:
        ConfigError: what the run itself would raise before its first step.
    """
    notes: list[str] = []
    task = make_task(recipe.task, seed=recipe.seed, template=recipe.template)
    template_of(task)
    rows = _rows(task, notes)
    price_table(recipe.prices, recipe.priced_as, device=recipe.model, cloud=recipe.cloud)
    files = model_files(recipe.model)
    if recipe.scored_by is not None:
        check_reward_folder(recipe.scored_by.model)
    cloud = _cloud(recipe.cloud, notes) if recipe.asks else "none, the algorithm does not ask"

    from selfroute.train.rl.arguments import batching, build_arguments, check_distribution, check_rows, missing_vllm
    from selfroute.train.rl.objectives.base import BY_REFERENCE
    from selfroute.train.rl.run import rollout_of, rows_asked_meanwhile, rows_held_out
    from selfroute.train.rl.seams import check_behaviour, check_facts, check_objective

    quiet_libraries()
    if rows:
        check_rows(len(rows), recipe.prompts_per_step, task.name)
    with _environment_kept():
        arguments = build_arguments(recipe, recipe)
        check_distribution(arguments)
        spec = recipe.objective
        objective = recipe.objective_kind.make(recipe) if spec is None else make_objective(spec, recipe)
        check_objective(objective, arguments, recipe.m_step, adapter=recipe.lora is not None)
        check_behaviour(recipe.behaviour, objective, arguments, single=not recipe.kind.turns)
        if not recipe.kind.inside:
            check_facts(objective, rollout_of(task, recipe))
        if rows:
            rows_held_out(task, recipe)
            rows_asked_meanwhile(task, arguments)
        notes += [note] if (note := missing_vllm(arguments)) else []
        notes += _beside(arguments)
        sizes = batching(recipe.prompts_per_step, recipe.group_size, recipe.rows_per_pass, processes)
        network, trained, total = _network(files.model, recipe, beside, notes)
        prompt = _longest_prompt(files.tokenizer, rows, task, network, recipe, notes)
        copied = recipe.lora is None and bool(objective.needs & BY_REFERENCE)
        memory = _memory(
            recipe,
            arguments,
            network,
            sizes,
            prompt,
            total=total,
            trained=trained,
            processes=processes,
            reference=copied,
        )
    rollouts = recipe.prompts_per_step * recipe.group_size
    facts = (
        *_sizes(recipe, total, trained),
        ("task", f"{task.name}, {f'{len(rows):,} training rows' if rows else 'rows not within reach'}"),
        ("tokens", f"prompt at most {prompt:,}, attempt at most {recipe.max_new_tokens:,}"),
        ("cloud", cloud),
        ("step", f"{recipe.prompts_per_step} prompts x {recipe.group_size} attempts = {rollouts:,}"),
        ("process", f"{processes} x {sizes.rollouts:,} attempts, in {sizes.passes} passes of {sizes.rows}"),
        ("run", f"{recipe.algorithm}, {recipe.steps:,} steps, {recipe.steps * rollouts:,} attempts"),
        ("writes", f"{recipe.out}/ with {WRITTEN}{', adapter/' if recipe.lora else ''}"),
    )
    return DryRun(facts, memory, tuple(notes))


def reward_dry_run(recipe: RewardRecipe, *, beside: Path, processes: int = 1) -> DryRun:
    """As `dry_run`, of a reward model; some of its pairs are made to see how long they are, unless a model is asked.

    Args:
        beside, processes: as in `dry_run`.

    Raises:
        ConfigError: what the run itself would raise before its first step.
    """
    from selfroute.train.memory import Pass, network_of, predict

    notes: list[str] = []
    task = None if recipe.task is None else make_task(recipe.task, seed=recipe.seed)
    files = model_files(recipe.model)
    quiet_libraries()
    with _environment_kept():
        network, trained, total = _network(files.model, recipe, beside, notes, scores=True)
        tokens = _longest_pair(files.tokenizer, network, recipe, task, notes)
    at_once = recipe.pairs_per_pass or recipe.pairs_per_step
    if recipe.pairs_per_step % (at_once * processes):
        raise ConfigError(
            f"pairs_per_pass={at_once} on {processes} processes does not divide {recipe.pairs_per_step} pairs_per_step"
        )
    sizes = replace(network_of(network.get_text_config().to_dict()), vocabulary=1)
    memory = predict(
        sizes,
        Pass(2 * at_once, tokens, 0, 0),
        total=total,
        trained=trained,
        half=recipe.bf16,
        processes=processes,
        own_rollouts=False,
    )
    facts = (
        *_sizes(recipe, total, trained),
        ("task", "none, pairs of a file" if task is None else task.name),
        ("tokens", f"side of a pair at most {tokens:,}"),
        ("step", f"{recipe.pairs_per_step} pairs, {at_once} in a pass"),
        ("run", f"{recipe.algorithm}, {recipe.steps:,} steps"),
        ("writes", f"{recipe.out}/ with checkpoint/, checkpoints/, metrics.jsonl, config.yaml, data.json, run.json"),
    )
    held = (
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations", memory.activations),
        ("at most at once", memory.peak),
    )
    return DryRun(facts, held, tuple(notes))


def _sizes(recipe: TrainRecipe | RewardRecipe, total: int, trained: int) -> tuple[tuple[str, str], ...]:
    how = "all weights" if recipe.lora is None else f"LoRA of rank {recipe.lora.rank}"
    return (
        ("model", recipe.model),
        ("parameters", f"{total:,}"),
        ("trained", f"{trained:,} ({how}, {100 * trained / total:.3g} %)"),
    )


def _longest_pair(tokenizer: str, config: Any, recipe: RewardRecipe, task: Task | None, notes: list[str]) -> int:
    """Tokens of the longest side of the pairs that can be made without a model; else of a question and an answer."""
    spec, entry = recipe.pairs, PAIRS.find(recipe.pairs.name, where="pairs")
    if spec.options.get(entry.asks) is not None or (entry.asks and spec.value is not None):
        most = int(spec.options.get("max_tokens", 256))
        longest = max((len(row.question) for row in _rows(task, notes)), default=0) if task is not None else 0
        notes.append(f"pairs: '{spec.name}' asks a model for them, tokens are guessed from the questions")
        return int(longest / CHARACTERS_PER_TOKEN) + most
    sizes = [name for name in ("rows", "held_out_rows") if name in spec.options or entry.asks]
    few = {name: min(LOOKED_AT, int(spec.options.get(name, LOOKED_AT))) for name in sizes}
    pairs = make_pairs(replace(spec, options={**spec.options, **few}), task=task, seed=recipe.seed)
    sides = [(one.question, text) for one in (*pairs.learn, *pairs.held_out) for text in (one.good, one.bad)]
    if few:
        notes.append(f"pairs: the longest of those from {LOOKED_AT} walks at most; others may be longer")
    if (words := _words(tokenizer, config, notes)) is None:
        return int(max(len(question) + len(text) for question, text in sides) / CHARACTERS_PER_TOKEN)
    return max(len(scored_ids(words, question, text)) for question, text in sides)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """The libraries leave marks for their launcher in the environment; none of them shall outlive a dry run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _rows(task: Task, notes: list[str]) -> list[Row]:
    """Training rows; none, with a note, for a data set on a hub out of reach."""
    source: Any = getattr(task, "source", None)
    on_hub = source is not None and local_path(source.name, source.path) is None
    try:
        return list(task.rows("train"))
    except ConfigError as error:
        if not on_hub:
            raise
        notes.append(f"task: {error}")
        return []


def _cloud(spec: Spec, notes: list[str]) -> str:
    """The cloud in words, built as far as it can be without weights and calls."""
    load = prepare_backend(spec, where="cloud")
    name = f"{spec.name}:{spec.value}" if spec.value else spec.name
    if BACKENDS[spec.name].in_process:
        return f"{name}, not loaded"
    backend = load()
    if (endpoint := find_capability(backend, OpenAICompatibleBackend)) is None:
        return f"{name}, not called"
    variable = endpoint.api_key_env
    if variable and not os.environ.get(variable):
        notes.append(f"cloud: no key in the environment; export {variable}=… before the run")
    return f"{backend.name} at {endpoint.base_url}, not called"


def _network(
    model: str, recipe: TrainRecipe | RewardRecipe, beside: Path, notes: list[str], *, scores: bool = False
) -> tuple[Any, int, int]:
    """The configuration, and the parameters trained and in all.

    Args:
        scores: of the network with one number in place of its vocabulary.
    """
    from selfroute.train.pretrained import load_config, outline

    kept = beside / "models" / model.rpartition("/")[2]
    try:
        config = load_config(model)
    except ConfigError:
        if Path(model).exists() or not (kept / "config.json").is_file():
            raise
        config = load_config(str(kept))
        notes.append(f"model: the hub is not within reach; its sizes are those of {kept / 'config.json'}")
    lora = None if recipe.lora is None else asdict(recipe.lora)
    total, trained = outline(config, lora, task="SEQ_CLS" if scores else "CAUSAL_LM")
    return config, trained, total


def _longest_prompt(
    tokenizer: str, rows: list[Row], task: Task, config: Any, recipe: TrainRecipe, notes: list[str]
) -> int:
    """Tokens of the longest prompt, once all of them have been seen to fit, and TRL's options gone through."""
    from selfroute.train.rl.preflight import check_tags, check_window, longest_prompt, rehearse
    from selfroute.train.rl.run import longest_prompts, prompt_writer

    prompts = longest_prompts(prompt_writer(rows, task), rows, recipe)
    if (words := _words(tokenizer, config, notes)) is None:
        sizes = (sum(len(message["content"]) for message in prompt) for prompt in prompts.values())
        return max((int(size / CHARACTERS_PER_TOKEN) for size in sizes), default=512)
    rehearse(recipe, recipe, words)
    if not prompts:
        return 512
    check_tags(words, next(iter(prompts.values())), tokenizer=tokenizer)
    row, tokens = longest_prompt(words, prompts)
    check_window(row, tokens, config, max_new_tokens=recipe.max_new_tokens)
    return tokens


def _words(tokenizer: str, config: Any, notes: list[str]) -> Any:
    """The tokenizer; None, with a note, for one on a hub out of reach."""
    from selfroute.train.pretrained import load_tokenizer

    try:
        return load_tokenizer(tokenizer, config)
    except ConfigError as error:
        if Path(tokenizer).exists() or "cannot be loaded" not in str(error):
            raise
        notes.append(f"tokenizer: not within reach, tokens are guessed from {CHARACTERS_PER_TOKEN:g} characters each")
        return None


def _memory(
    recipe: TrainRecipe,
    arguments: Any,
    config: Any,
    sizes: Any,
    prompt: int,
    *,
    total: int,
    trained: int,
    processes: int,
    reference: bool,
) -> tuple[tuple[str, float], ...]:
    from selfroute.train.memory import Pass, network_of, predict
    from selfroute.train.rl.arguments import is_sharded

    checkpointing = bool(arguments.activation_checkpointing) or bool(
        isinstance(arguments.fsdp_config, dict) and arguments.fsdp_config.get("activation_checkpointing")
    )
    work = Pass(sizes.rows, prompt, recipe.max_new_tokens, sizes.rollouts)
    memory = predict(
        network_of(config.get_text_config().to_dict()),
        work,
        total=total,
        trained=trained,
        half=recipe.bf16,
        checkpointing=checkpointing,
        processes=processes,
        sharded=is_sharded(arguments),
        own_rollouts=not arguments.use_vllm,
        optim=str(getattr(arguments.optim, "value", arguments.optim)),
        reference=reference,
        moving=recipe.m_step is not None,
    )
    kept = (("reference", memory.reference),) if reference else ()
    cache = () if arguments.use_vllm else ((f"cache of {sizes.rollouts:,} attempts", memory.cache),)
    return (
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        *kept,
        (f"activations{', computed anew' if checkpointing else ''}", memory.activations),
        ("logits", memory.logits),
        *cache,
        ("at most at once", memory.peak),
    )


def _beside(arguments: Any) -> list[str]:
    """What vLLM takes of the same devices."""
    if not arguments.use_vllm or arguments.vllm_mode != "colocate":
        return []
    when = " while it writes attempts" if arguments.vllm_enable_sleep_mode else ""
    return [f"vLLM takes {arguments.vllm_gpu_memory_utilization:.0%} of each device's memory beside this{when}"]
