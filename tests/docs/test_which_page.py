"""The page that says what to use has the numbers of the results, and no others."""

from __future__ import annotations

import re

import pytest
from tests.scripts import load_script

which = load_script("docs/make_which.py")
pytestmark = pytest.mark.docs


def test_the_page_is_what_its_template_and_the_results_make() -> None:
    page = which.PAGE.read_text(encoding="utf-8")
    assert page == which.written(which.TEMPLATE.read_text(encoding="utf-8")), "run: python docs/make_which.py"


def test_every_accuracy_comes_from_a_cell() -> None:
    """What looks measured, a number with a decimal point, stands nowhere but in a reference; budgets may."""
    told = re.sub(r"\[\[.+?\]\]|\d\.\de-\d\d", "", which.TEMPLATE.read_text(encoding="utf-8"))
    assert re.findall(r".*\d\.\d.*", told) == []


def test_it_is_read_on_two_screens() -> None:
    assert len(which.PAGE.read_text(encoding="utf-8").splitlines()) <= 60


def test_a_cell_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="no cell 'nobody', '5 %' in section 'Tokens that the cloud writes'"):
        which.written("[[docs/results/inside.md | Tokens that the cloud writes | nobody | 5 %]]")
