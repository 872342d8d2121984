"""When a test fails while a lab stands, pytest shows what the lab looked like."""

from collections.abc import Generator

import pytest

from .lab import standing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when == "call":
        for lab in standing:
            report.sections.append((f"lab {lab.name}", lab.report()))
    return report
