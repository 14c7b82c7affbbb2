"""One training run: task, model and cloud in; a folder with checkpoint, metrics and provenance out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfroute.backends.base import Backend
from selfroute.backends.sessions import fingerprint
from selfroute.errors import ConfigError
from selfroute.prices import Price
from selfroute.prompts import TrainedPrompt, find_template, share_sentence, write_prompt
from selfroute.rewards.base import Reward
from selfroute.tasks.base import Environment, Interactive, Row, Task
from selfroute.tasks.episode import with_tools
from selfroute.train import folder
from selfroute.train.folder import Progress
from selfroute.train.pretrained import (
    ADAPTER,
    add_adapter,
    check_checkpoint,
    from_adapter,
    load_config,
    load_network,
    load_tokenizer,
    merged,
)
from selfroute.train.rl.arguments import (
    build_arguments,
    check_distribution,
    check_rows,
    missing_vllm,
    prompts_of_a_step,
)
from selfroute.train.rl.checkpoint import STATE_FILE
from selfroute.train.rl.constraints.attributes import Attribute, penalised, regularisers
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.held_out import WritePrompt
from selfroute.train.rl.objectives.base import Objective
from selfroute.train.rl.options import GAPGOptions, LoopOptions
from selfroute.train.rl.outcomes import CloudAnswers, OutcomeGrader, Scores
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.preflight import check_tags, check_window, longest_prompt, rehearse, try_device
from selfroute.train.rl.prompt_filter import ratio_from_share
from selfroute.train.rl.rollouts.base import Prompt, Rollout
from selfroute.train.rl.rollouts.relay import CloudTurns
from selfroute.train.rl.seams import check_behaviour, check_facts, check_objective

__all__ = ["build_dataset", "prompt_of", "rollout_of", "rows_held_out", "train"]

CRITICS = "critics"  # folder of the critics of a run
HELD_OUT_ROWS = 1000  # each comes up several times in a run as it is


def prompt_writer(rows: Sequence[Row], task: Task) -> WritePrompt:
    """Writes the device's messages for a row, with or without the offer to hand off."""
    template = find_template(task.template)
    questions = {row.id: row.question for row in rows}
    tools = task.environment(rows[0]).tools if isinstance(task, Interactive) and rows else ()

    def write(row_id: str, *, offer_handoff: bool, share: float | None = None) -> list[dict[str, str]]:
        conversation = template.conversation(questions[row_id])
        messages = with_tools(template.device_messages(conversation, offer_handoff=offer_handoff, share=share), tools)
        return [{"role": message.role, "content": message.content} for message in messages]

    return write


def prompt_of(task: Task, options: GAPGOptions, max_tokens: int) -> TrainedPrompt:
    """How the policy of a run is asked, as `prompt_writer` does, and is to be asked afterwards."""
    offers = options.method.offer_handoff
    return TrainedPrompt(
        template=find_template(task.template),
        name=task.template,
        offers=offers,
        max_tokens=max_tokens,
        share=options.share if options.asks else None,
        told_shares=options.told_shares,
        handoff=options.kind.handoff,
    )


def build_dataset(rows: Sequence[Row], task: Task, *, offer_handoff: bool) -> Dataset:
    """Columns `prompt` (the device's messages) and `row_id`."""
    write = prompt_writer(rows, task)
    return Dataset.from_list(
        [{"prompt": write(row.id, offer_handoff=offer_handoff, share=None), "row_id": row.id} for row in rows]
    )


def rows_held_out(task: Task, options: GAPGOptions) -> list[Row]:
    """The first validation rows, on which a wanted share is measured; none where nothing is measured on them.

    Raises:
        ConfigError: a share is to be measured, and the task has no such rows.
    """
    if not options.is_dual or not options.share_prompts:
        return []
    rows = list(islice(task.rows("validation"), HELD_OUT_ROWS))
    if not rows:
        raise ConfigError(
            f"handoff_reward=dual measures the call share on validation rows, and '{task.name}' has none; "
            "hold some out (validation_share of most tasks), or set share_prompts=0 to measure it on the rollouts"
        )
    return rows


