"""Scripts outside the package, loaded as when they are run: they find the modules beside them.

Many a benchmark has a `run` or a `cells` beside it, so what one script imported must not be what the next one finds.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def scripts_of(folder: str | Path) -> Iterator[None]:
    """Within it, modules of a folder of the repository can be imported; outside, none of them is known."""
    place = ROOT / folder
    names = {path.stem for path in place.glob("*.py")}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        for name in names & set(sys.modules):
            patch.delitem(sys.modules, name)
        yield
        for name in names & set(sys.modules):
            del sys.modules[name]


def load_script(path: str | Path) -> ModuleType:
    """One script of the repository, on its own; it runs what it does when imported and no `main`."""
    script = Path(path)
    with scripts_of(script.parent):
        return importlib.import_module(script.stem)
