"""When a test fails while a lab stands, pytest shows what the lab looked like. And the lab of the tests of
reporting; a module that needs another one has a fixture of that name itself.
"""

from collections.abc import Generator, Iterator

import pytest

from .lab import Lab, build, standing
from .topology import dual


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two providers and a broker."""
    with build(dual(broker=True), wait=True) as built:
        yield built


@pytest.fixture
def as_it_was(lab: Lab) -> Iterator[None]:
    """What a test did to the agent, the network and the broker is undone; the broker forgets all it heard."""
    yield
    if lab.router.agent is not None and lab.router.agent.running:
        lab.router.agent.stop()
    lab.heal()
    lab.broker.thaw()
    lab.broker.stop()
    for left in lab.broker.directory.glob("mosquitto.db"):
        left.unlink()
    lab.broker.use_certificate("server")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when == "call":
        for lab in standing:
            report.sections.append((f"lab {lab.name}", lab.report()))
    return report
