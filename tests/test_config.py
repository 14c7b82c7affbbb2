"""Recipes: what is accepted, and the one line that each mistake gets."""

from __future__ import annotations

import dataclasses
import inspect
import re
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.assemble import evaluating, prompting, training
from selfroute.config import (
    ALGORITHMS,
    BACKENDS,
    CLUSTERS,
    LEDGERS,
    LOADS,
    OBJECTIVES,
    ORACLES,
    PAIRS,
    STRATEGIES,
    TASKS,
    Entry,
    EvaluateRecipe,
    ReportOptions,
    Spec,
    Table,
    TraceOptions,
    TrainRecipe,
    WarmupRecipe,
    at,
    build,
    load_recipe,
    make_backend,
    make_task,
    parse_overrides,
    parse_spec,
    to_values,
)
from selfroute.errors import ConfigError
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.train.rl.options import GAPGOptions, LoopOptions


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: countdown\nshare: 0.2\nreward: {cloud: 0.25}\n")
    return path


def test_file_and_overrides_make_a_typed_recipe(recipe: Path) -> None:
    loaded = load_recipe(TrainRecipe, recipe, ["steps=5", "learning_rate=1e-4", "reward.local=2", "out=somewhere"])
    assert loaded.task == Spec("countdown")
    assert (loaded.share, loaded.steps, loaded.learning_rate, loaded.out) == (0.2, 5, 1e-4, Path("somewhere"))
    assert loaded.reward == Hierarchical(local=2.0, cloud=0.25)
    assert isinstance(loaded.reward.local, float)


def test_an_override_wins_over_the_file(recipe: Path) -> None:
    assert load_recipe(TrainRecipe, recipe, ["share=0.4"]).share == 0.4


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sharee=0.3"], ["recipe.yaml", "'sharee'", "did you mean 'share'?"]),
        (["reward.clod=0.3"], ["reward", "'clod'", "did you mean 'cloud'?"]),
        (["zzzzqqq=1"], ["'zzzzqqq'", "known: steps, prompts_per_step"]),
        (["share=0"], ["share", "0 is not between 0 and 1, both excluded", "30 %"]),
        (["share=1"], ["share", "1 is not between 0 and 1"]),
        (["share=-0.1"], ["share", "-0.1"]),
        (["share=1.5"], ["share", "1.5"]),
        (["share=nan"], ["share", "not a number"]),
        (["share=.nan"], ["share", "not a number"]),
        (["share=a third"], ["share", "'a third' is not a number"]),
        (["share=true"], ["share", "True is not a number"]),
        (["steps=many"], ["steps", "'many' is not a whole number"]),
        (["steps=1.5"], ["steps", "1.5 is not a whole number"]),
        (["steps=0"], ["steps", "0 is not at least 1"]),
        (["group_size=1"], ["group_size", "1 is not at least 2"]),
        (["learning_rate=0"], ["learning_rate", "0 is not above 0"]),
        (["resume=maybe"], ["resume", "'maybe' is not true or false"]),
        (["algorithm=gpag"], ["algorithm", "'gpag' is not one of gapg", "did you mean 'gapg'?"]),
        (["reward=0.5"], ["reward", "0.5 must be a mapping"]),
        (["out=7"], ["out", "7 is not a path"]),
        (["task=[1, 2]"], ["task", "[1, 2] is not a name"]),
        (["model=3"], ["model", "3 is not text"]),
        (["steps"], ["'steps' is not key=value"]),
        (["=3"], ["'=3' is not key=value"]),
        (["steps=[1"], ["steps=[1", "not valid YAML"]),
        (["share.x=1"], ["share.x=1", "'share' is 0.2 and has no keys", "write 'share={x: 1}'"]),
    ],
)
def test_bad_input_is_one_line_that_names_it(recipe: Path, arguments: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(TrainRecipe, recipe, arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "must be a mapping of keys to values, not empty"),
        ("- a\n- b\n", "not a list"),
        ("task: [\n", "not valid YAML"),
        ("share: 0.3\n", "key 'task' is missing"),
        ("task: countdown\nstrategies: always_cloud\n", "'always_cloud' is not a list"),
        ("task: countdown\npolicies: [a]\n", "['a'] is not a mapping"),
        ("task: countdown\npolicies: {mine: 3}\n", "policies.mine: 3 is not a name"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "evaluate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(EvaluateRecipe, path)
    assert part in str(caught.value)
    assert "evaluate.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml' does not exist"):
        load_recipe(TrainRecipe, tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(TrainRecipe, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(TrainRecipe, tmp_path / "binary.yaml")


@pytest.mark.parametrize("cls", [EvaluateRecipe, TrainRecipe, WarmupRecipe])
def test_a_recipe_survives_writing_and_reading(cls: type[EvaluateRecipe]) -> None:
    values = {"task": {"countdown": {"four_share": 0.5}}, "seed": 3}
    recipe = build(cls, values, where="test")
    again = build(cls, yaml.safe_load(yaml.safe_dump(to_values(recipe))), where="test")
    assert again == recipe


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ("countdown", Spec("countdown")),
        ("embedded:device", Spec("embedded", "device")),
        ({"transformers": "some/path"}, Spec("transformers", "some/path")),
        ({"countdown": None}, Spec("countdown")),
        (
            {"openai": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}},
            Spec("openai", None, {"base_url": "http://127.0.0.1:1/v1", "model": "m"}),
        ),
    ],
)
def test_specs(value: object, spec: Spec) -> None:
    assert parse_spec(value, "device") == spec


