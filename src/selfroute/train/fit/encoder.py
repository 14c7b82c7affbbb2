"""Fine-tune an encoder to read the question and say whether it needs the cloud, the router of arXiv 2509.24050.

The paper fine-tunes DeBERTa-v3-large on whether the device answers rightly (section 2.1). Any sequence classifier of
transformers does; its weights come from a folder or the hub. Trained in plain torch: the data are a few thousand short
texts and need neither a trainer nor its logging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from selfroute.backends.files import is_path, opened
from selfroute.errors import ConfigError
from selfroute.scores.evidence import Evidence
from selfroute.train.fit.scorer import Examples

__all__ = ["EncoderScorer", "fit_encoder"]

_BATCH = 16
_CLIP = 1.0


class EncoderScorer:
    """The probability that a question should go to the cloud.

    Kept as a folder that transformers reads, with the weights as safetensors, which run no code.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int = 256) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, asked: str | Evidence) -> float:
        return float(self.scores([asked if isinstance(asked, str) else asked.question])[0])

    def scores(self, questions: Sequence[str], answers: Sequence[str] | None = None) -> npt.NDArray[np.float64]:
        """Many at once, shape (n,)."""
        self.model.eval()
        parts: list[npt.NDArray[np.float64]] = [np.zeros(0)]
        with torch.inference_mode():
            for start in range(0, len(questions), _BATCH):
                logits = self.model(**self.batch(questions[start : start + _BATCH])).logits
                parts.append(torch.softmax(logits.double(), -1)[:, 1].cpu().numpy())
        return np.concatenate(parts)

    def batch(self, questions: Sequence[str]) -> Mapping[str, Any]:
        """Questions as the model's input, on its device."""
        encoded = self.tokenizer(
            [question.strip() for question in questions],
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return dict(encoded.to(self.model.device))

    @property
    def reads_answers(self) -> bool:
        return False

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path) -> EncoderScorer:
        """Read what `save` wrote, or an encoder that has not been fine-tuned yet.

        Raises:
            ConfigError: it cannot be found, or is no model.
        """
        folder = opened(folder)
        if is_path(folder) and not Path(folder).is_dir():
            raise ConfigError(f"encoder '{folder}' does not exist; name a folder with its weights, or one of the hub")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, use_safetensors=True)
        except (OSError, ValueError) as error:
            cause = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"encoder '{folder}' cannot be loaded ({cause}); name a folder with its weights, "
                "or choose prompt_router, which needs none"
            ) from error
        return cls(model, tokenizer)


def fit_encoder(
    examples: Examples,
    *,
    encoder: str = "microsoft/deberta-v3-base",
    epochs: int = 3,
    learning_rate: float = 2e-5,
    seed: int = 0,
) -> EncoderScorer:
    """Fine-tune on train rows: cross-entropy, AdamW, a linear decay, gradients clipped to length 1.

    Args:
        encoder: folder or hub repository of an encoder.

    Raises:
        ConfigError: too few rows of a kind, or an encoder that cannot be loaded.
    """
    examples.check()
    torch.manual_seed(seed)
    scorer = EncoderScorer.load(encoder)
    model = scorer.model.train()
    order = torch.Generator().manual_seed(seed)
    labels = torch.tensor(examples.send)
    steps = epochs * -(-len(examples) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(examples), generator=order), _BATCH):
            batch = scorer.batch([examples.questions[i] for i in chosen.tolist()])
            loss = model(**batch, labels=labels[chosen].to(model.device)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
    return scorer
