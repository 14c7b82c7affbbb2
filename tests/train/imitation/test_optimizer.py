"""Muon and AdamW as one optimizer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from selfroute.train.imitation.optimizer import MuonAdamW
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.train.imitation.warmup import build_model


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 7))


def made(model: nn.Module) -> MuonAdamW:
    return MuonAdamW(model, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.98))


def train(model: nn.Module, optimizer: MuonAdamW, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.arange(7)), torch.arange(7).roll(1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_it_learns_and_every_weight_has_one_owner() -> None:
    model = small()
    optimizer = made(model)
    owned = [id(part) for group in optimizer.param_groups for part in group["params"]]
    assert sorted(owned) == sorted(id(part) for part in model.parameters())
    losses = train(model, optimizer, 200)
    assert losses[-1] < losses[0] / 4


def test_a_tied_table_is_left_to_adamw() -> None:
    model = build_model(build_tokenizer(), hidden_size=32, layers=1)
    muon, adamw = made(model).parts
    table = id(model.get_input_embeddings().weight)
    assert table in {id(part) for group in adamw.param_groups for part in group["params"]}
    assert all(part.ndim == 2 for group in muon.param_groups for part in group["params"])


def test_a_run_that_is_loaded_goes_on_as_it_was() -> None:
    model = small()
    optimizer = made(model)
    train(model, optimizer, 5)
    other = small()
    other.load_state_dict(model.state_dict())
    loaded = made(other)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, loaded):
        _set_rate(one)
    assert train(model, optimizer, 5) == train(other, loaded, 5)


def _set_rate(optimizer: Any) -> None:
    for group in optimizer.param_groups:  # as a scheduler does
        group["lr"] = 3e-3