def test_nested_overrides_open_a_short_spec() -> None:
    assert parse_overrides(["task.countdown.seed=4"], over={"task": "countdown"}) == {
        "task": {"countdown": {"seed": 4}}
    }


def test_overrides_leave_the_original_alone() -> None:
    original = {"reward": {"cloud": 0.2}}
    parse_overrides(["reward.cloud=0.9"], over=original)
    assert original == {"reward": {"cloud": 0.2}}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(st.sampled_from(["task", "share", "steps", "reward", "out", "model", "resume"]), plain))
def test_any_values_give_a_recipe_or_a_config_error(values: dict[str, object]) -> None:
    try:
        recipe = build(TrainRecipe, values, where="test")
    except ConfigError as error:
        assert str(error).startswith("test: ")
    else:
        assert 0 < recipe.share < 1
        assert recipe.steps >= 1


# --- names to objects ---


def test_a_task_takes_options_and_the_seed_of_the_run() -> None:
    task = make_task(Spec("countdown", None, {"largest_number": 9}), seed=5, limit=3)
    assert task.name == "countdown"
    assert (task.seed, task.largest_number, len(list(task.rows("test")))) == (5, 9, 3)  # type: ignore[attr-defined]


def test_the_seed_of_a_spec_wins() -> None:
    assert make_task(Spec("countdown", None, {"seed": 2}), seed=5).seed == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        (Spec("countdwn"), "task: unknown task 'countdwn'; did you mean 'countdown'?"),
        (Spec("countdown", None, {"limt": 3}), "task.countdown: unknown key 'limt'; did you mean 'limit'?"),
        (Spec("countdown", None, {"largest_number": "big"}), "'big' is not a whole number"),
        (Spec("countdown", "path"), "task.countdown: unknown key 'path'"),
    ],
)
def test_bad_tasks(spec: Spec, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_task(spec)
    assert part in str(caught.value)


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"cloud: unknown backend 'opnai'; did you mean 'openai'\?"):
        make_backend(Spec("opnai"), where="cloud")


def test_a_path_in_place_of_a_backend_says_how_it_is_written() -> None:
    with pytest.raises(ConfigError, match="unknown backend 'out/mine/checkpoint'; write transformers:FOLDER, or"):
        make_backend(Spec("out/mine/checkpoint"))


TABLES = [TASKS, BACKENDS, STRATEGIES, ALGORITHMS, LEDGERS, CLUSTERS, LOADS, OBJECTIVES, ORACLES, PAIRS]
every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)


