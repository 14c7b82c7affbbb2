"""Whether a name is of a folder here or of a repository of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfroute.backends.files import is_path


@pytest.mark.parametrize(
    "name", ["/a", "./a", "../a/b", "~/a", "a/b/c", "a/", "a b", "out/mine", "a\\b", "runs/mine", Path("mine"), ".", ""]
)
def test_a_path_is_not_looked_up_on_the_hub(name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_path(name)


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-3B-Instruct", "microsoft/deberta-v3-base", "a.b_c/d-e.f"])
def test_a_repository_is_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_path(name)
