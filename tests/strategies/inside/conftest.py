"""One pair for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.strategies.inside.pair import alike, model

from selfroute.backends.transformers import TransformersBackend


@pytest.fixture(scope="session")
def device() -> Iterator[TransformersBackend]:
    with model("device", seed=1) as made:
        yield made


@pytest.fixture(scope="session")
def cloud(device: TransformersBackend) -> Iterator[TransformersBackend]:
    with alike(device, share=0.25, seed=2) as made:
        yield made
