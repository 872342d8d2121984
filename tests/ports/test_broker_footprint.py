"""What the MQTT library brings into memory, and what of it is kept away."""

import subprocess
import sys

import pytest

CODE = """
import sys
from wgrouter.ports import nameserver
from wgrouter.ports._broker_session import library
FIRST
paho = library()
assert {"dns.resolver", "urllib.request", "http.client", "email"}.isdisjoint(sys.modules)
import dns.resolver, urllib.request
assert dns.resolver.Resolver and urllib.request.getproxies, "the real ones can still be had"
import wgrouter.ports._broker_session as session
assert session.library() is paho and paho.Client
"""


@pytest.mark.parametrize("first", ("", "nameserver.codec()"))
def test_paho_without_proxies_and_resolver(first: str) -> None:
    command = [sys.executable, "-c", CODE.replace("FIRST", first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
