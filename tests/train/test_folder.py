"""A folder in which a run was stopped."""

from __future__ import annotations

from pathlib import Path

from selfroute.train.folder import CHECKPOINTS, TRAINER_STATE, goes_on, start_from


def stopped(out: Path, *, checkpoint: bool) -> Path:
    """What a run leaves that was killed in its fourth step."""
    last = out / CHECKPOINTS / "checkpoint-3"
    last.mkdir(parents=True)
    if checkpoint:
        (last / TRAINER_STATE).write_text("{}")
    (out / "metrics.jsonl").write_text('{"step": 3}\n')
    (out / "rollouts.jsonl").write_text('{"step": 3}\n')
    return out


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    out = stopped(tmp_path, checkpoint=True)
    assert goes_on(out)
    assert (out / "metrics.jsonl").exists()
    assert start_from(out, 10, resume=True) == str(out / CHECKPOINTS / "checkpoint-3")


def test_a_run_without_one_begins_again_in_its_folder(tmp_path: Path) -> None:
    out = stopped(tmp_path, checkpoint=False)
    assert not goes_on(out)
    assert start_from(out, 10, resume=False) is None
    assert not (out / "rollouts.jsonl").exists()


def test_a_folder_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert not goes_on(tmp_path / "run")
