"""Variables of the environment in recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.config import (
    EvaluateRecipe,
    build,
    load_recipe,
    load_values,
    parse_overrides,
    prepare_backend,
    to_values,
)
from selfroute.config.serving import load_serve_recipe
from selfroute.config.variables import fill, is_filled
from selfroute.errors import ConfigError


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "http://127.0.0.1:8080/v1")
    monkeypatch.setenv("COUNT", "17")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("ABSENT", raising=False)


@pytest.mark.parametrize(
    ("written", "filled"),
    [
        ("${COUNT}", "17"),
        ("a${COUNT}b${COUNT}", "a17b17"),
        ("${ABSENT:-b}", "b"),
        ("${ABSENT:-}", ""),
        ("${EMPTY:-b}", "b"),
        ("${COUNT:-b}", "17"),
        ("${ABSENT:-http://h:1/v1}", "http://h:1/v1"),
        ("$${COUNT} ${COUNT}", "${COUNT} 17"),
        (r"^\d+$", r"^\d+$"),
        ("$COUNT {COUNT}", "$COUNT {COUNT}"),
    ],
)
def test_a_variable_is_filled_in(written: str, filled: str) -> None:
    assert fill({"a": [written]}, "x") == {"a": [filled]}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${ABSENT}", "cloud.openai.model: ${ABSENT} is not set; export ABSENT=…, or write ${ABSENT:-default}"),
        ("${EMPTY}", "cloud.openai.model: ${EMPTY} is not set; export EMPTY=…, or write ${EMPTY:-default}"),
        ("${a b}", "cloud.openai.model: '${a b}' names no variable; write ${NAME}, or $${ for the characters"),
        ("${}", "cloud.openai.model: '${}' names no variable; write ${NAME}, or $${ for the characters"),
    ],
)
def test_one_that_is_not_set_is_told_in_one_line(written: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"cloud: {{openai: {{base_url: '${{PLACE}}', model: '{written}', api_key_env: null}}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_serve_recipe(recipe)
    assert str(caught.value) == f"{recipe}: {message}"
    with pytest.raises(ConfigError) as caught:
        parse_overrides([f"cloud.openai.model={written}"])
    assert str(caught.value) == message


def test_numbers_and_truth_values_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YES", "true")
    monkeypatch.setenv("SHARE", "0.25")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "task: countdown\nlimit: ${COUNT}\nalone: ${YES}\nshare: ${SHARE}\nsplit: ${COUNT}\nout: out/${COUNT}\n"
        "requests_per_minute: ${COUNT}\nengine: ${ENGINE:-local}\n"
    )
    loaded = load_recipe(EvaluateRecipe, recipe)
    assert (loaded.limit, loaded.alone, loaded.share, loaded.split) == (17, True, 0.25, "17")
    assert (loaded.out, loaded.requests_per_minute, loaded.engine) == (Path("out/17"), 17.0, "local")
    written = to_values(loaded)
    assert type(written["split"]) is str
    assert build(EvaluateRecipe, written, where="again") == loaded
    with pytest.raises(ConfigError, match="limit: 'many' is not a whole number"):
        monkeypatch.setenv("COUNT", "many")
        load_recipe(EvaluateRecipe, recipe)


def test_an_override_takes_the_place_of_a_variable_that_is_not_set(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("task: countdown\nlimit: ${ABSENT}\n")
    assert load_values(recipe, ["limit=3"])["limit"] == 3


def test_what_may_be_secret_is_not_taken_into_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    cloud = "{openai: {base_url: 'http://127.0.0.1:1/v1', model: m, api_key_env: null, headers: {X-Key: '${PLACE}'}}}"
    recipe.write_text(f"cloud: {cloud}\n")
    with pytest.raises(ConfigError, match=r"cloud\.openai: headers: .* name the variable in headers_env instead"):
        prepare_backend(load_serve_recipe(recipe).cloud, where="cloud")


@given(st.text().filter(lambda text: "${" not in text))
def test_other_text_stays_as_it_is(text: str) -> None:
    filled = fill([text], "x")
    assert filled == [text]
    assert not is_filled(filled)
