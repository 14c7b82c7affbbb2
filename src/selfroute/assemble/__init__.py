"""Recipes to running things: models, tasks and strategies put together for the commands.

The rooms below take plain arguments; this is where a recipe's fields become them.
"""

from __future__ import annotations

from selfroute.assemble.baselines import (
    make_baselines,
    make_policies,
)
from selfroute.assemble.dry_run import (
    DryRun,
    dry_run,
)
from selfroute.assemble.evaluating import (
    counting_options,
    evaluate_recipe,
    open_bench,
    record_rows,
    report_folder,
)
from selfroute.assemble.exporting import (
    ExportSource,
    export_model,
    export_source,
    load_source,
)
from selfroute.assemble.pieces import (
    first_rows,
    quiet_libraries,
    remembered,
    template_of,
)
from selfroute.assemble.placing import (
    place_recipe,
)
from selfroute.assemble.training import (
    ModelFiles,
    ask_ahead,
    model_files,
    train_recipe,
    warm_up_recipe,
)

__all__ = [
    "DryRun",
    "ExportSource",
    "ModelFiles",
    "ask_ahead",
    "counting_options",
    "dry_run",
    "evaluate_recipe",
    "export_model",
    "export_source",
    "first_rows",
    "load_source",
    "make_baselines",
    "make_policies",
    "model_files",
    "open_bench",
    "place_recipe",
    "quiet_libraries",
    "record_rows",
    "remembered",
    "report_folder",
    "template_of",
    "train_recipe",
    "warm_up_recipe",
]
