"""A network of 2-128-128-1 that says how much a cut costs, fitted to a few measurements (arXiv 2406.02616)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from selfroute.strategies.inside.choosers import Net, SurrogateNet
from selfroute.train.splitting.measure import Floats, Quality

__all__ = ["WIDTH", "fit_surrogate", "net_of"]

WIDTH = 128


def fit_surrogate(
    quality: Quality,
    layers: int,
    *,
    steps: int = 1500,
    learning_rate: float = 3e-3,
    seed: int = 0,
    on_step: Callable[[int, float], object] = lambda step, loss: None,
) -> SurrogateNet:
    """Fit it by least squares. p = 0 costs nothing at any place, which is known without a measurement.

    Args:
        layers: L, of the whole model.
        learning_rate: of Adam at first; it falls to 0 as a line.
    """
    losses = np.concatenate([[0.0], quality.losses])
    rise = np.concatenate([np.zeros((1, len(quality.places))), quality.rise])
    mean, deviation, most = float(rise.mean()), float(rise.std()) or 1.0, float(quality.losses.max())
    inputs = _grid(losses / most, np.array(quality.places) / layers)
    wanted = torch.from_numpy(((rise - mean) / deviation).astype(np.float32)).flatten()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
        )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(1, steps + 1):
        loss = nn.functional.mse_loss(net(inputs)[:, 0], wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falls.step()
        on_step(step, loss.item())
    return SurrogateNet(net_of(net, "relu"), most, layers, mean, deviation)


def _grid(losses: Floats, places: Floats) -> Tensor:
    both = np.stack(np.meshgrid(losses, places, indexing="ij"), -1).reshape(-1, 2)
    return torch.from_numpy(both.astype(np.float32))


def net_of(module: nn.Module, activation: str) -> Net:
    """The linear layers of a module in their order, without torch."""
    layers = [
        (each.weight.detach().cpu().numpy().copy(), each.bias.detach().cpu().numpy().copy())
        for each in module.modules()
        if isinstance(each, nn.Linear)
    ]
    return Net(layers, "tanh" if activation == "tanh" else "relu")
