"""Without training: evaluate or fit, calibrate, serve. The recipe that is written runs, and does what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from tests.gateway.live import running
from typer.testing import CliRunner

from selfroute.assemble.kept import point_at, ranked_at, served_values
from selfroute.assemble.serving import make_gateway
from selfroute.commands.main import app
from selfroute.config.serving import load_serve_recipe
from selfroute.errors import ConfigError
from selfroute.prompts import TEMPLATES

TASK = {"jsonl": {"path": "my-data", "verifier": "numeric"}}
RECIPE = {
    "task": TASK,
    "device": "recorded:device.jsonl",
    "cloud": "recorded:cloud.jsonl",
    "policies": {"mine": "recorded:policy.jsonl"},
    "strategies": ["always_device", "prompt_router", "answer_features", "prompt_length"],
    "cache": "answers.sqlite",
    "out": "out",
}


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and what two models and a policy answer to them: the device cannot double odd numbers, and shows it."""
    folder = tmp_path_factory.mktemp("journey")
    answers: dict[str, list[dict[str, str]]] = {"device": [], "cloud": [], "policy": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("my-data").mkdir()
        for split, first in (("train", 100), ("test", 200)):
            rows = [{"question": f"What is twice {n}", "answer": 2 * n} for n in range(first, first + 40)]
            Path(f"my-data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            for row in rows:
                prompt, right = TEMPLATES["steps"].user.format(question=row["question"]), f"\\boxed{{{row['answer']}}}"
                odd = int(str(row["question"])[-1]) % 2
                wrong = "Step 1: I guess. Step 2: I guess again. \\boxed{7}"
                answers["device"].append({"prompt": prompt, "text": wrong if odd else right})
                answers["cloud"].append({"prompt": prompt, "text": right})
                asks = "<unknown> I need external assistance </unknown>"
                answers["policy"].append({"prompt": prompt, "text": asks if odd else right})
        for name, lines in answers.items():
            Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        Path("compare.yaml").write_text(yaml.safe_dump(RECIPE))
        result = run("evaluate", "compare.yaml", "share=0.25")
        assert result.stderr.splitlines()[-1] == "next: selfroute calibrate out --share 0.25 --serve my.yaml"
    return folder


@pytest.fixture
def there(journey: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(journey)
    return journey


def lines(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def sources(recipe: str) -> dict[str, str]:
    """Who answers each test question behind a recipe, asked as a client asks."""
    found = {}
    with running(make_gateway(load_serve_recipe(Path(recipe)))) as url, httpx.Client(timeout=60) as client:
        for n in range(200, 240):
            body = {"messages": [{"role": "user", "content": f"What is twice {n}"}]}
            answer = client.post(f"{url}/v1/chat/completions", json=body).json()
            found[f"What is twice {n}"] = answer["selfroute"]["source"]
    return found


@pytest.mark.parametrize("strategy", ["prompt_router", "answer_features", "prompt_length"])
def test_the_recipe_runs_and_sends_what_the_records_say(there: Path, strategy: str) -> None:
    result = run("calibrate", "out", "--strategy", strategy, "--share", "0.5", "--serve", f"{strategy}.yaml")
    assert result.stderr.splitlines()[-1].strip() == f"selfroute serve {strategy}.yaml"
    written = yaml.safe_load(Path(f"{strategy}.yaml").read_text())
    assert written["prompt"] == {"template": "steps", "wrap": True, "max_tokens": 512}
    threshold = written["strategy"][strategy]["threshold"]
    texts = {sample["id"]: sample["question"] for sample in lines("out/samples.jsonl")}
    records = [record for record in lines("out/records.jsonl") if record["strategy"] == strategy]
    wanted = {texts[record["id"]]: "cloud" if record["score"] >= threshold else "device" for record in records}
    assert sources(f"{strategy}.yaml") == wanted
    if strategy != "prompt_length":
        assert sum(source == "cloud" for source in wanted.values()) == 20
    check = run("serve", f"{strategy}.yaml", "--check")
    assert check.stderr.splitlines()[-1] == f"next: selfroute serve {strategy}.yaml"


def test_the_best_is_taken_where_none_is_named(there: Path) -> None:
    result = run("calibrate", "out", "--share", "0.5", "--serve", "best.yaml")
    first = result.stdout.splitlines()[0]
    assert "answer_features 100.0 %" in first and "prompt_length" in first and "--strategy takes another" in first
    assert "answer_features" in yaml.safe_load(Path("best.yaml").read_text())["strategy"] or "prompt_router" in first
    assert [ranked.right for ranked in ranked_at(there / "out", 0.5)] == sorted(
        (ranked.right for ranked in ranked_at(there / "out", 0.5)), reverse=True
    )


def test_a_policy_without_scores_is_held_by_a_budget(there: Path) -> None:
    run("calibrate", "out", "--strategy", "mine", "--share", "0.2", "--serve", "policy.yaml")
    written = yaml.safe_load(Path("policy.yaml").read_text())
    assert (written["strategy"], written["budget"]) == ("self_route", {"share": 0.2})
    assert written["device"] == {"recorded": "policy.jsonl"}
    load_serve_recipe(Path("policy.yaml"))


def test_what_is_fitted_over_folds_is_kept_too(there: Path) -> None:
    run("evaluate", "compare.yaml", "folds=4", "out=folded", "strategies=[answer_features]", "policies={}")
    run("calibrate", "folded", "--share", "0.5", "--serve", "folded.yaml")
    assert sum(source == "cloud" for source in sources("folded.yaml").values()) == 20


def test_thresholds_inside_an_answer_are_chosen_by_the_clouds_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {
        "task": {"chain": {"limit": 3}},
        "device": "embedded:chain-device",
        "cloud": "embedded:chain-cloud",
        "strategies": [],
        "entrants": {
            "by probability": {"token_level": {"scorer": "max_probability", "points": [0.95, 1.01], "threshold": 0.5}},
            "by the cloud": {"token_level": {"scorer": "oracle", "threshold": 0.5}},
        },
        "max_tokens": 24,
        "out": "out",
    }
    Path("chain.yaml").write_text(yaml.safe_dump(recipe))
    run("evaluate", "chain.yaml")
    wanted = ["calibrate", "out", "--share", "1", "--strategy", "by probability", "--serve", "my.yaml"]
    assert "run selfroute report out axes=[calls,cloud_tokens]" in run(*wanted, code=2).stderr
    run("report", "out", "axes=[calls,cloud_tokens]")
    unsaved = run(*wanted[:-2])
    assert "of the cloud's tokens" in unsaved.stdout
    follow = shlex.split(unsaved.stderr.splitlines()[-1].removeprefix("next: selfroute "))
    assert follow == [*wanted[:2], *wanted[4:6], *wanted[2:4], *wanted[6:]], "as a shell takes it"
    assert "of the cloud's tokens" in run(*follow).stdout
    written = yaml.safe_load(Path("my.yaml").read_text())
    point = point_at(Path("out"), "by probability", 1.0)
    assert written["strategy"] == {"token_level": {"scorer": "max_probability", "threshold": point.value}}
    load_serve_recipe(Path("my.yaml"))
    assert "no point of 'by probability' spends at most 0 %" in run(*wanted[:3], "0", *wanted[4:6], code=2).stderr
    with pytest.raises(ConfigError, match="'by the cloud' cannot be served"):
        served_values(Path("out"), "by the cloud")


def test_a_fit_alone_is_served(there: Path) -> None:
    result = run("fit", "compare.yaml", "share=0.5", "--strategy", "answer_features", "--serve", "fitted.yaml")
    assert re.search(
        r"on 36 train rows, each judged by a fit without it: 100\.0 % right with 47\.2 % sent", result.stdout
    )
    assert not Path("out/fit/records.jsonl").exists(), "no test row is asked or judged"
    assert sum(source == "cloud" for source in sources("fitted.yaml").values()) == 20
    again = run("fit", "compare.yaml", "share=0.5", "--strategy", "prompt_length")
    assert again.stderr.splitlines()[-1].startswith(
        "next: selfroute fit compare.yaml share=0.5 --strategy prompt_length"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "out", "--share", "0.5", "--strategy", "nobody"], "has no strategy 'nobody'"),
        (
            ["calibrate", "out", "--share", "0.5", "--strategy", "always_device"],
            "has no scores; choose --strategy from",
        ),
        (["calibrate", "my-data", "--share", "0.5"], "there is no 'my-data/records.jsonl'"),
        (["calibrate", "device.jsonl", "--share", "0.5", "--serve", "new.yaml"], "has no 'score'"),
        (["calibrate", "scores.jsonl", "--share", "0.5", "--serve", "new.yaml"], "holds no strategies.json"),
        (["calibrate", "out", "--share", "0.5", "--serve", "compare.yaml"], "is there already; add --force"),
        (["calibrate", "out", "--share", "1.5"], "--share: 1.5 is not in [0, 1]"),
        (["fit", "compare.yaml", "--strategy", "always_cloud"], "--strategy: 'always_cloud' has no score to fit"),
        (["fit", "compare.yaml", "--strategy", "promt_router"], "did you mean 'prompt_router'?"),
        (["fit", "compare.yaml", "--serve", "compare.yaml"], "is there already; add --force"),
    ],
)
def test_bad_input_is_one_line(there: Path, arguments: list[str], message: str) -> None:
    Path("scores.jsonl").write_text('{"score": 0.5}\n{"score": 0.1}\n')
    result = run(*arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not Path("new.yaml").exists()


def test_a_damaged_file_is_named(there: Path, tmp_path: Path) -> None:
    (tmp_path / "strategies.json").write_text("{")
    with pytest.raises(ConfigError, match="run selfroute evaluate again"):
        ranked_at(tmp_path, 0.5)
