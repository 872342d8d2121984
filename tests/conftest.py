"""What all tests share: which libraries run, what this machine lacks, and how hard hypothesis looks.

A test marked `lab` needs root and network namespaces; one marked `vm` needs WireGuard in the kernel. Where
that is missing the test is skipped with the reason, except under WGROUTER_STRICT=1 (`make test` and `make vm`
set it): there it fails, so that a machine that cannot run a test never looks like one that passed it.
"""

import functools
import importlib.metadata
import os
import subprocess
import sys
import uuid

import hypothesis
import pytest

STRICT = os.environ.get("WGROUTER_STRICT") == "1"

# "ci" repeats itself exactly; "soak" looks for longer than anybody wants to wait each time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default")
)


def pytest_report_header() -> str:
    """Name the library set: every test runs on two."""
    names = ("pyroute2", "paho-mqtt", "dnspython")
    versions = (f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"libraries: {', '.join(versions)}; kernel {os.uname().release}"


@functools.cache
def lacks_for_lab() -> str | None:
    """Why this machine cannot run a lab test, or None. Tries the thing itself: a container's root may not."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"cannot make a network namespace: {done.stderr.strip()}" if done.returncode else None


@functools.cache
def lacks_for_vm() -> str | None:
    """Why this kernel cannot run a test that needs its WireGuard, or None."""
    if reason := lacks_for_lab():
        return reason
    # In a namespace of its own that ends with the command: nothing to clean up, whatever happens.
    command = ["unshare", "--net", "ip", "link", "add", f"wg{uuid.uuid4().hex[:8]}", "type", "wireguard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        kernel, said = os.uname().release, done.stderr.strip()
        return f"this kernel ({kernel}) has no WireGuard ({said}); `make vm` boots one that has"
    return None


SLOWNESS = float(os.environ.get("WGROUTER_SLOWNESS", "1"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limits that tests have of their own are for a usual machine."""
    for item in items:
        mark = item.get_closest_marker("timeout")
        if mark and SLOWNESS != 1:
            item.add_marker(pytest.mark.timeout(SLOWNESS * mark.args[0]), append=False)


NEEDS = {"lab": lacks_for_lab, "vm": lacks_for_vm}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under WGROUTER_STRICT fail, a test that this machine cannot run."""
    for mark, lacks in NEEDS.items():
        if item.get_closest_marker(mark) and (reason := lacks()):
            if STRICT:
                pytest.fail(f"marked {mark!r}: {reason}", pytrace=False)
            pytest.skip(f"marked {mark!r}: {reason}")
