"""What each command needs beside the core, and one line where it is not installed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version

from selfroute.errors import NotInstalled

__all__ = ["EXTRAS", "check_extras", "not_installed"]

# Command -> extras, as in `pip install 'selfroute[EXTRA]'`; a model, task or ledger may need another, which its entry
# names. Commands that are not here need none.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "demo": ("train", "eval"),
    "train": ("train",),
    "evaluate": ("eval",),
    "compare": ("eval",),
    "calibrate": ("eval",),
    "fit": ("eval",),
    "report": ("eval",),
    "replay": ("bandits",),
    "study": ("study",),
    "distil": ("study",),
    "export": ("train", "export"),
    "place": ("planning",),
    "tune": ("tuning",),
    "serve": ("serve",),
    "cloud": ("serve",),
}


def not_installed(error: ModuleNotFoundError, command: str | None) -> NotInstalled:
    """The error for a library that a command needs, with what to install; a fault of our own is raised again."""
    missing = (error.name or "a library").partition(".")[0]
    if missing == "selfroute" or command is None or command not in EXTRAS:
        raise error
    return _error(command, missing)


def check_extras(command: str) -> None:
    """See that all a command needs is installed, for one that would notice only after minutes.

    Raises:
        NotInstalled: a package is missing; names it and what to install.
    """
    for name in _packages(EXTRAS[command]):
        try:
            version(name)
        except PackageNotFoundError:
            raise _error(command, name) from None


def _error(command: str, missing: str) -> NotInstalled:
    extras = ",".join(EXTRAS[command])
    return NotInstalled(
        f"selfroute {command} needs '{missing}', which is not installed",
        command=f"pip install 'selfroute[{extras}]'",
    )


def _packages(extras: tuple[str, ...]) -> Iterator[str]:
    """Names of what the extras ask for themselves; nothing where this package is not installed itself."""
    try:
        lines = requires("selfroute") or []
    except PackageNotFoundError:
        return
    wanted = re.compile(rf"""extra == ['"]({"|".join(extras)})['"]""")
    for line in lines:
        if wanted.search(line) and (name := re.match(r"[\w.-]+", line)):
            yield name[0]
