"""The machine and process around a run: versions, commit and hardware for run files and reports, and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["commit", "hardware", "has_fast_bf16", "provenance", "release_memory", "versions"]

PACKAGES = ("selfroute", "torch", "transformers", "trl", "accelerate", "datasets", "scikit-learn", "numpy",
            "scipy", "ortools")  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can move a result; missing ones are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of this package's own checkout, with "+changes" if files differ from it; None if it is not in one."""
    package = Path(__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    # An environment inside somebody else's repository must not report that repository's commit.
    if top is None or package != Path(top) / "src" / package.name:
        return None
    head = _git(package, "rev-parse", "--short=12", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", str(package))
    return f"{head}+changes" if head and changed else head


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def hardware() -> dict[str, str | int]:
    """Processor, cores and system; no host name and no path."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def has_fast_bf16() -> bool:
    """Whether torch computes faster in bfloat16 than in float32 here; without instructions for it, it is slower."""
    import torch

    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


def provenance() -> dict[str, object]:
    """Everything above, ready for JSON."""
    return {"versions": versions(), "commit": commit(), "hardware": hardware()}


def release_memory() -> None:
    """Give memory that was freed back to the system: glibc keeps what thousands of tensors of all sizes left behind.

    After a training of a few minutes that is 0.6 GB. Elsewhere than on Linux with glibc this does nothing more than
    collect garbage.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
