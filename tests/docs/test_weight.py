"""The table of weights is about right, and every file is counted once."""

from __future__ import annotations

import re

import pytest
from tests.scripts import load_script

weight = load_script("docs/make_weight.py")
pytestmark = pytest.mark.docs


def test_the_page_is_about_right() -> None:
    """Within a tenth or thirty lines: not every commit needs a new table."""
    _, told, _ = weight.PAGE.read_text(encoding="utf-8").split(weight.MARK)
    said = {name: int(lines.replace(",", "")) for name, lines in re.findall(r"\| (.+?) \| \d+ \| ([\d,]+) \|", told)}
    counts = {name: weight.lines_of(paths) for name, paths in weight.files().items()}
    off = {name: count for name, count in counts.items() if abs(count - said.get(name, 0)) > max(30, count / 10)}
    assert not off, f"run: python docs/make_weight.py; off: {off}"


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "SYSTEMS", {"one": "types.py", "two": "nowhere.py"})
    with pytest.raises(ValueError, match=r"no file fits nowhere.py"):
        weight.files()
    monkeypatch.setattr(weight, "SYSTEMS", {"one": "types.py", "two": "types.py"})
    with pytest.raises(ValueError, match=r"counted twice: \['types.py'\]"):
        weight.files()
