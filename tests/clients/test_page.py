"""The snippets of docs/your-client.md work as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.clients.conftest import ROOT, House

pytestmark = pytest.mark.clients

PAGE = (ROOT / "docs" / "your-client.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)+)", PAGE, re.MULTILINE))
NODE_MODULES = Path(__file__).with_name("node_modules")


def block(client: str, language: str) -> str:
    """The snippet of a client."""
    found = re.search(rf"^```{language}\n(.*?)^```", SECTIONS[client], re.MULTILINE | re.DOTALL)
    assert found, f"{client} has no {language} snippet"
    return found.group(1)


def run(command: list[str], *, folder: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def need(command: str) -> str:
    """A program, beside this Python or on the path."""
    found = shutil.which(command, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{command} is not installed; make clients")
    return found


PYTHON = {
    "openai, Python": "openai",
    "LangChain": "langchain_openai",
    "LlamaIndex": "llama_index",
    "LiteLLM": "litellm",
    "Instructor": "instructor",
    "Pydantic AI": "pydantic_ai",
    "OpenAI Agents SDK": "agents",
    "smolagents": "smolagents",
    "DSPy": "dspy",
    "Haystack": "haystack",
}


@pytest.mark.parametrize("client", PYTHON)
def test_python(client: str, odd: House) -> None:
    if find_spec(PYTHON[client]) is None:
        pytest.skip(f"{PYTHON[client]} is not installed; make clients")
    out = run([sys.executable, "-c", block(client, "python").replace("http://127.0.0.1:8000", odd.address)])
    assert ("Rome 3" if client == "Instructor" else "It is sunny in Rome 😀.") in out


@pytest.mark.parametrize("client", ["openai, Node", "Vercel AI SDK"])
def test_node(client: str, odd: House) -> None:
    node = need("node")
    if not NODE_MODULES.is_dir():
        pytest.skip("the packages of package.json are not installed; make clients")
    code = block(client, "js").replace("http://127.0.0.1:8000", odd.address)
    assert run([node, "--input-type=module", "-e", code], folder=NODE_MODULES.parent) == "It is sunny in Rome 😀."


def test_llm(odd: House, tmp_path: Path) -> None:
    program = need("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        block("llm", "yaml").replace("http://127.0.0.1:8000", odd.address), encoding="utf-8"
    )
    command = block("llm", "sh").split(maxsplit=1)[1]
    out = run(["sh", "-c", f"{program} {command}"], LLM_USER_PATH=str(tmp_path))
    assert out.strip() == "It is sunny in Rome 😀."


def test_curl(odd: House) -> None:
    need("curl")
    out = run(["sh", "-c", block("curl", "sh").replace("http://127.0.0.1:8000", odd.address)])
    assert "It is sunny in Rome 😀." in out


def test_every_client_of_the_table_has_a_snippet_that_is_run() -> None:
    table = re.findall(r"^\| \[(.+?)\]", PAGE, re.MULTILINE)
    assert len(table) == 14
    assert set(table) == {*PYTHON, "openai, Node", "Vercel AI SDK", "llm", "curl"}
