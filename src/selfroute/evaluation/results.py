"""From the records of a folder to everything else in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfroute.evaluation.counting.columns import read_columns
from selfroute.evaluation.counting.split import splits_of
from selfroute.evaluation.counting.summary import analyse
from selfroute.evaluation.files import write_text
from selfroute.evaluation.provenance import read_about
from selfroute.evaluation.records import find_samples
from selfroute.evaluation.report.picks import pick
from selfroute.evaluation.report.words import best

__all__ = ["write_results"]


def write_results(
    out: Path,
    *,
    share: float,
    seed: int,
    task: str,
    command: str = "",
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make `summary.json`, `report.html` and the figures beside it from the records in `out`; returns the summary.

    Each file is written whole or not at all.

    Args:
        command: if it is not that of the run.
        on_progress: called with bootstrap samples done and in all.
        options: of `analyse`, e.g. prices.

    Raises:
        ConfigError: the records are missing or broken, or matplotlib is not installed.
    """
    from selfroute.evaluation.report.figures import write_figures
    from selfroute.evaluation.report.page import report_html

    path = out / "records.jsonl"
    shared = splits_of(read_columns(path), seed=seed, where=str(path))
    summary, drawn = analyse(shared, share=share, seed=seed, task=task, on_progress=on_progress, **options)
    top = best(summary)
    picked = pick(shared, top["name"], share=share, point=top["point"])
    texts = find_samples(out / "samples.jsonl", {found.key for found in picked})
    about = read_about(out / "run.json") | ({"command": command} if command else {})
    write_text(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_figures(summary, drawn, out)
    write_text(out / "report.html", report_html(summary, drawn, picked, texts, about=about))
    return summary
