"""The operator's connection to the broker, by paho-mqtt (1.6.1 and 2.x), on a thread of its own.

Touches sockets, TLS and the files that hold secrets; decides nothing about routers. Tries for ever, first
with MQTT 5 and then with 3.1.1 where the broker does not know that; what will not get better by itself (a
wrong password, a wrong certificate) is told as final.
"""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MISSING = (
    "wgrouter fleet needs paho-mqtt 1.6.1 or newer here: `apt install python3-paho-mqtt`, or the extra "
    "`fleet`: `pip install 'paho-mqtt>=1.6.1'`"
)
PACKET_MAX = 1 << 20  # bytes that an MQTT 5 broker may send in one packet; a longer one it drops
SESSION_EXPIRY = 300  # seconds that the broker keeps events for us while we are away
KEEPALIVE = 30
CONNECT_PATIENCE = 10.0  # seconds for the broker's greeting
BACKOFF, BACKOFF_MAX = 1.0, 15.0
TURN = 0.5  # seconds between looks at the time, if nothing happens
LINGER = 1.0  # seconds for a good-bye


class Unusable(Exception):
    """What was given cannot be used: a file, an address, a library."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which broker, and how to be let in."""

    host: str
    port: int
    tls: bool
    protocol: str = "auto"  # auto | 5 | 3.1.1
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Request:
    """A message with which an answer is asked for (MQTT 5; 3.1.1 has no such fields)."""

    topic: str
    payload: bytes
    reply_to: str
    correlation: bytes
    expiry: int  # seconds


class Listener(Protocol):
    """Who is told, on the link's thread."""

    def connected(self, resumed: bool) -> None: ...

    def disconnected(self, why: str, final: bool) -> None: ...

    def ready(self) -> None:
        """Subscribed to everything: what is retained comes now or came already."""

    def message(self, topic: str, payload: bytes, retained: bool) -> None: ...

    def published(self, refused: str) -> None:
        """The broker took a message, or says why not."""

    def denied(self, why: str) -> None:
        """The broker does not let us read something that we asked for."""


def where(url: str, **more: str) -> Where:
    """From mqtt(s)://host[:port]. Unusable says what is accepted."""
    scheme, found, place = url.partition("://")
    if not found:
        scheme, place = "mqtt", url
    host, _, port = place.rpartition(":") if place.rpartition("]")[2].count(":") else (place, "", "")
    usual = {"mqtt": 1883, "mqtts": 8883}.get(scheme)
    digits = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    wrong = not host.strip("[]") or set(host) & set("/?#@ ") or (":" in host and host[0] != "[")
    if usual is None or wrong or (port and not digits):
        raise Unusable(f"{url!r} is no broker; accepted: mqtt://HOST[:PORT], mqtts://HOST[:PORT] (TLS)")
    return Where(host.strip("[]"), int(port) if port else usual, scheme == "mqtts", **more)


def library() -> Any:
    """paho.mqtt.client. Unusable where it is missing or too old."""
    try:
        import paho.mqtt.client as paho
    except ImportError:
        raise Unusable(MISSING) from None
    if not hasattr(paho, "MQTTv5"):
        raise Unusable(MISSING)
    return paho


