"""A broker that misbehaves costs the agent nothing but the broker, and the reason is told."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, until
from tests.lab.reporting import CERTIFICATE, PLAIN, PROTOCOL, TLS, Witness, configuration, reporting

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.usefixtures("as_it_was")]

# Seconds by which a probe may come too late, beside those for which other processes had the CPU that ours was
# ready to use: other tests run at the same time.
LATE_MAX = 0.05
WATCHED = 6.0  # seconds that the trouble goes on


def kept_waiting(pid: int) -> float:
    """Seconds for which the kernel had the agent's loop wait for a CPU (sched-stats.rst: run_delay)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


@contextlib.contextmanager
def server(lab: Lab, port: int, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Something else than a broker at the broker's address: `serve` gets each connection."""
    listener = lab.broker.box.socket(socket.AF_INET6, socket.SOCK_STREAM, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(8)
    listener.settimeout(0.2)
    ended = threading.Event()
    kept: list[socket.socket] = []

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            kept.append(connection)
            with contextlib.suppress(OSError):
                serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for sock in (*kept, listener):
            sock.close()


def reset(connection: socket.socket) -> None:
    """RST as soon as something came."""
    connection.settimeout(2)
    connection.recv(16)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def rubbish(connection: socket.socket) -> None:
    connection.sendall(os.urandom(4096))


def lateness(journal: Path, since: float, seconds: float) -> float:
    """By how much the latest probe of a WAN came after its interval of one second, as the journal has it."""
    sent: dict[tuple[str, bool], list[float]] = {}
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        for effect in entry.get("effects", ()):
            if effect["_"] == "Probe" and effect["device"].startswith("eth"):
                sent.setdefault((effect["device"], ":" in effect["target"]), []).append(entry["at"])
    gaps = [
        later - earlier - 1.0
        for times in sent.values()
        for earlier, later in itertools.pairwise(times)
        if later > since
    ]
    assert len(gaps) > seconds, "too few probes were sent to say anything"
    return max(gaps)


FAULTS = {
    "frozen": ("accepts connections and never answers", TLS),
    "frozen, without TLS": ("accepts connections and never answers", PLAIN),
    "resets": ("closes the connection before it answers", PLAIN),
    "resets TLS": ("Connection reset by peer", TLS),
    "rubbish": ("", PLAIN),
    "refuses": ("nobody listens on port 8883", TLS),
    "black hole": ("does not answer", TLS),
    "no name": ("is not resolved", TLS),
    "password": ("does not authorise", TLS),
    "stranger": ("its certificate is not accepted: unable to get local issuer", TLS),
    "other-name": ("its certificate is not accepted: Hostname mismatch", TLS),
    "expired": ("its certificate is not accepted: certificate has expired", TLS),
    "no certificate": ("", CERTIFICATE),
}


@pytest.mark.parametrize(
    ("fault", "version"),
    [*((fault, PROTOCOL) for fault in FAULTS), ("frozen", "3.1.1"), ("password", "3.1.1")],
)
def test_the_reason_is_told_and_no_probe_is_late(lab: Lab, fault: str, version: str) -> None:
    reason, port = FAULTS[fault]
    config = configuration(lab, port, protocol=version)
    journal = lab.router.root / "journal"
    with contextlib.ExitStack() as stack:
        if fault.startswith("frozen"):
            lab.broker.freeze()
        elif fault.startswith("resets") or fault == "rubbish":
            lab.broker.stop()
            stack.enter_context(server(lab, port, rubbish if fault == "rubbish" else reset))
        elif fault == "refuses":
            lab.broker.stop()
        elif fault == "black hole":
            for address in lab.broker.addresses:
                lab.silence(address)
        elif fault == "no name":
            config = config.replace(lab.broker.host, "nowhere.lab.test")
        elif fault == "password":
            lab.router.write("etc/password", "not this one\n", mode=0o600)
        elif fault == "no certificate":
            config = "\n".join(line for line in config.splitlines() if "_file '" not in line or "ca_" in line)
        else:
            lab.broker.use_certificate(fault)  # type: ignore[arg-type]
        agent = lab.router.start_agent(config, arguments=("--journal", str(journal)))
        until(lambda: agent.output().count("[wan.up]") >= 4, within=20, what="usable WANs")
        begun, before = time.monotonic(), kept_waiting(agent.pid)
        until(lambda: "[broker." in agent.output(), within=25, what="the reason")
        time.sleep(WATCHED)
        late, waited = lateness(journal, begun, WATCHED), kept_waiting(agent.pid) - before
        told = next(line for line in agent.output().splitlines() if "[broker." in line)
        print(
            f"{fault}, {version}: probes late by at most {1000 * late:.0f} ms, {1000 * waited:.0f} ms in all "
            f"without a CPU; {told}"
        )
        assert reason in told
        assert reporting(agent)["state"] != "up"
        assert late - waited <= LATE_MAX
        assert agent.running


def test_a_password_that_others_may_read_is_not_used(lab: Lab) -> None:
    config = configuration(lab)
    lab.router.write("etc/password", lab.broker.password("router"), mode=0o644)
    agent = lab.router.start_agent(config)
    agent.says("can be read by others (mode 644): chmod 600", within=15)
    assert reporting(agent)["state"] != "up"


def test_the_second_broker_is_taken_when_the_first_does_not_answer(lab: Lab) -> None:
    config = configuration(lab).replace(
        "\tlist broker", "\tlist broker 'mqtts://broker.lab.test:8999'\n\tlist broker"
    )
    witness = Witness(lab)
    agent = lab.router.start_agent(config)
    witness.settled(agent)
    assert reporting(agent)["broker"].endswith(":8883")


def test_the_certificates_name_may_be_another_if_that_is_said(lab: Lab) -> None:
    lab.broker.use_certificate("other-name")
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab, server_name="elsewhere.lab.test"))
    witness.settled(agent)


def test_a_broker_that_knows_only_mqtt_3_is_spoken_to_in_it(lab: Lab) -> None:
    """mosquitto 2.0 knows both: a relay hangs up on a CONNECT of version 5, as older brokers do."""

    opened: list[socket.socket] = []

    def relay(connection: socket.socket) -> None:
        hello = connection.recv(4096)
        if hello[8] == 5:
            connection.close()
            return
        upstream = lab.broker.box.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        opened.append(upstream)
        upstream.connect((lab.broker.addresses[0], PLAIN))
        upstream.sendall(hello)
        for source, sink in ((connection, upstream), (upstream, connection)):
            threading.Thread(target=pour, args=(source, sink), daemon=True).start()

    def pour(source: socket.socket, sink: socket.socket) -> None:
        source.settimeout(None)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    witness = Witness(lab)
    with server(lab, 1899, relay):
        agent = lab.router.start_agent(
            configuration(lab, 1899, protocol="auto").replace("mqtts://", "mqtt://")
        )
        witness.settled(agent)
        assert witness.payloads("/birth")[-1]["versions"]["mqtt"] == "3.1.1"
        agent.stop()
    for sock in opened:
        sock.close()
