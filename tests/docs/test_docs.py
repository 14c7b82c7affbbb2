"""README and docs: links lead somewhere, commands and recipes are right, tables are complete, examples work."""

from __future__ import annotations

import dataclasses
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.scripts import load_script
from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.config import (
    ALGORITHMS,
    EvaluateRecipe,
    PlaceRecipe,
    TrainRecipe,
    TuneRecipe,
    algorithm_of,
    at,
    build,
    make_task,
)

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
OWN = DOCS / "train-your-own.md"
TESTING = DOCS / "testing.md"

pytestmark = pytest.mark.docs
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# --- reading pages ---------------------------------------------------------------------------------------------


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Fenced blocks: language, content, and the name of the file if the line before is "`name`:"."""
    lines = page.read_text(encoding="utf-8").splitlines()
    language: str | None = None
    content: list[str] = []
    name = ""
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            content.append(line)
        elif language is None:
            before = next((text for text in reversed(lines[:number]) if text), "")
            named = re.fullmatch(r"`([\w./-]+)`:", before)
            language, content, name = line[3:].strip(), [], named[1] if named else ""
        else:
            yield language, "\n".join(content) + "\n", name
            language = None
    assert language is None, f"{page.name}: the last ``` is not closed"


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def shell_lines(page: Path) -> list[list[str]]:
    texts = [content for language, content, _ in blocks(page) if language in ("", "sh")]
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(selfroute|make|python) ", line)]


def recipe_kind(values: dict[str, object]) -> type:
    """Training recipes name an algorithm, placements a problem, tunings have slots."""
    if "problem" in values:
        return PlaceRecipe
    if "slots" in values:
        return TuneRecipe
    kind: type = at(algorithm_of(values).options) if "algorithm" in values else EvaluateRecipe
    return kind


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


def rows(page: Path, section: str) -> set[str]:
    """Names in backticks in the first column of a section's tables."""
    text = page.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


# --- every page ------------------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}; there is {sorted(anchors(file))}"


@every_page
def test_commands_exist(page: Path) -> None:
    for program, *words in shell_lines(page):
        if program == "make":
            assert next(word for word in words if "=" not in word) in TARGETS
        elif program == "python":
            assert (ROOT / words[0]).is_file(), f"{page.name}: there is no {words[0]}"
        else:
            assert words[0] in COMMANDS, f"{page.name}: selfroute has no command '{words[0]}'"
            COMMANDS[words[0]].make_context(words[0], list(words[1:]))  # raises on an unknown option


@every_page
def test_inline_commands_exist(page: Path) -> None:
    for program, name in re.findall(r"`(selfroute|make) ([a-z]+)[^`]*`", prose(page)):
        assert name in (TARGETS if program == "make" else COMMANDS), f"{page.name}: `{program} {name}`"


@every_page
def test_no_machine_paths(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.~:/])/(?:home|root|work|tmp|mnt|usr|Users|opt|var)/|[A-Z]:\\\\", text)


def test_no_machine_paths_in_what_is_recorded() -> None:
    files = [*ROOT.glob("benchmarks/**/*.json"), *ROOT.glob("src/selfroute/assets/**/*.json")]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(ROOT).parts)]
    assert len(files) > 3
    found = [file.name for file in files if re.search(r'["=](?:/|[A-Z]:)[\w.-]+/', file.read_text(encoding="utf-8"))]
    assert found == []


@every_page
def test_names_in_a_page_exist(page: Path) -> None:
    for name in set(re.findall(r"`(selfroute(?:\.\w+)+)[`(]", page.read_text(encoding="utf-8"))):
        pkgutil.resolve_name(name)  # raises if there is no such module or attribute
    for path in set(re.findall(r"`((?:benchmarks|recipes)/[\w/.]+\.\w+)`", prose(page))):
        assert (ROOT / path).is_file(), f"{page.name}: {path}"


@every_page
def test_recipes_in_a_page_parse(page: Path) -> None:
    for language, content, name in blocks(page):
        if language == "yaml" and name:
            values = yaml.safe_load(content)
            build(recipe_kind(values), values, where=name)