@every_table
def test_every_entry_leads_to_a_factory_and_says_what_it_is(table: Table[Entry]) -> None:
    for name, entry in table.items():
        assert entry.name == name
        assert callable(table.resolve(name, where="test"))
        assert entry.described() and "\n" not in entry.described()
        assert parse_spec(yaml.safe_load(entry.written), "device").name == name


@every_table
def test_every_place_of_an_entry_is_there(table: Table[Entry]) -> None:
    for entry in table.values():
        values = [getattr(entry, field.name) for field in dataclasses.fields(entry)]
        for place in (value for value in values if isinstance(value, str) and value.startswith("selfroute.")):
            assert callable(at(place)), place


@every_table
def test_an_unknown_name_gets_the_nearest(table: Table[Entry]) -> None:
    name = next(iter(table))
    with pytest.raises(ConfigError, match=rf"there: unknown {table.kind} '{name}x'; did you mean '{name}'\?; known: "):
        table.find(f"{name}x", where="there")


@every_table
def test_every_extra_of_an_entry_can_be_installed(table: Table[Entry]) -> None:
    extras = set(metadata("selfroute").get_all("Provides-Extra") or [])
    assert {entry.extra for entry in table.values()} <= extras


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEDGERS, "toy", Entry(name="toy", place="nowhere_at_all:Toy", extra="redis"))
    with pytest.raises(ConfigError, match=r"^ledger 'toy' needs 'nowhere_at_all'.*'selfroute\[redis\]'$"):
        LEDGERS.resolve("toy", where="ledger")


def test_the_example_of_a_strategy_has_its_options() -> None:
    for name, entry in STRATEGIES.items():
        given = parse_spec(yaml.safe_load(entry.written), "strategy").options
        if entry.options is not None:
            build(at(entry.options), given, where=name)
        else:
            inspect.signature(STRATEGIES.resolve(name, where="x")).bind(**given)


def test_what_is_fitted_can_be_kept_and_read() -> None:
    from selfroute.train.fit.scorer import FITTED

    kept = {name for name, entry in STRATEGIES.items() if entry.fit == "selfroute.train.fit.scorer:fit_scorer"}
    assert kept == set(FITTED)
    assert all(entry.reads for entry in STRATEGIES.values() if entry.fitted)


# --- what recipes promise, the rooms below keep ---


@pytest.mark.parametrize(
    ("cls", "readers"),
    [
        (EvaluateRecipe, (evaluating, prompting)),
        (ReportOptions, (evaluating,)),
        (WarmupRecipe, (training,)),
    ],
)
def test_no_key_of_a_recipe_is_ignored(cls: type, readers: tuple[ModuleType, ...]) -> None:
    chosen_by = {"algorithm"} if cls is WarmupRecipe else set()  # the key that tells `train` which recipe it has
    assert {field.name for field in dataclasses.fields(cls)} - chosen_by <= read_by(*readers)


def read_by(*modules: ModuleType) -> set[str]:
    return set(re.findall(r"(?:recipe|options|loop)\.(\w+)", "".join(map(inspect.getsource, modules))))


def test_no_key_of_a_training_is_ignored() -> None:
    from selfroute.train.rl import arguments, gapg, held_out, run, shares
    from selfroute.train.rl import options as module
    from selfroute.train.rl.objectives import kinds

    theirs = {field.name for kind in (GAPGOptions, LoopOptions) for field in dataclasses.fields(kind)}
    ours = {field.name for field in dataclasses.fields(TrainRecipe)} - theirs
    assert ours <= read_by(training)
    method = set(re.findall(r"self\.(\w+)", inspect.getsource(module)))  # what its own properties stand for
    read = read_by(arguments, gapg, held_out, run, shares) | set(arguments.passed().values())
    read |= {option for kind in kinds.OBJECTIVES.values() for option in kind.given.values()}
    assert theirs <= read | (method & {"algorithm", "context", "prompt_filter", "handoff_reward", "told_shares"})


def test_the_traces_are_those_of_the_warm_up() -> None:
    from selfroute.train.imitation.writers import TraceStyle

    assert dataclasses.asdict(TraceStyle()) == dataclasses.asdict(TraceOptions())
