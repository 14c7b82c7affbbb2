"""Tiny mixture models of transformers, and prompts of two domains, for tests and benchmarks of routers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

EXPERTS = 8
VOCABULARY = 64
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64, "num_experts_per_tok": 2,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def mixtral() -> PreTrainedModel:
    config = transformers.MixtralConfig(**_COMMON, num_local_experts=EXPERTS)
    return made(transformers.MixtralForCausalLM, config)


def deepseek(layers: int = 3) -> PreTrainedModel:
    """Its first layer is dense; its routers choose one of four groups before they choose experts."""
    config = transformers.DeepseekV3Config(
        **_COMMON | {"num_hidden_layers": layers}, n_routed_experts=EXPERTS, n_shared_experts=1, n_group=4,
        topk_group=1, moe_intermediate_size=32, first_k_dense_replace=1, q_lora_rank=None, kv_lora_rank=8,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    )  # fmt: skip
    return made(transformers.DeepseekV3ForCausalLM, config)


def made(kind: Any, config: Any, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model: PreTrainedModel = kind(config)
    with torch.no_grad():  # some routers start at zero, where every choice is a tie
        for name, parameter in model.named_parameters():
            if name.endswith(("gate.weight", "router.weight")):
                parameter.normal_(0, 0.5)
    return model.eval()


def domain(first: int, count: int, *, length: int = 16, seed: int = 0) -> torch.Tensor:
    """Sentences of one half of the vocabulary, each token given by the one before: shape (count, length)."""
    generator = torch.Generator().manual_seed(seed)
    half = (VOCABULARY - 4) // 2
    rows = [torch.randint(half, (count,), generator=generator)]
    for _ in range(length - 1):
        step = torch.randint(1, 3, (count,), generator=generator)
        rows.append((3 * rows[-1] + step) % half)
    return 4 + first * half + torch.stack(rows, dim=1)


def train(model: PreTrainedModel, batches: Sequence[torch.Tensor], *, steps: int = 60) -> PreTrainedModel:
    """A few steps of next-token prediction on batches in turn."""
    torch.set_num_threads(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for step in range(steps):
        ids = batches[step % len(batches)]
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()