def test_files_in_which_a_paper_is_found_exist() -> None:
    named = re.findall(r"`([a-z_/]+\.py)`", (DOCS / "paper-index.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    assert [name for name in named if not any((at / name).is_file() for at in (ROOT / "src/selfroute", ROOT))] == []


@every_page
def test_tests_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"\btests/[a-z_/]+\.py", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_takes_a_recipe_names_one_first(page: Path) -> None:
    """`selfroute train key=value` finds no recipe of that name."""
    shown = re.findall(
        r"^selfroute (?:train|evaluate|tune|place|compare) [\w.]+=.*", page.read_text("utf-8"), re.MULTILINE
    )
    assert shown == []


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


# --- the README ------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_starts_with_the_demo() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 220
    assert any(line.startswith("make demo") for line in lines[:25])


def test_the_tree_of_the_readme_is_the_tree_of_src() -> None:
    tree = next(content for _, content, _ in blocks(ROOT / "README.md") if content.startswith("src/selfroute/"))
    source = ROOT / "src" / "selfroute"
    named: set[str] = set()
    room = source
    for line in tree.splitlines()[1:]:
        if not line.startswith("  "):
            break
        inner = line.startswith("    ")
        for word in re.findall(r"[a-z_]+(?:\.py|/)", line[:26]):
            path = (room if inner else source) / word
            assert path.exists(), f"the README names {word}"
            if not inner:
                named.add(word.rstrip("/"))
                room = path
    missing = {path.name for path in source.iterdir() if path.is_dir() or path.suffix == ".py"} - named
    assert missing - {"__pycache__", "__init__.py", "environment.py"} == set()


def test_the_figure_is_made_by_its_script(tmp_path: Path) -> None:
    load_script("docs/figures/how_it_works.py").draw(tmp_path / "figure.svg")
    drawn, committed = (tmp_path / "figure.svg").read_bytes(), (DOCS / "figures" / "how_it_works.svg").read_bytes()
    assert drawn.count(b"<path") == committed.count(b"<path"), "run python docs/figures/how_it_works.py"


# --- tables ----------------------------------------------------------------------------------------------------


def test_every_algorithm_of_the_trainer_is_explained() -> None:
    names = {name for name, entry in ALGORITHMS.items() if at(entry.options) is TrainRecipe}
    assert names == rows(DOCS / "gapg.md", "Options") - {"algorithm"}


def test_every_option_and_number_of_a_placement_is_explained(tmp_path: Path) -> None:
    from selfroute.assemble.placing import place_recipe

    page = DOCS / "placement.md"
    assert {f.name for f in dataclasses.fields(PlaceRecipe)} == rows(page, "Options")
    values = yaml.safe_load((ROOT / "recipes/placement/toy.yaml").read_text(encoding="utf-8"))
    recipe = build(PlaceRecipe, values | {"out": str(tmp_path), "pareto": []}, where="toy.yaml")
    plan = place_recipe(recipe)
    as_given = {"problem", "unit", "cluster", "load", "ranks", "model", "slots", "cap", "cap_over", "split", "recipe"}
    about = {"command", "versions", "commit", "hardware", "reference", "methods"}
    assert set(plan) - as_given - about == rows(page, "Metrics")
    assert set(plan["methods"][0]) <= rows(page, "Metrics")


def test_every_field_of_a_record_and_a_summary_is_explained() -> None:
    from selfroute.evaluation.counting.axes import AXES
    from selfroute.evaluation.counting.summary import summarise
    from selfroute.evaluation.records import Record

    records = [
        Record(
            strategy=name, id=str(i), source="cloud" if i % 2 else "device", wants_cloud=bool(i % 2), score=i / 8,
            correct=True, device_correct=i % 3 > 0, cloud_correct=i != 5,
        )
        for name in ("a", "b")
        for i in range(8)
    ]  # fmt: skip
    summary = summarise(records, share=0.5, seed=0, resamples=20)
    page = DOCS / "evaluation.md"
    assert {f.name for f in dataclasses.fields(Record)} == rows(page, "What is measured for each prompt")
    assert set(summary) == rows(page, "The whole run: `summary.json`")
    assert set(summary["strategies"][0]) == rows(page, "Each strategy")
    axis = summary["axes"][0]
    assert set(axis) | set(axis["lines"][0]) | set(AXES) == rows(page, "Along any resource")


# --- train your own: its files, as they stand --------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page."""
    for _, content, name in blocks(OWN):
        if name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUD_API_KEY", "not-a-key")
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_prompts_of_the_page_pass_their_verifier(own: Path, split: str) -> None:
    words = next(words[1:] for words in shell_lines(OWN) if words[1] == "tasks")
    result = CliRunner().invoke(app, [*words, "--split", split])
    assert result.exit_code == 0, result.output


def test_a_wrong_gold_answer_is_found(own: Path) -> None:
    (own / "my-data" / "test.jsonl").write_text('{"question": "How many", "answer": "none"}\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["tasks", "--check", "jsonl", "path=my-data", "verifier=numeric"])
    assert result.exit_code != 0


def test_the_task_of_the_page_is_a_task() -> None:
    from selfroute import check

    code = next(content for language, content, _ in blocks(OWN) if "class Capitals" in content)
    names: dict[str, type] = {}
    exec(code, names)
    task = names["Capitals"]()
    check(task, "train")
    assert not task.verify(task.rows("train")[0], "<answer>Rome</answer>").correct


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "gapg.md"], ids=lambda page: page.name)
def test_the_imports_of_a_page_work(page: Path) -> None:
    found = [line for language, content, _ in blocks(page) if language == "python" for line in content.splitlines()]
    imports = [line for line in found if line.startswith("from ")]
    assert imports
    exec("\n".join(imports), {})


@pytest.mark.filterwarnings("ignore::FutureWarning")
async def test_the_page_trains_and_evaluates_and_every_metric_is_explained(own: Path) -> None:
    """The recipes of the page, with a model made here and a server on this machine as the cloud."""
    import asyncio
    import json

    from tests.backends.chat_server import ChatServer

    make_device(own / "models" / "my-device")
    async with ChatServer() as server:
        base = f"cloud.openai.base_url={server.url}"
        prices = f"prices={ROOT / 'recipes' / 'prices.yaml'}"
        train = ["train", "my-train.yaml", base, "steps=1", "max_new_tokens=8", "learning_rate=1e-3", prices]
        result = await asyncio.to_thread(CliRunner().invoke, app, train)
        assert result.exit_code == 0, result.output
        baselines = "strategies=[always_device, random_offload, always_cloud]"  # a random model teaches no router
        evaluate = ["evaluate", "my-evaluate.yaml", base, "max_tokens=8", baselines]
        result = await asyncio.to_thread(CliRunner().invoke, app, evaluate)
        assert result.exit_code == 0, result.output
        assert server.headers[0]["Authorization"] == "Bearer not-a-key"
    assert (own / "out" / "mine-evaluated" / "report.html").is_file()
    metrics = json.loads((own / "out" / "mine" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    named = rows(DOCS / "gapg.md", "Metrics")
    assert set(metrics) <= named
    # A random model of one step solves nothing, and has no part in what goes beyond the paper.
    absent = {f"{name}/{kind}" for name in ("reward", "device_tokens") for kind in ("solved", "handed_off")}
    beyond = {"rollouts/forced_correct", "handoff/price", "handoff/gap", "held_out/device_correct"}
    assert named - set(metrics) <= absent | beyond


def make_device(folder: Path) -> None:
    """A small model with random weights, as a folder that transformers can load."""
    from selfroute.train.imitation.tokenizer import build_tokenizer
    from selfroute.train.imitation.warmup import build_model

    tokenizer = build_tokenizer()
    build_model(tokenizer, hidden_size=32, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_the_recipes_of_the_page_find_their_rows(own: Path) -> None:
    for name in ("my-train.yaml", "my-evaluate.yaml"):
        values = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        recipe = build(recipe_kind(values), values, where=name)
        assert list(make_task(recipe.task).rows("train"))


# --- test your own: its examples, as they stand -------------------------------------------------------------------


def example(name: str) -> dict[str, Any]:
    """What the page's example that holds `name` defines."""
    code = next(content for language, content, _ in blocks(TESTING) if language == "python" and name in content)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


async def test_the_backend_of_the_page_keeps_the_contract() -> None:
    await example("class Parrot")["test_parrot"]()


def test_the_task_of_the_testing_page_keeps_the_contract() -> None:
    example("class Sums")["test_sums"]()


def test_the_page_names_every_case() -> None:
    from selfroute.testing import BACKEND_CASES, STRATEGY_CASES

    named = re.findall(r"^\| `(\w+)` \|", TESTING.read_text(encoding="utf-8"), re.MULTILINE)
    assert named == [*BACKEND_CASES, *STRATEGY_CASES]


async def test_the_strategy_of_the_testing_page_keeps_the_contract() -> None:
    await example("class LongOnes")["test_long_ones"]()


def test_the_architecture_names_what_there_is() -> None:
    """Every file and room that the page walks through; a page of two screens, not more."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "selfroute"
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", text))
    within = ("", "evaluation/counting", "train/rl/objectives", "strategies/inside", "strategies/search", "backends")
    rooms = [source / room for room in within]
    assert [name for name in sorted(named) if not any((room / name).exists() for room in rooms)] == []
    assert len(named) > 50
    assert len(text.splitlines()) <= 120
