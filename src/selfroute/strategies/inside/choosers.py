"""Who says behind which layer a model is cut, from what a device can know of its link; folders of such policies.

A policy was made for one model, one channel and one weight of quality against the device's load; see docs/split.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from selfroute.backends.layers import Whole
from selfroute.errors import ConfigError
from selfroute.network.channel import Channel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float32]
    Floats: TypeAlias = npt.NDArray[np.float64]

__all__ = ["Argmax", "Chooser", "Fixed", "Net", "PolicyFolder", "SurrogateNet", "Threshold", "rewards"]

_FACTS, _WEIGHTS = "split.json", "split.safetensors"


class Chooser(Protocol):
    """Which place to cut at."""

    def __call__(self, loss: float) -> int:
        """Number of layers on the device.

        Args:
            loss: what the device makes of the link's p.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same place."""

    place: int

    def __call__(self, loss: float) -> int:
        return self.place


@dataclass(frozen=True, slots=True)
class Threshold:
    """A shallow place while the loss is below a threshold, and a deep one from there on."""

    shallow: int
    deep: int
    loss: float

    def __call__(self, loss: float) -> int:
        return self.deep if loss >= self.loss else self.shallow


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A small network: layers with an activation between them.

    Attributes:
        layers: weight of shape (out, in) and bias of shape (out,) of each.
        activation: between them.
    """

    layers: Sequence[tuple[Array, Array]]
    activation: Literal["relu", "tanh"] = "relu"

    def __call__(self, values: Floats) -> Floats:
        """Outputs, shape (…, out), of inputs, shape (…, in)."""
        import numpy as np

        for number, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T.astype(np.float64) + bias
            if number + 1 < len(self.layers):
                values = np.maximum(values, 0) if self.activation == "relu" else np.tanh(values)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class SurrogateNet:
    """How much worse a token gets on average by a cut, without running the model: f(p, l).

    Attributes:
        net: from p / most and l / L to the rise of the negative log-likelihood, as many deviations above its mean.
        most: largest p that was measured.
        layers: L, of the model.
        mean, deviation: of what was measured, in nats per token.
    """

    net: Net
    most: float
    layers: int
    mean: float
    deviation: float

    def __call__(self, losses: Floats, places: Sequence[int]) -> Floats:
        """Nats per token above the clean model's, shape (losses, places); of a larger p what it says of the largest."""
        import numpy as np

        grid = np.stack(
            np.meshgrid(np.minimum(losses, self.most) / self.most, np.array(places) / self.layers, indexing="ij"), -1
        )
        found: Floats = self.net(grid)[..., 0] * self.deviation + self.mean
        return found


def rewards(rise: Floats, places: Sequence[int], layers: int, weight: float) -> Floats:
    """r = -λ · rise + (L - l) / L, shape (losses, places), with λ the weight: quality against the device's load.

    Args:
        rise: nats per token above the clean model's, shape (losses, places).
        places: l, layers on the device.
        layers: L.
    """
    import numpy as np

    return -weight * rise + (layers - np.array(places)) / layers


@dataclass(frozen=True, slots=True, eq=False)
class Argmax:
    """The place of the largest reward by the surrogate: no learning beyond that."""

    surrogate: SurrogateNet
    places: Sequence[int]
    weight: float

    def __call__(self, loss: float) -> int:
        import numpy as np

        rise = self.surrogate(np.array([loss]), self.places)
        return self.places[int(rewards(rise, self.places, self.surrogate.layers, self.weight)[0].argmax())]


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """The place that a network rates best: the actor of PPO or A2C, or the values of DQN."""

    net: Net
    most: float
    places: Sequence[int]

    def __call__(self, loss: float) -> int:
        import numpy as np

        return self.places[int(self.net(np.array([min(loss, self.most) / self.most])).argmax())]