def rows_asked_meanwhile(task: Task, arguments: PolicyConfig) -> list[Row]:
    """The first validation rows, where TRL is to evaluate on them while it trains; none by default.

    Raises:
        ConfigError: the task has no such rows.
    """
    if arguments.eval_strategy == "no":
        return []
    rows = list(islice(task.rows("validation"), HELD_OUT_ROWS))
    if not rows:
        raise ConfigError(
            f"trl.eval_strategy: it needs validation rows, and '{task.name}' has none; hold some out "
            "(validation_share of most tasks), or leave it out"
        )
    return rows


def longest_prompts(write: WritePrompt, rows: Sequence[Row], options: GAPGOptions) -> dict[str, Prompt]:
    """By row id the longest prompt that a run writes for it: with the offer, and with the share in most words."""
    share = max(options.told_shares, key=lambda share: len(share_sentence(share)), default=None)
    return {row.id: write(row.id, offer_handoff=options.method.offer_handoff, share=share) for row in rows}


def train(
    *,
    task: Task,
    model: str,
    tokenizer: str,
    open_cloud: Callable[[], Backend] | None,
    options: GAPGOptions,
    loop: LoopOptions,
    max_minutes: float | None = None,
    until_flat: int | None = None,
    lora: Mapping[str, Any] | None = None,
    concurrency: int = 32,
    cloud_price: Price | None = None,
    resume: bool = False,
    attributes: Mapping[str, Attribute] | None = None,
    objective: Objective | None = None,
    reward: Reward | None = None,
    scores: Scores | None = None,
    config: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a device model and write the folder that `selfroute.train.folder` describes.

    Args:
        model, tokenizer: folders, hub names or GGUF files.
        open_cloud: gives the model that answers hand-offs, called when all else has been checked, so that a run which
            is refused costs no call; None for an algorithm that offers none.
        options: of the method.
        loop: how much is trained, and where it is kept.
        max_minutes: ends the run after the step in which this time is up.
        until_flat: ends the run where its curve is flat, see `selfroute.train.folder.UntilFlat`.
        lora: `rank`, `alpha`, `dropout` and `targets` of an adapter to train; None trains all weights. The adapter is
            kept in OUT/adapter, and OUT/checkpoint is the whole model with it added.
        concurrency: cloud requests in flight.
        cloud_price: to count what the cloud's answers cost.
        resume: go on from the newest checkpoint in the folder.
        attributes: what completions are to keep to, by name; critics that are fitted are kept in OUT/critics.
        objective: what rewards are worth to the gradient; None takes the algorithm's.
        reward: what an outcome is worth; None takes that of the options.
        scores: a learned reward, for `Outcome.score`.
        config: the resolved recipe, written beside the result.
        on_progress: called with step, steps and the step's metrics.

    Returns:
        What stands in `run.json`.

    Raises:
        ConfigError: before any work, for an option that cannot be; or if `resume` finds nothing to do.
    """
    offer_handoff, out = options.method.offer_handoff, loop.out
    if options.asks and open_cloud is None:
        raise ConfigError(f"algorithm '{options.algorithm}' needs a cloud, which it asks; name one with cloud=…")
    arguments = _arguments(options, loop)
    made = objective or options.objective_kind.make(options)
    check_objective(made, arguments, options.m_step, adapter=lora is not None)
    check_behaviour(options.behaviour, made, arguments, single=not options.kind.turns)
    rollout = None if options.kind.inside else rollout_of(task, options)
    if rollout is not None:
        check_facts(made, rollout)
    checkpoint = folder.start_from(out, loop.steps, resume=resume, marker=STATE_FILE)
    rows = list(task.rows("train"))
    check_rows(len(rows), prompts_of_a_step(arguments), task.name)
    held_out = rows_held_out(task, options)
    asked_meanwhile = rows_asked_meanwhile(task, arguments)
    used = {"training": rows, "held-out": held_out, "evaluation": asked_meanwhile}
    shape = load_config(model)
    words = load_tokenizer(tokenizer, shape)
    write = prompt_writer([*rows, *held_out, *asked_meanwhile], task)
    prompts = longest_prompts(write, [*rows, *held_out, *asked_meanwhile], options)
    longest = next(iter(prompts.values()))
    check_tags(words, longest, tokenizer=tokenizer)
    check_window(*longest_prompt(words, prompts), shape, max_new_tokens=loop.max_new_tokens)
    rehearse(loop, options, words)
    if checkpoint is not None:
        check_checkpoint(checkpoint, shape, lora)
        folder.check_config(out, config or {})
        folder.check_data(out, used)
    # In bfloat16 on a CPU the plain products take 0.6 of the fused kernel's time, most of it saved going backward.
    network = _network(model, lora, loop.seed, attention="eager" if loop.bf16 and arguments.use_cpu else None)
    try_device(network, words, longest)
    cloud = open_cloud() if options.asks and open_cloud is not None else None
    answers, turns = None, None
    if cloud is not None and options.kind.inside:
        turns = CloudTurns(cloud, price=cloud_price, concurrency=concurrency)
        turns.check(fingerprint(words.convert_ids_to_tokens(list(range(len(words))))))
    elif cloud is not None:
        answers = _cloud_answers(task, cloud, max(512, loop.max_new_tokens), concurrency, cloud_price)
    known = {row.id: row for row in (*rows, *held_out, *asked_meanwhile)}
    controlled = dict(attributes or {})
    judged = {name: attribute.judged for name, attribute in controlled.items()}
    pulls = regularisers(controlled, network, words)
    origin = folder.begin(out, config or {}, checkpoint, used)
    trainer = GAPGTrainer(
        network,
        OutcomeGrader(task, known, answers, writes_question=options.writes_question, attributes=judged, scores=scores),
        arguments,
        build_dataset(rows, task, offer_handoff=offer_handoff),
        words,
        options=options,
        write_prompt=write,
        local_grader=OutcomeGrader(task, known, None, attributes=judged, scores=scores),
        held_out=[row.id for row in held_out],
        objective=made,
        reward=penalised(reward or options.reward, controlled),
        constraints=pulls,
        rollout=options.kind.make(cloud=turns) if rollout is None else rollout,
        worked=_worked(task, rows, options),
        on_sample=partial(folder.add_line, out / "rollouts.jsonl"),
        eval_dataset=build_dataset(asked_meanwhile, task, offer_handoff=offer_handoff) if asked_meanwhile else None,
    )
    watcher = folder.Watcher(out / "metrics.jsonl", loop.steps, on_progress)
    watcher.attach(trainer)
    prompt = prompt_of(task, options, loop.max_new_tokens)
    trainer.add_callback(folder.PromptWriter(prompt))
    if max_minutes is not None:
        trainer.add_callback(folder.TimeLimit(60.0 * max_minutes))
    if until_flat is not None:
        trainer.add_callback(folder.UntilFlat(until_flat))
    trainer.train(resume_from_checkpoint=checkpoint)
    _save(trainer, out, model, prompt, is_adapter=lora is not None)
    if trainer.accelerator.is_main_process:
        for name, pull in pulls.items():
            pull.save(out / CRITICS / f"{name}.safetensors", words)
    facts = {
        "algorithm": options.algorithm,
        "prompt_filter": options.method.prompt_filter,
        "seed": loop.seed,
        "steps": trainer.state.global_step,
        "share": options.share,
        "rho": ratio_from_share(options.share),
        "targets": trainer.targets.state(),
        "rows": len(rows),
        "wall_s": round(watcher.wall_s, 1),
        "resumed_from": None if checkpoint is None else Path(checkpoint).name,
        **_cloud_facts(answers or turns),
        "warnings": trainer.alarms.messages,
    }
    return folder.finish(out, facts, origin)


def _worked(task: Task, rows: Sequence[Row], options: GAPGOptions) -> dict[str, str] | None:
    """By row id the task's own right completion, where attempts are to begin with it."""
    if options.behaviour is None or not options.behaviour.worked:
        return None
    return {row.id: task.gold_completion(row) for row in rows}


def environments_of(task: Interactive) -> Callable[[Prompt], Environment]:
    """Opens the environment of a prompt's question."""
    head, _, tail = find_template(task.template).user.partition("{question}")

    def open_one(prompt: Prompt) -> Environment:
        question = prompt[-1]["content"].removeprefix(head).removesuffix(tail)
        return task.environment(Row(id="", question=question, gold=""))

    return open_one


def rollout_of(task: Task, options: GAPGOptions) -> Rollout:
    """How attempts are made that the policy writes alone, or with tools.

    Raises:
        ConfigError: they are to act in an environment, and the task has none.
    """
    if not options.kind.interactive:
        return cast(Rollout, options.kind.make())
    if not isinstance(task, Interactive):
        raise ConfigError(
            f"algorithm '{options.algorithm}' acts in an environment, and task '{task.name}' has none; take one that "
            "has, such as lookup"
        )
    return cast(Rollout, options.kind.make(open=environments_of(task), options=options.tree))


def _arguments(options: GAPGOptions, loop: LoopOptions) -> PolicyConfig:
    """TRL's config, with what it asks for at hand."""
    arguments = build_arguments(loop, options)
    check_distribution(arguments)
    if missing := missing_vllm(arguments):
        raise ConfigError(missing)
    return arguments


def _cloud_facts(asked: CloudAnswers | CloudTurns | None) -> dict[str, Any]:
    if asked is None:
        return {"cloud_calls": 0, "cloud_failures": 0, "cloud_usd": None}
    usd = None if asked.price is None else asked.usd
    return {"cloud_calls": asked.calls, "cloud_failures": asked.failures, "cloud_usd": usd}


def _network(model: str, lora: Mapping[str, Any] | None, seed: int, *, attention: str | None) -> Any:
    """The model to train, or with the adapter that is trained in its place."""
    network = load_network(model, attention=attention)
    if lora is None:
        return network
    torch.manual_seed(seed)  # of the adapter's first weights
    return add_adapter(network, lora)


def _cloud_answers(task: Task, cloud: Backend, max_tokens: int, concurrency: int, price: Price | None) -> CloudAnswers:
    template = find_template(task.template)
    return CloudAnswers(task, cloud, template, max_tokens=max_tokens, concurrency=concurrency, price=price)


def _save(trainer: GAPGTrainer, out: Path, model: str, prompt: TrainedPrompt, *, is_adapter: bool) -> None:
    """The trained model as a plain folder with its tokenizer and its prompt, whichever weights were trained."""
    place = out / "checkpoint"
    if not is_adapter:
        trainer.save_model(str(place))
    else:
        trainer.save_model(str(out / ADAPTER))
        if trainer.accelerator.is_main_process:
            _whole(trainer, out / ADAPTER, model).save_pretrained(place)
    if trainer.accelerator.is_main_process:
        cast(PreTrainedTokenizerBase, trainer.processing_class).save_pretrained(str(place))
        for written in (place, *([out / ADAPTER] if is_adapter else [])):
            write_prompt(written, prompt)


def _whole(trainer: GAPGTrainer, adapter: Path, model: str) -> PreTrainedModel:
    """The plain model with the trained adapter added; of a sharded one, from the files."""
    if not trainer.is_fsdp_enabled:
        return merged(trainer.accelerator.unwrap_model(trainer.model))
    return from_adapter(model, adapter)
