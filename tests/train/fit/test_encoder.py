"""The encoder router on a tiny encoder with random weights, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from selfroute.errors import ConfigError
from selfroute.scores.evidence import Evidence
from selfroute.train.fit.encoder import EncoderScorer, fit_encoder
from selfroute.train.fit.scorer import Examples


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "add", "prove", "numbers", "theorems", *"0123456789"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_it_learns_and_is_kept(encoder: Path, tmp_path: Path) -> None:
    questions = [f"add numbers {i}" for i in range(30)] + [f"prove theorems {i}" for i in range(30)]
    examples = Examples.of(questions, [True] * 30 + [False] * 30)
    scorer = fit_encoder(examples, encoder=str(encoder), epochs=8, learning_rate=5e-3)
    assert scorer("prove theorems 99") > 0.5 > scorer(Evidence("add numbers 99", "ignored"))
    scorer.save(tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("*.bin"))
    loaded = EncoderScorer.load(tmp_path / "kept")
    assert np.allclose(loaded.scores(questions), scorer.scores(questions), atol=1e-6)
    assert loaded.scores([]).shape == (0,)


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        EncoderScorer.load(tmp_path)
