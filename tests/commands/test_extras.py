"""A plain install, without extras: every command works, or names its extra in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name
from tests.test_packages import packages
from typer.testing import CliRunner

from selfroute.commands.extras import EXTRAS, check_extras
from selfroute.commands.main import app

COMMANDS = {
    "train countdown/gapg": "train",
    "train countdown/gapg --dry-run": "train",
    "train countdown/warmup": "train",
    "evaluate countdown/evaluate": "eval",
    "compare atlas/chain": "eval",
    "calibrate nowhere --share 0.3": "eval",
    "fit countdown/evaluate": "eval",
    "report nowhere": "eval",
    "replay nowhere": "bandits",
    "study bernoulli-5-easy --policy ucb": "study",
    "distil bernoulli-5-easy": "study",
    "export nowhere --out x": "train,export",
    "place placement/toy": "planning",
    "tune tuning/sums 'task={countdown: {limit: 60}}'": "tuning",
    "serve": "serve",
    "serve --check": "serve",
    "cloud --backend embedded:cloud": "serve",
    # The pair is the default; a model behind an endpoint needs nothing more.
    "ask hi": "train",
    "chat": "train",
    "record countdown": "train",
    "tasks": "",
    "tasks --check countdown": "",
    "strategies": "",
    "backends": "",
    "algorithms": "",
    "env": "",
    "key app": "",
    "recipes": "",
    "init out": "",
}
# Runs commands in a process that cannot import what only extras bring.
RUN = """
import json, shlex, sys
from importlib.machinery import PathFinder
from typer.testing import CliRunner

BLOCKED, commands = json.loads(sys.stdin.read())
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: (
    None if name.partition(".")[0] in BLOCKED else find(name, path, target)
)
from selfroute.commands.main import app
results = {}
for command in commands:
    result = CliRunner().invoke(app, shlex.split(command))
    results[command] = result.exit_code, result.output, repr(result.exception)
print(json.dumps(results))
"""


def brought_by_extras() -> list[str]:
    """What can be imported here, and not after a plain install."""
    core = {"selfroute", *packages()}
    owners = packages_distributions()
    return [name for name, by in owners.items() if not core & {canonicalize_name(one) for one in by}]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("anywhere")
    given = json.dumps([brought_by_extras(), list(COMMANDS)])
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=given, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str, str]] = json.loads(done.stdout)
    return found


def test_the_list_knows_every_command() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names == {"demo", *(line.split()[0] for line in COMMANDS)}
    assert names >= set(EXTRAS)


@pytest.mark.parametrize(("command", "extras"), COMMANDS.items())
def test_a_command_works_or_names_its_extra(
    command: str, extras: str, results: dict[str, tuple[int, str, str]]
) -> None:
    code, output, error = results[command]
    if not extras:
        assert code == 0, output or error
        return
    assert code == 2, output or error
    (line,) = [line for line in output.splitlines() if line]
    assert line.startswith("error: ")
    assert line.endswith(f"which is not installed; pip install 'selfroute[{extras}]'")


def test_a_missing_package_is_found_before_minutes_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    check_extras("demo")  # all is here
    lines = ["torch>=2", 'surely-not-here>=1; extra == "eval"', 'nor-this; extra == "ray"']
    monkeypatch.setattr("selfroute.commands.extras.requires", lambda name: lines)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 2
    assert result.output == (
        "error: selfroute demo needs 'surely-not-here', which is not installed; pip install 'selfroute[train,eval]'\n"
    )
