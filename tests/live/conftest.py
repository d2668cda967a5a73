"""Fixtures for tests on the running kernel.

All tests here are marked ``live``. Without root, or without namespaces, they are skipped; with ``CI=true`` they fail.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.live import netns

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a skip is a failure, whoever skipped."""
    report = yield
    if tools.STRICT and report.skipped and not hasattr(report, "wasxfail") and HERE in item.path.parents:
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI=true does not allow that: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def _live_machine() -> None:
    reason = netns.why_not() if shutil.which("ip") else "ip (iproute2) is not installed"
    if reason:
        tools.missing(reason)
    netns.remove_stale()


@pytest.fixture
def namespace(_live_machine: None) -> Iterator[Callable[..., netns.Namespace]]:
    """Makes nodes (:class:`tests.live.netns.Namespace`), and removes them after the test."""
    made: list[netns.Namespace] = []

    def make(*args: object, **kwargs: object) -> netns.Namespace:
        node = netns.Namespace(*args, **kwargs)  # type: ignore[arg-type]
        made.append(node)
        return node

    try:
        yield make
    finally:
        for node in made:
            node.close()
