"""The embedded pair, over an assets folder made in the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfroute.backends.base import complete
from selfroute.backends.best_of import BestOfN
from selfroute.backends.embedded import accepts_own_check, asset_path, embedded, provenance
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError
from selfroute.types import Message, Sampling

HELLO = [Message("user", "hello")]


@pytest.fixture(scope="module")
def assets(tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The layout of the package's assets, with weights in bfloat16; device_gapg is left out."""
    import copy

    import torch

    root = tmp_path_factory.mktemp("assets")
    stored = copy.deepcopy(tiny_model).to(torch.bfloat16)
    for folder in ("device", "cloud"):
        stored.save_pretrained(root / folder)
    tiny_tokenizer.save_pretrained(root / "tokenizer")
    (root / "provenance.json").write_text(json.dumps({"device": {"seed": 7, "accuracy": 0.6}}))
    yield root


def test_weights_are_loaded_to_float32(assets: Path) -> None:
    import torch

    device = embedded("device", root=assets)
    assert isinstance(device, TransformersBackend)
    assert {p.dtype for p in device.model.parameters()} == {torch.float32}
    assert device.name == "device"
    assert not device.model.training


async def test_streams_and_batches(assets: Path) -> None:
    device = embedded("device", root=assets, max_batch=2)
    assert isinstance(device, TransformersBackend)
    async with device:
        streamed = await complete(device, HELLO, Sampling(max_tokens=10))
        assert [a.text for a in device.generate_batch([HELLO] * 3, Sampling(max_tokens=10))] == [streamed.text] * 3


async def test_the_cloud_tries_again_when_its_own_check_says_no(assets: Path) -> None:
    cloud = embedded("cloud", root=assets)
    assert isinstance(cloud, BestOfN)
    assert (cloud.name, cloud.n) == ("cloud", 8)
    answer = await complete(cloud, HELLO, Sampling(max_tokens=5))
    # A random model never says yes: the greedy answer stands and all eight are counted.
    device = embedded("device", root=assets)
    assert answer.text == (await complete(device, HELLO, Sampling(max_tokens=5))).text
    assert 8 < answer.usage.completion_tokens <= 40
    await cloud.aclose()


def test_samples_are_a_choice(assets: Path) -> None:
    assert isinstance(embedded("cloud", samples=1, root=assets), TransformersBackend)
    device = embedded("device", samples=3, root=assets)
    assert isinstance(device, BestOfN) and device.n == 3


def test_paths_and_provenance(assets: Path) -> None:
    assert asset_path("device-gapg", root=assets) == assets / "device_gapg"
    assert asset_path("cloud").parts[-2:] == ("assets", "cloud")
    assert provenance("device", root=assets) == {"seed": 7, "accuracy": 0.6}


def test_what_is_missing_is_named(assets: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no embedded model 'devise'; known: device, device-gapg, cloud"):
        embedded("devise", root=assets)
    with pytest.raises(ConfigError, match=r"'device-gapg' is not installed: no config\.json in .*; reinstall"):
        embedded("device-gapg", root=assets)
    with pytest.raises(ConfigError, match="no record of embedded model 'cloud'"):
        provenance("cloud", root=assets)
    with pytest.raises(ConfigError, match="no record of embedded model 'device'"):
        provenance("device", root=tmp_path)


@pytest.mark.parametrize(
    ("completion", "accepted"),
    [
        ("<think>12-10=2,16*2=32?18n\n12-10=2,16+2=18?18y\n</think><answer>16+(12-10)</answer>", True),
        ("<think>12-10=2,16*2=32?18n\n</think><answer>16*(12-10)</answer>", False),
        ("<think>12-10=2,16+2=18?18y\n", False),
        ("<think></think>", False),
        ("", False),
        ("y", False),
    ],
)
def test_own_check(completion: str, accepted: bool) -> None:
    assert accepts_own_check(completion) is accepted
