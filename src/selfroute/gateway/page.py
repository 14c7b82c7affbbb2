"""The dashboard as it is sent: one file that needs no other."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import lru_cache
from importlib.resources import files

__all__ = ["dashboard"]


@lru_cache(maxsize=1)
def dashboard() -> tuple[bytes, str]:
    """The page, and the policy that lets nothing run or load but what it holds itself."""
    page = files("selfroute.gateway").joinpath("dashboard.html").read_bytes()

    def hashed(tag: str) -> str:
        (inner,) = re.findall(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), page, re.DOTALL)
        return f"'sha256-{b64encode(hashlib.sha256(inner).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy
