"""A real pretrained model: SmolLM2, taught for a few steps, from GGUF to transformers and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.scripts import load_script

BENCHMARK = "benchmarks/export.py"


def benchmark() -> Any:
    return load_script(BENCHMARK)


@pytest.mark.slow
def test_smollm2_answers_the_same(tmp_path: Path) -> None:
    """The check of `benchmarks/export.py` with two steps and six prompts.

    After two steps it writes free text, so there are no decisions to compare: of Q8_0, which moves log-probabilities by
    0.1 to 0.2 at this size, only that it parts from transformers where that was nearly undecided.
    """
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install 'selfroute[llamacpp]'")
    from selfroute.backends.llama_cpp import find_smollm2
    from selfroute.errors import ConfigError
    from selfroute.export.run import export

    try:
        find_smollm2()
    except ConfigError as error:
        pytest.skip(str(error))
    made = benchmark()
    model, tokenizer = made.load_smollm2()
    made.teach(model, tokenizer, 2)
    out = tmp_path / "out"
    export(model, tokenizer, out, name="smollm2")
    assert "named SmolLM" in (out / "Modelfile").read_text(encoding="utf-8")
    files = [out / "smollm2-f16.gguf", out / "smollm2-q8_0.gguf"]
    exact, rounded = made.check(out / "hf", files, made.smollm2_prompts(6), 8)
    assert (exact.tokens, exact.texts, exact.decisions) == (6, 6, 6)
    assert rounded.tokens == 6
    assert all(margin < 0.5 for margin in rounded.margins)


@pytest.mark.slow
def test_the_embedded_device_answers_the_same(tmp_path: Path) -> None:
    """After training; before it the warm-up's even chances are near ties, which rounding decides."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install 'selfroute[llamacpp]'")
    from selfroute.assemble.exporting import export_model
    from selfroute.prompts import TEMPLATES
    from selfroute.tasks.countdown import Countdown

    made, template = benchmark(), TEMPLATES["think"]
    out = tmp_path / "out"
    export_model("embedded:device-gapg", out, formats=["hf", "gguf"], types=["f16", "q8_0"])
    rows = Countdown(limit=12).rows("test")
    prompts = [template.device_messages(template.conversation(row.question)) for row in rows]
    files = [out / "device-gapg-f16.gguf", out / "device-gapg-q8_0.gguf"]
    exact, rounded = made.check(out / "hf", files, prompts, 200)
    assert (exact.tokens, exact.texts, exact.decisions) == (12, 12, 12)
    assert rounded.tokens == 12 and rounded.decisions >= 11
