"""Random models of a few thousand parameters, of every architecture that is exported, with the embedded tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def tokenizer() -> PreTrainedTokenizerFast:
    from selfroute.train.imitation.tokenizer import build_tokenizer

    return build_tokenizer()


def model(kind: str, words: PreTrainedTokenizerFast, **options: Any) -> PreTrainedModel:
    """A Llama, Qwen2 or Qwen3 with spread-out logits, so that greedy choices are no near ties."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": len(words) + 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.5,
        "tie_word_embeddings": True,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    made: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**values, **options}))
    made.generation_config.eos_token_id = words.eos_token_id
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias"):
                weight.normal_()  # transformers starts them at zero, where a lost one would not show
    return made.eval()