class Link:
    """Begins with `start`. `subscriptions` are topic filters with their QoS."""

    def __init__(
        self, place: Where, subscriptions: Sequence[tuple[str, int]], listener: Listener, *, keep: bool
    ) -> None:
        """`keep`: the broker shall keep events while we are away. Unusable if a file cannot be used."""
        self._paho = library()
        self._where, self._subscriptions, self._listener, self._keep = place, subscriptions, listener, keep
        self._id = f"wgrouter-fleet-{random.getrandbits(48):012x}"
        self._password = secret(place.password_file) if place.password_file else None
        self._tls = _tls(place) if place.tls else None
        self._version = 4 if place.protocol == "3.1.1" else 5
        self._ending = threading.Event()
        self._asked: deque[Request] = deque()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._up = self._greeted = False
        self._why = ""
        self._final = self._other_version = False
        self._waiting = 0  # subscriptions not acknowledged
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say good-bye; waits a moment for it."""
        self._ending.set()
        self._poke()
        self._thread.join(2 * LINGER)

    def ask(self, request: Request) -> None:
        """Publish at QoS 1. Call it between `ready` and `disconnected`."""
        self._asked.append(request)
        self._poke()

    def _poke(self) -> None:
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            pass  # it has reason enough to wake up

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        failed = 0
        while not self._ending.is_set():
            self._up = self._greeted = self._final = self._other_version = False
            self._why = ""
            try:
                self._talk()
            except Exception as error:  # noqa: BLE001 — paho raises whatever a broker's bytes lead it to
                self._why = self._why or _reason_of(error, self._where)
                self._final = self._final or isinstance(error, ssl.SSLCertVerificationError)
            if self._ending.is_set():
                return
            was_up = self._up
            self._up = False
            # A broker that does not know MQTT 5 says so, or just hangs up on it.
            hung_up = not self._greeted and self._why.startswith("closes")
            if self._where.protocol == "auto" and (self._other_version or hung_up):
                self._version = 9 - self._version
                if self._version == 4:
                    continue
            self._listener.disconnected(self._why or "the connection was closed", self._final)
            failed = 0 if was_up else min(failed + 1, 6)
            self._ending.wait(random.uniform(0.5, 1.0) * min(BACKOFF * 2.0**failed, BACKOFF_MAX))

    def _talk(self) -> None:
        client = self._make()
        try:
            self._converse(client)
        finally:
            self._part(client)
        self._why = self._why or "closes the connection"

    def _converse(self, client: Any) -> None:
        place = self._where
        more: dict[str, Any] = {}
        if self._version == 5:
            wanted = {"MaximumPacketSize": PACKET_MAX}
            if self._keep:
                wanted["SessionExpiryInterval"] = SESSION_EXPIRY
            more = {"clean_start": not self._keep, "properties": self._properties("CONNECT", **wanted)}
        client.connect(place.server_name or place.host, place.port, KEEPALIVE, **more)
        deadline = time.monotonic() + CONNECT_PATIENCE
        # None of paho's own loops: they let every thread that publishes write, which TLS forbids.
        while not self._ending.is_set():
            sock = client.socket()
            if sock is None:
                break
            pending = getattr(sock, "pending", None)
            patience = 0.0 if pending and pending() else TURN
            writing = [sock] if client.want_write() else []
            readable, writable, _ = select.select([sock, self._woken], writing, [], patience)
            if self._woken in readable:
                self._woken.recv(4096)
                while self._asked and self._up:
                    self._publish(client, self._asked.popleft())
            if sock in readable or not patience:
                client.loop_read()
            if writable:
                client.loop_write()
            client.loop_misc()
            if not self._greeted and time.monotonic() > deadline:
                self._why = "accepts connections and never answers"
                break

    def _publish(self, client: Any, request: Request) -> None:
        more: dict[str, Any] = {}
        if self._version == 5:
            more["properties"] = self._properties(
                "PUBLISH",
                ContentType="application/json",
                ResponseTopic=request.reply_to,
                CorrelationData=request.correlation,
                MessageExpiryInterval=request.expiry,
            )
        client.publish(request.topic, request.payload, 1, False, **more)

    def _part(self, client: Any) -> None:
        """DISCONNECT where we end it, so that the broker keeps nothing for us; and let the socket go."""
        if self._up and self._ending.is_set() and client.socket():
            properties = self._properties("DISCONNECT", SessionExpiryInterval=0)
            client.disconnect(**({"properties": properties} if self._version == 5 else {}))
            deadline = time.monotonic() + LINGER
            while client.socket() and client.want_write() and time.monotonic() < deadline:
                select.select([], [client.socket()], [], 0.1)
                client.loop_write()
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _make(self) -> Any:
        paho, place = self._paho, self._where

        class Client(paho.Client):  # type: ignore[misc,name-defined]
            """paho's, dialling the host while TLS asks for the server's pinned name."""

            def _create_socket_connection(self) -> socket.socket:
                sock = socket.create_connection((place.host, place.port), CONNECT_PATIENCE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock

        more: dict[str, Any] = {"client_id": self._id, "reconnect_on_failure": False}
        if hasattr(paho, "CallbackAPIVersion"):
            more["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
        if self._version == 5:
            more["protocol"] = paho.MQTTv5
        else:  # its sessions have no expiry: one kept for a terminal that was closed stays for ever
            more |= {"protocol": paho.MQTTv311, "clean_session": True}
        client = Client(**more)
        if place.username:
            client.username_pw_set(place.username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_message = self._on_subscribe, self._on_message
        client.on_publish = self._on_publish
        return client

    def _properties(self, packet: str, **values: Any) -> Any:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        make: Any = Properties
        made = make(getattr(PacketTypes, packet))
        for name, value in values.items():
            setattr(made, name, value)
        return made

    # ------------------------------------------------------------ paho's callbacks, on the thread

    def _on_connect(self, client: Any, _data: Any, flags: Any, reason: Any, _properties: Any = None) -> None:
        self._greeted = True
        code = int(getattr(reason, "value", reason))
        if code:
            said = str(reason) if self._version == 5 else self._paho.connack_string(code)
            self._why = f"refuses us: {said.removeprefix('Connection Refused: ').rstrip('.')}"
            self._other_version = code in (1, 132)
            self._final = code in (4, 5, 134, 135, 138, 140)
            self._greeted = not self._other_version
            return
        self._up = True
        resumed = flags.get("session present") if isinstance(flags, dict) else flags.session_present
        self._listener.connected(bool(resumed))
        self._waiting = len(self._subscriptions)
        for topic, qos in self._subscriptions:
            client.subscribe(topic, qos)

    def _on_disconnect(self, _client: Any, _data: Any, *more: Any) -> None:
        for item in more[-2:]:
            code = getattr(item, "value", item)
            if isinstance(code, int) and code >= 128 and self._up:
                self._why = f"ended the connection: {item}"

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, granted: Any, _more: Any = None) -> None:
        if any(int(getattr(code, "value", code)) >= 128 for code in granted):
            self._listener.denied("does not let us read all that we ask for: see its access list")
        self._waiting -= 1
        if not self._waiting:
            self._listener.ready()

    def _on_publish(self, _client: Any, _data: Any, _mid: int, reason: Any = None, _more: Any = None) -> None:
        code = int(getattr(reason, "value", 0) or 0)
        self._listener.published(str(reason) if code else "")

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            topic = str(message.topic)
        except UnicodeDecodeError:
            topic = repr(message._topic)
        self._listener.message(topic, bytes(message.payload), bool(message.retain))


# ---------------------------------------------------------------- files


def secret(path: str) -> str:
    """The first line of a file that nobody but its owner may read."""
    try:
        _private(path)
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}") from None


def _private(path: str) -> None:
    mode = os.stat(path).st_mode
    if mode & 0o077:
        raise Unusable(f"{path} can be read by others (mode {mode & 0o777:o}): chmod 600 {path}")


def _tls(place: Where) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=place.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if place.cert_file:
            if place.key_file:
                _private(place.key_file)
            context.load_cert_chain(place.cert_file, place.key_file or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(file for file in (place.ca_file, place.cert_file, place.key_file) if file)
        raise Unusable(f"{files}: {error.strerror or error}") from None
    return context


def _reason_of(error: Exception, place: Where) -> str:
    """Why, for people; never a secret."""
    if isinstance(error, socket.gaierror):
        return f"its name {place.host} is not resolved: {error.strerror or error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on port {place.port}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"it sends what is not understood ({type(error).__name__}: {str(error)[:80]})"
