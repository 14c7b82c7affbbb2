"""The demo's first minute: the shipped policies before and after, and an answer that changes hands."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfroute.commands.demo import _first_look
from selfroute.commands.terminal import progress


def test_the_first_look_shows_both_policies_and_an_answer_that_changes_hands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _first_look(tmp_path / "first-look", progress, seed=1, rows=12)
    shown = capsys.readouterr()
    heads, before, after, cloud, *rest = shown.out.splitlines()
    assert " ".join(heads.split()) == "asks the cloud right of what it keeps right at 30% calls"
    assert before.startswith("before GAPG  ") and after.startswith("after GAPG   ") and cloud.startswith("cloud alone")
    assert int(before.split("%")[0].split()[-1]) > int(after.split("%")[0].split()[-1]), "it has learned when to ask"
    assert rest[0] == "--- after GAPG: an answer changes hands"
    text = "\n".join(rest)
    assert text.index("Using the numbers") < text.index("device: ") < text.index("cloud: ")
    lines = shown.err.splitlines()
    assert lines[0] == "loading the models" and lines[-1].startswith("evaluating "), "lines where there is no terminal"
