"""The reference of serving says what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from selfroute.gateway.exchange import REASONS
from selfroute.types import Reason

DOCS = Path(__file__).resolve().parents[2] / "docs"
pytestmark = pytest.mark.docs


def script() -> Any:
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_script_writes() -> None:
    made = script()
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run python docs/make_reference.py"


def test_every_key_has_a_meaning() -> None:
    page = script().page()
    section = page.partition("## Configuration")[2].partition("## Headers")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    for row in rows:
        assert row.split(" | ")[3].removesuffix(" |").strip(), f"no meaning: {row}"


def test_every_reason_is_explained() -> None:
    assert set(REASONS) == set(get_args(Reason))


def test_every_fault_is_a_reason_or_an_error() -> None:
    page = (DOCS / "serving.md").read_text(encoding="utf-8").partition("## Faults")[2].partition("\n## ")[0]
    known = set(REASONS) | set(script().CODES) | {"client-gone"}
    for row in page.splitlines():
        if row.startswith("| ") and "---" not in row and not row.startswith("| fault"):
            for name in re.findall(r"`([^`]+)`", row.split(" | ")[-1]):
                assert name in known, name
