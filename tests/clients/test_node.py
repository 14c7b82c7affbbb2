"""The same through clients on Node."""

from __future__ import annotations

import json

import pytest
from tests.clients.conftest import House
from tests.clients.test_page import NODE_MODULES, need, run
from tests.clients.upstream import ANSWER

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("client", ["openai", "compatible", "responses"])
def test_node(client: str, house: House) -> None:
    node = need("node")
    if not NODE_MODULES.is_dir():
        pytest.skip("the packages of package.json are not installed; make clients")
    told = json.loads(run([node, "clients.mjs", client, house.url], folder=NODE_MODULES.parent))
    assert (told["whole"], told["ran"], told["streamed"]) == (ANSWER, ANSWER, ANSWER)
    assert told["asked"] == ["Rome", "Oslo"] and told["filled"] == {"name": "Rome", "people": 3}
