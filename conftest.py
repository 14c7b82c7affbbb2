"""In CI a test that is skipped because a part is missing has failed.

On a laptop such a test is skipped by name and the rest still counts. In CI (CI=true) everything that the tests
need is installed, so a skip means that something silently stopped being tested. Tests marked `gpu` (needs an
accelerator) or `data` (needs data sets that are not part of the repository) may be skipped there too, and so may
those whose reason names a path outside the repository ("needs ../…"). Those marked `clients` may be skipped unless they
are what is run (`-m clients`), as their packages have an environment of their own.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

MAY_BE_SKIPPED = ("gpu", "data")
OUTSIDE = "needs ../"


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, node: pytest.Item | pytest.Collector) -> None:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    may = MAY_BE_SKIPPED if node.config.getoption("markexpr") == "clients" else (*MAY_BE_SKIPPED, "clients")
    if OUTSIDE not in reason and not any(node.get_closest_marker(name) for name in may):
        report.outcome = "failed"
        report.longrepr = f"{node.nodeid} was skipped, which counts as a failure when CI=true: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report, item)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report, collector)
    return report