# --- folders -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyFolder:
    """What `algorithm: split_policy` leaves.

    Attributes:
        whole: the model that it was measured on.
        places: where it may be cut.
        channel: the link it was measured on.
        weight: λ.
        method: name of the policy.
        surrogate: what it was made from.
        choice: plain values of a fixed place or a threshold.
        net: of a learned policy.
        facts: of its making.
    """

    whole: Whole
    places: tuple[int, ...]
    channel: Channel
    weight: float
    method: str
    surrogate: SurrogateNet
    choice: Mapping[str, Any] = field(default_factory=dict)
    net: Net | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def chooser(self, weight: float | None = None) -> Chooser:
        """The policy.

        Args:
            weight: another λ, for the argmax.

        Raises:
            ConfigError: a policy that was learned for one λ is asked for another.
        """
        if weight is not None and weight != self.weight and self.method != "argmax":
            raise ConfigError(
                f"weight: {self.method} was made for {self.weight:g}, not {weight:g}; leave weight out, or train "
                "method: argmax, which knows them all"
            )
        if self.net is not None:
            return Learned(self.net, self.surrogate.most, self.places)
        if self.method == "argmax":
            return Argmax(self.surrogate, self.places, self.weight if weight is None else weight)
        return Threshold(**self.choice) if self.method == "threshold" else Fixed(**self.choice)

    def check(self, whole: Whole, places: Sequence[int]) -> None:
        """See that it was made for a device's model and layers.

        Raises:
            ConfigError: it was not.
        """
        for name in ("layers", "width", "weights"):
            mine, theirs = getattr(self.whole, name), getattr(whole, name)
            if mine != theirs:
                raise ConfigError(
                    f"policy: it was made for a model whose {name} is {mine}, and the device's is {theirs}; train "
                    "algorithm: split_policy for this model"
                )
        if beyond := sorted(set(self.places) - set(places)):
            raise ConfigError(
                f"policy: it may cut behind layer {beyond[0]}, and the device holds {places[-1]}; train it with "
                f"layers: up to {places[-1]}"
            )

    def save(self, folder: Path) -> None:
        """Write it as `split.json` and `split.safetensors`."""
        from dataclasses import asdict

        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        nets = {"surrogate": self.surrogate.net} | ({} if self.net is None else {"policy": self.net})
        save_file({key: value for name, net in nets.items() for key, value in _tensors(name, net).items()},
                  folder / _WEIGHTS)  # fmt: skip
        about = {
            "selfroute": 1,
            "whole": asdict(self.whole),
            "places": list(self.places),
            "channel": asdict(self.channel),
            "weight": self.weight,
            "method": self.method,
            "surrogate": {name: getattr(self.surrogate, name) for name in ("most", "layers", "mean", "deviation")},
            "activations": {name: net.activation for name, net in nets.items()},
            "choice": dict(self.choice),
            "facts": dict(self.facts),
        }
        (folder / _FACTS).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PolicyFolder:
        """Read what `save` wrote.

        Raises:
            ConfigError: the folder holds no policy.
        """
        from safetensors.numpy import load_file

        try:
            about = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            tensors = load_file(folder / _WEIGHTS)
            nets = {name: _net(name, tensors, activation) for name, activation in about["activations"].items()}
            return cls(
                whole=Whole.of(about["whole"]),
                places=tuple(about["places"]),
                channel=Channel(**about["channel"]),
                weight=float(about["weight"]),
                method=str(about["method"]),
                surrogate=SurrogateNet(nets["surrogate"], **about["surrogate"]),
                choice=about["choice"],
                net=nets.get("policy"),
                facts=about["facts"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"policy: '{folder}' holds no split policy ({error}); name the folder that algorithm: split_policy made"
            ) from None


def _tensors(name: str, net: Net) -> dict[str, Array]:
    import numpy as np

    return {
        f"{name}.{number}.{what}": np.ascontiguousarray(value, dtype=np.float32)
        for number, layer in enumerate(net.layers)
        for what, value in zip(("weight", "bias"), layer, strict=True)
    }


def _net(name: str, tensors: Mapping[str, Array], activation: Any) -> Net:
    count = sum(key.startswith(f"{name}.") for key in tensors) // 2
    layers = [(tensors[f"{name}.{n}.weight"], tensors[f"{name}.{n}.bias"]) for n in range(count)]
    return Net(layers, activation)
