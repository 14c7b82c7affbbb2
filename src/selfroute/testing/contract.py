"""How a broken contract is told."""

from __future__ import annotations

__all__ = ["hold"]


def hold(holds: bool, contract: str) -> None:
    """As `assert`, also under `python -O`."""
    if not holds:
        raise AssertionError(contract)
