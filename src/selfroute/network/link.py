"""A link between device and cloud, as stated numbers, and what they say about a request."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from selfroute.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float64]

__all__ = ["Network"]

N = TypeVar("N", float, "Floats")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A stated model of speed, for latencies that do not depend on the machine that evaluated.

    Attributes:
        rtt_s: round trip to the cloud, paid once for each call.
        uplink_mbps, downlink_mbps: megabits per second.
        bytes_per_token: of the text on the wire.
        device_prompt_tokens_per_s, device_tokens_per_s: speed of reading and of writing on the device.
        cloud_prompt_tokens_per_s, cloud_tokens_per_s: the same of the cloud.
        cloud_extra_s_per_token: what the cloud's own network adds to each token that it writes, such as
            `network_s_per_token` of `selfroute place`.

    Raises:
        ConfigError: a value is not above 0 (a round trip and the extra may be 0).
    """

    rtt_s: float = 0.05
    uplink_mbps: float = 10.0
    downlink_mbps: float = 50.0
    bytes_per_token: float = 4.0
    device_prompt_tokens_per_s: float = 300.0
    device_tokens_per_s: float = 30.0
    cloud_prompt_tokens_per_s: float = 5000.0
    cloud_tokens_per_s: float = 80.0
    cloud_extra_s_per_token: float = 0.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            may_be_zero = option.name in ("rtt_s", "cloud_extra_s_per_token")
            if not (math.isfinite(value) and (value > 0 or (value == 0 and may_be_zero))):
                raise ConfigError(f"network.{option.name}: {value} is not a positive number")

    def bytes_of(self, tokens: Floats) -> Floats:
        """Size of texts on the wire, where nobody counted their bytes; shape (n,)."""
        return tokens * self.bytes_per_token

    def device_s(self, read: N, written: N) -> N:
        """Seconds in which the device reads and writes so many tokens."""
        return read / self.device_prompt_tokens_per_s + written / self.device_tokens_per_s

    def cloud_s(self, read: Floats, written: Floats, *, calls: Floats | float, up: Floats, down: Floats) -> Floats:
        """Seconds until the cloud's text is there, shape (n,); it is streamed, so the slower of both ends counts.

        Args:
            read, written: the cloud's tokens.
            calls: round trips.
            up, down: bytes to it and from it.
        """
        import numpy as np  # here: whoever only states a link needs none

        start = calls * self.rtt_s + self.up_s(up) + read / self.cloud_prompt_tokens_per_s
        return start + np.maximum(self._writing_s(written), self.down_s(down))

    def answer_s(self, read: float, written: float, down: float) -> float:
        """Seconds of one answer of the cloud without its round trip and upload, as in `cloud_s`."""
        return read / self.cloud_prompt_tokens_per_s + max(self._writing_s(written), self.down_s(down))

    def up_s(self, size: N) -> N:
        """Seconds in which so many bytes go up."""
        return size * _S_PER_BYTE / self.uplink_mbps

    def down_s(self, size: N) -> N:
        """Seconds in which so many bytes come down."""
        return size * _S_PER_BYTE / self.downlink_mbps

    def _writing_s(self, written: N) -> N:
        return written / self.cloud_tokens_per_s + written * self.cloud_extra_s_per_token


_S_PER_BYTE = 8e-6  # at one megabit per second
