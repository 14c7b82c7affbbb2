"""AdaSwitch (arXiv 2410.13181): a device learns to tag its own steps as right or wrong, and to mend the wrong ones.

Stage 1, practice: imitate gold answers. Stage 2, the exam: see `selfroute.train.imitation.exam`. Stage 3, reflection:
see `selfroute.train.imitation.reflection`. A run that was interrupted in any of them goes on there.

OUT/practice/     the folder of stage 1, with its own checkpoints
OUT/exam.jsonl    the examined answers of stage 2, one a line
OUT/checkpoint/   the trained device, with its tags in steps.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfroute.backends.base import Backend
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.prompts import TEMPLATES, TrainedPrompt
from selfroute.scores.steps import Tags, tag_of
from selfroute.strategies.base import Sides, check_sides
from selfroute.strategies.inside.catalogue import step_level
from selfroute.tasks.base import Row, Stepwise
from selfroute.train import folder
from selfroute.train.imitation.exam import Examined, Examiner, TagIds
from selfroute.train.imitation.reflection import AnswerBatches, Reflection, gold_row, quality_of, read_exam
from selfroute.train.imitation.supervised import Optimizer, tune
from selfroute.types import Sampling

__all__ = ["EXAM", "PRACTICE", "AdaSwitch", "check_folder"]

PRACTICE, EXAM = "practice", "exam.jsonl"
_OUTAGE = 0.1  # of the examined answers


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaSwitch:
    """A run of the three stages.

    Args:
        network: to train; as stage 1 left it, where that is over.
        device: the same network, as a backend.
        gold_only: the control: learn from the right steps of the same answers, without tags.
        others: as in `selfroute.config.AdaSwitchRecipe`.
    """

    task: Stepwise
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cloud: Backend
    out: Path
    gold_only: bool = False
    right: str = "y"
    wrong: str = "n"
    practice_rows: int = 1000
    practice_steps: int = 200
    practice_rate: float = 1e-4
    exam_rows: int = 1000
    samples: int = 2
    temperature: float = 0.7
    clean_share: float = 0.5
    mended: bool = True
    steps: int = 300
    batch_tokens: int = 4096
    learning_rate: float = 3e-5
    optimizer: Optimizer = "adamw"
    validation_rows: int = 200
    max_tokens: int = 256
    max_step_tokens: int = 64
    concurrency: int = 64
    seed: int = 0
    on_progress: folder.Progress = lambda step, steps, metrics: None

    async def run(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is left to be done.

        Args:
            config: the resolved recipe, written beside the result.

        Returns:
            What stands in `run.json`.

        Raises:
            ConfigError: the pair cannot share an answer, or a tag is not one token.
            SelfRouteError: a tenth of the exam or more failed; what was examined is kept.
        """
        device = TransformersBackend("device", self.network, self.tokenizer, max_batch=self.concurrency)
        template = TEMPLATES[self.task.template]
        with device:
            check_sides(
                step_level(threshold=0.5, step_end=self.task.step_end),
                Sides(device=device, cloud=self.cloud, template=template),
            )
            tags = self._tags(device)
            checkpoint = folder.last_checkpoint(self.out / folder.CHECKPOINTS)
            origin = folder.begin(self.out, config, None if checkpoint is None else str(checkpoint))
            self._practise(device, config)
            answers = await self._exam(self._examiner(device, None))
            wall_s = self._reflect(answers, None if self.gold_only else tags, checkpoint)
            judged = await self._judge(self._examiner(device, None if self.gold_only else tags))
        self._keep_tags()
        facts = {
            "algorithm": "adaswitch",
            "gold_only": self.gold_only,
            "seed": self.seed,
            "examined": len(answers),
            "exam_wrong": quality_of(answers).wrong,
            **quality_of(judged).as_dict(),
            "wall_s": round(wall_s, 1),
        }
        return folder.finish(self.out, facts, origin)

    # --- stage 1

    def _practise(self, device: TransformersBackend, config: Mapping[str, Any]) -> None:
        out = self.out / PRACTICE
        if not self.practice_steps or (out / "checkpoint" / "config.json").is_file():
            return
        checkpoint = folder.last_checkpoint(out / folder.CHECKPOINTS)
        folder.begin(out, config, None if checkpoint is None else str(checkpoint))
        rows = [
            gold_row(self._prompt_ids(row.question), [*device.ids_of("".join(self.task.steps(row))), device.end_id])
            for row in self._rows("train", self.practice_rows)
        ]
        self._tune(
            AnswerBatches(lambda rng: rng.sample(rows, len(rows)), **self._batching()),
            out,
            self.practice_steps,
            self.practice_rate,
            checkpoint,
        )

    # --- stage 2

    async def _exam(self, examiner: Examiner) -> list[Examined]:
        """Examine what has not been; the answers in the order of rows, whoever came first."""
        file = self.out / EXAM
        found = read_exam(file)
        # Without the half line of an exam that was interrupted.
        file.write_text("".join(json.dumps(each.as_dict()) + "\n" for each in found), encoding="utf-8")
        known = {(each.id, each.sample) for each in found}
        asked = [(row, i) for row in self._rows("train", self.exam_rows) for i in range(self.samples)]
        todo = [(row, i) for row, i in asked if (row.id, i) not in known]
        failed: list[Examined] = []
        async for examined in examiner.examine(todo, concurrency=self.concurrency):
            if examined.error is not None:
                failed.append(examined)
                continue
            found.append(examined)
            folder.add_line(file, examined.as_dict())
            self.on_progress(0, self.steps, {"examined": len(found) / len(asked)})
        if failed and len(failed) >= _OUTAGE * len(asked):
            raise SelfRouteError(f"{len(failed)} of {len(asked)} answers could not be examined: {failed[0].error}")
        return sorted(found, key=lambda each: (each.id, each.sample))

    # --- stage 3

    def _reflect(self, answers: Sequence[Examined], tags: TagIds | None, checkpoint: Path | None) -> float:
        """Learn from examined answers; the seconds it took."""
        prompts = [self._prompt_ids(examined.question) for examined in answers]
        # The control is of the same steps, whoever wrote them.
        reflection = Reflection(answers, prompts, tags, self.clean_share, self.mended or self.gold_only)
        data = AnswerBatches(reflection.rows, **self._batching())
        return self._tune(data, self.out, self.steps, self.learning_rate, checkpoint)

    async def _judge(self, examiner: Examiner) -> list[Examined]:
        """How the trained device does on steps of other rows."""
        rows = [(row, 0) for row in self._rows("validation", self.validation_rows)]
        found = [each async for each in examiner.examine(rows, concurrency=self.concurrency)]
        return sorted(found, key=lambda each: each.id)

    def _keep_tags(self) -> None:
        """Write the tags beside the weights of a device that was taught them."""
        if self.gold_only:
            return
        identity = TransformersBackend("device", self.network, self.tokenizer).identity
        tags = Tags(right=self.right, wrong=self.wrong, step_end=self.task.step_end, device=identity)
        tags.save(self.out / "checkpoint")

    # --- what they share

    def _tags(self, device: TransformersBackend) -> TagIds:
        texts = {"right": self.right, "wrong": self.wrong}
        return TagIds(**{name: tag_of(device.ids_of(text), text, name) for name, text in texts.items()})

    def _examiner(self, device: TransformersBackend, tags: TagIds | None) -> Examiner:
        return Examiner(
            device=device,
            cloud=self.cloud,
            task=self.task,
            template=TEMPLATES[self.task.template],
            sampling=Sampling(max_tokens=self.max_tokens),
            temperature=self.temperature,
            max_step_tokens=self.max_step_tokens,
            tags=tags,
            seed=self.seed,
        )

    def _rows(self, split: str, count: int) -> list[Row]:
        return list(islice(self.task.rows(split), count))

    def _prompt_ids(self, question: str) -> list[int]:
        template = TEMPLATES[self.task.template]
        messages = template.device_messages(template.conversation(question), offer_handoff=False)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _batching(self) -> dict[str, int]:
        return {
            "batch_tokens": self.batch_tokens,
            "pad_id": int(self.tokenizer.pad_token_id or 0),
            "seed": self.seed,
        }

    def _tune(self, data: AnswerBatches, out: Path, steps: int, rate: float, checkpoint: Path | None) -> float:
        prompt = TrainedPrompt(
            template=TEMPLATES[self.task.template],
            name=self.task.template,
            offers=False,
            max_tokens=self.max_tokens,
        )
        return tune(
            self.network,
            self.tokenizer,
            data,
            out=out,
            steps=steps,
            learning_rate=rate,
            optimizer=self.optimizer,
            seed=self.seed,
            prompt=prompt,
            checkpoint=None if checkpoint is None else str(checkpoint),
            on_progress=self.on_progress,
        )


def check_folder(out: Path, config: Mapping[str, Any], *, resume: bool) -> None:
    """See that a run can begin in a folder, or go on.

    Raises:
        ConfigError: it holds a run and `resume` is off, or none to go on with, or one of another recipe.
    """
    began, ended = (out / "config.yaml").is_file(), (out / "run.json").is_file()
    if not resume and began:
        raise ConfigError(f"'{out}' already holds a run; add --resume to go on with it, or choose another out=")
    if resume and not began:
        raise ConfigError(f"nothing to resume: '{out}' holds no run; start without --resume, in an empty out=")
    if resume and ended:
        raise ConfigError(f"nothing to resume: '{out}' has been trained to its end; choose another out=")
    folder.check_config(out, config)
