"""A link between device and cloud, as stated numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from selfroute.errors import ConfigError

__all__ = ["Network"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A stated model of speed, for latencies that do not depend on the machine that evaluated.

    Attributes:
        rtt_s: round trip to the cloud, paid once for each request that is sent.
        uplink_mbps, downlink_mbps: megabits per second.
        bytes_per_token: of the text on the wire.
        device_prompt_tokens_per_s, device_tokens_per_s: speed of reading and of writing on the device.
        cloud_prompt_tokens_per_s, cloud_tokens_per_s: the same of the cloud.

    Raises:
        ConfigError: a value is not above 0 (a round trip may be 0).
    """

    rtt_s: float = 0.05
    uplink_mbps: float = 10.0
    downlink_mbps: float = 50.0
    bytes_per_token: float = 4.0
    device_prompt_tokens_per_s: float = 300.0
    device_tokens_per_s: float = 30.0
    cloud_prompt_tokens_per_s: float = 5000.0
    cloud_tokens_per_s: float = 80.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if not (math.isfinite(value) and (value > 0 or (value == 0 and option.name == "rtt_s"))):
                raise ConfigError(f"network.{option.name}: {value} is not a positive number")
