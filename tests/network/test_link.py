from __future__ import annotations

import numpy as np
import pytest

from selfroute.errors import ConfigError
from selfroute.network.link import Network

NETWORK = Network(
    rtt_s=0.1, uplink_mbps=1, downlink_mbps=0.001, bytes_per_token=5, device_prompt_tokens_per_s=100,
    device_tokens_per_s=10, cloud_prompt_tokens_per_s=800, cloud_tokens_per_s=100,
)  # fmt: skip


def test_the_device_reads_and_writes() -> None:
    assert NETWORK.device_s(np.array([200.0]), np.array([40.0])) == pytest.approx(200 / 100 + 40 / 10)


def test_the_cloud_is_called_reads_and_streams() -> None:
    read, written = np.array([80.0, 80.0]), np.array([60.0, 0.0])
    up, down = NETWORK.bytes_of(read), NETWORK.bytes_of(written)
    found = NETWORK.cloud_s(read, written, calls=np.array([1.0, 3.0]), up=up, down=down)
    start = 400 * 8 / 1e6 + 80 / 800
    assert found == pytest.approx([0.1 + start + 60 * 5 * 8 / 1000, 0.3 + start])  # receiving is slower than writing


def test_nothing_takes_no_time() -> None:
    none = np.zeros(2)
    assert NETWORK.cloud_s(none, none, calls=none, up=none, down=none).tolist() == [0, 0]


def test_a_speed_that_cannot_be_is_refused() -> None:
    assert Network(rtt_s=0).rtt_s == 0
    for values in ({"uplink_mbps": 0.0}, {"rtt_s": -1.0}, {"cloud_tokens_per_s": float("nan")}):
        with pytest.raises(ConfigError, match=f"network.{next(iter(values))}: .* is not a positive number"):
            Network(**values)
