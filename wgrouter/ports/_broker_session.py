"""One connection to one MQTT broker, from dialling to its end, on a thread of its own, by paho-mqtt.

Touches sockets, TLS and files that hold secrets; decides nothing. The thread alone uses the paho client; the
loop's thread puts what is to be sent into a queue and hears through `tell`, so neither waits for the other. A
thread that hangs where nothing can wake it (a look-up of the system's resolver) is left behind and ends by
itself.

paho 1.6.1 and 2.x, MQTT 3.1.1 and 5. Of paho's own loops none is used (they sleep, and reconnect by rules of
their own), but the calls that it has for other loops: loop_read, loop_write, loop_misc.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from wgrouter.ports._broker_dial import alternating, race
from wgrouter.ports._broker_values import (
    CONNECTING,
    GREETING,
    OTHER_VERSION,
    REASONS,
    RESOLVING,
    SECURING,
    UP,
    Ended,
    Greeted,
    Plan,
    Received,
    only_root,
    reason_of,
    secret,
)
from wgrouter.ports._unused import unused

PAYLOAD_MAX = 64 << 10  # of what is taken in; a longer one is cut, and so refused by whoever reads it
SESSION_EXPIRY = 3600  # seconds that the broker keeps what it knows of us; must outlast the will's delay
LINGER = 1.0  # seconds for last words

KEEPALIVE_LOST, KEEPALIVE_TIMEOUT = 16, 141  # paho 1's own error for it, and what paho 2 turns that into
ADDRESSES_MAX = 8
PATIENCE = 5.0  # seconds between looks at the time of the next ping


class _Unheard(Exception):
    """Out of paho before it acknowledges a message: the broker keeps it for our next connection."""


class Session:
    """Begins at once. `tell` hands a callable to the loop's thread; `hear` is called there with what happens,
    an int being the token of a message that was acknowledged. Nothing is heard any more after `end`, but what
    had been received before: the broker will not send that again.
    """

    def __init__(
        self,
        plan: Plan,
        tell: Callable[[Callable[[], None]], bool],
        hear: Callable[[Session, Greeted | Ended | Received | int | str], None],
    ) -> None:
        self.plan = plan
        self.stage = RESOLVING if not plan.addresses else CONNECTING
        self._tell, self._hear = tell, hear
        self._to_send: deque[tuple[int, str, bytes, int, bool, bytes, int] | None] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._guard = threading.Lock()  # of the two descriptors that both threads know
        self._raw = (
            -1
        )  # a duplicate of the connection's descriptor, to shut it down while TLS holds the other
        self._over = False
        self._tokens: dict[int, int] = {}  # paho's message id → token
        self._greeted: Greeted | None = None
        self._refused: Ended | None = None
        self._reason = ""
        self._known: tuple[str, ...] = plan.addresses
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ the loop's thread

    def send(
        self, token: int, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes, expiry: int
    ) -> None:
        """Queue a message; its token is heard when the broker has acknowledged it (0: never)."""
        self._to_send.append((token, topic, payload, qos, retain, correlation, expiry))
        self._poke()

    def end(self, patience: float = 0.0) -> None:
        """Say good-bye, and hear nothing any more. Waits for last words, `patience` seconds at most."""
        with self._guard:
            self._over = True
        self._to_send.append(None)
        self._poke()
        if self.stage == SECURING:
            with self._guard:  # out of a TLS handshake, which no pipe can wake
                if self._raw >= 0:
                    with socket.socket(fileno=os.dup(self._raw)) as connection:
                        try:
                            connection.shutdown(socket.SHUT_RDWR)
                        except OSError:
                            pass  # it is gone already
        if patience:
            self._thread.join(patience)

    @property
    def alive(self) -> bool:
        """Its thread has not ended."""
        return self._thread.is_alive()

    def _poke(self) -> None:
        with self._guard:
            if self._write >= 0:
                try:
                    os.write(self._write, b"\0")
                except BlockingIOError:
                    pass

    # ------------------------------------------------------------ its own thread

    def _run(self) -> None:
        try:
            ended = self._talk()
        except Exception as error:  # noqa: BLE001 — paho raises whatever a broker's bytes lead it to
            ended = self._refused or Ended(reason_of(error, self.stage, self.plan))
        with self._guard:
            for fd in (self._read, self._write, self._raw):
                if fd >= 0:
                    os.close(fd)
            self._read = self._write = self._raw = -1
        self._say(ended)

    def _say(self, what: Greeted | Ended | Received | int | str) -> bool:
        """False: it ends here, and nobody is told."""

        def hear() -> None:
            if not self._over or isinstance(what, Received):
                self._hear(self, what)

        with self._guard:  # after `end` the loop may be gone
            if not self._over:
                self._tell(hear)
            return not self._over

    def _talk(self) -> Ended:
        client = _client(self)
        try:
            return self._converse(client)
        finally:  # paho leaves its socket open when a callback or the network raises
            sock = client.socket()
            if sock is not None:
                sock.close()

    def _converse(self, client: Any) -> Ended:
        plan = self.plan
        more: dict[str, Any] = {}
        if plan.version == 5:
            more = {"clean_start": False, "properties": _properties("CONNECT", **_CONNECT)}
        client.connect(plan.server_name or plan.host, plan.port, plan.keepalive, **more)
        # paho has sent CONNECT; what it waits for now is CONNACK.
        self.stage = GREETING
        while True:
            sock = client.socket()
            if sock is None:
                return self._refused or Ended(self._lost())
            wait_to_write = [sock] if client.want_write() else []
            pending = getattr(sock, "pending", None)
            patience = 0.0 if pending and pending() else min(PATIENCE, plan.keepalive / 4)
            readable, writable, _ = select.select([sock, self._read], wait_to_write, [], patience)
            if self._read in readable and self._drain(client):
                self._part(client)
                return Ended("ended")
            if sock in readable or not patience:
                with contextlib.suppress(_Unheard):
                    client.loop_read()
            if writable:
                client.loop_write()
            client.loop_misc()

    def _drain(self, client: Any) -> bool:
        """Hand what was queued to paho; whether it ends here."""
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass
        while self._to_send:
            item = self._to_send.popleft()
            if item is None:
                return True
            token, topic, payload, qos, retain, correlation, expiry = item
            more: dict[str, Any] = {}
            if self.plan.version == 5 and (correlation or expiry or qos):
                wanted: dict[str, Any] = {}
                if payload[:1] == b"{":
                    wanted["ContentType"] = "application/json"
                if correlation:
                    wanted["CorrelationData"] = correlation
                if expiry:
                    wanted["MessageExpiryInterval"] = expiry
                more["properties"] = _properties("PUBLISH", **wanted)
            # paho writes it within this call if it can: the id is known before its PUBACK is read.
            sent = client.publish(topic, payload, qos, retain, **more)
            if token:
                self._tokens[sent.mid] = token
        return False

    def _part(self, client: Any) -> None:
        """DISCONNECT, or the broker publishes the will. Before CONNACK too: it may have taken us already."""
        deadline = time.monotonic() + LINGER
        with contextlib.suppress(_Unheard):
            while self._greeted and self._tokens and client.socket() and time.monotonic() < deadline:
                select.select([client.socket()], [], [], 0.05)
                client.loop_read()
        client.disconnect()
        while client.socket() and client.want_write() and time.monotonic() < deadline:
            select.select([], [client.socket()], [], 0.05)
            client.loop_write()
        self._see_out(deadline)

    def _see_out(self, deadline: float) -> None:
        """Wait for the broker to close; paho has closed its own end. With bytes unread that would be a reset
        (RFC 9293, 3.10.4), and a broker that meets it before our DISCONNECT publishes the will.
        """
        with self._guard:
            last = socket.socket(fileno=os.dup(self._raw))
        with last:
            try:
                last.shutdown(socket.SHUT_WR)
                while (left := deadline - time.monotonic()) > 0:
                    readable, _, _ = select.select([last], [], [], left)
                    if not readable or not last.recv(4096):
                        return
            except OSError:
                return  # it is gone already

    def _lost(self) -> str:
        if self.stage == GREETING:
            return "closes the connection before it answers"
        return self._reason or "closed the connection"

    # ------------------------------------------------------------ paho's callbacks, on this thread

    def on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any = None) -> None:
        code = int(getattr(reason, "value", reason))
        if code:
            said = REASONS.get(code, f"refuses with reason {code}")
            self._refused = Ended(said, code in OTHER_VERSION)
            client.disconnect()
            return
        self.stage = UP
        sock = client.socket()
        self._greeted = self._greeting(sock.getsockname()[0], sock.getpeername()[0])
        for topic in self.plan.subscriptions:
            client.subscribe(topic, 1)
        for topic in self.plan.unwanted:
            client.unsubscribe(topic)
        self._say(self._greeted)

    def _greeting(self, local: str, remote: str) -> Greeted:
        others = tuple(address for address in self._known if address != remote)
        return Greeted(self.plan.version, local, remote, (remote, *others)[:ADDRESSES_MAX])

    def on_disconnect(self, _client: Any, _data: Any, *more: Any) -> None:
        # paho 1: (code[, properties]); paho 2: (flags, reason, properties).
        flags = more[0] if len(more) > 2 else None
        for item in more[-2:]:
            code = getattr(item, "value", item)
            told = getattr(flags, "is_disconnect_packet_from_server", flags is None and code is not item)
            if code == KEEPALIVE_LOST or (code == KEEPALIVE_TIMEOUT and not told):
                self._reason = "does not answer any more"
            elif told and isinstance(code, int) and code >= 128:
                self._reason = REASONS.get(code, f"ends the connection with reason {code}")

    def on_publish(self, _client: Any, _data: Any, mid: int, reason: Any = None, _more: Any = None) -> None:
        if int(getattr(reason, "value", 0) or 0) >= 128:
            self._say("does not let us write all of our topics: see its access-control list")
        token = self._tokens.pop(mid, 0)
        if token:
            self._say(token)

    def on_subscribe(self, _client: Any, _data: Any, _mid: int, granted: Any, _more: Any = None) -> None:
        if any(int(getattr(code, "value", code)) >= 128 for code in granted):
            self._say("does not let us read commands: see its access-control list")

    def on_message(self, _client: Any, _data: Any, message: Any) -> None:
        properties = getattr(message, "properties", None)
        received = Received(
            str(message.topic),
            bytes(message.payload[: PAYLOAD_MAX + 1]),
            bool(message.retain),
            str(getattr(properties, "ResponseTopic", "") or ""),
            bytes(getattr(properties, "CorrelationData", b"") or b""),
        )
        if not self._say(received):
            raise _Unheard

    # ------------------------------------------------------------ dialling

    def dial(self) -> socket.socket:
        """A connected socket. OSError with the last reason if no address takes us, or if it ends here."""
        failed: OSError | None = None
        if self.plan.addresses:
            try:
                return self._keep(race(self.plan.addresses, self.plan.port, self._read))
            except OSError as error:
                failed = error
                self.stage = RESOLVING
        found = socket.getaddrinfo(self.plan.host, self.plan.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        if failed is not None and set(addresses) <= set(self.plan.addresses):
            raise failed
        self.stage = CONNECTING
        self._known = tuple(alternating(addresses))
        return self._keep(race(self._known, self.plan.port, self._read))

    def _keep(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(True)
        self.stage = SECURING if self.plan.tls else GREETING
        with self._guard:
            self._raw = os.dup(sock.fileno())
        if self._over:
            sock.close()
            raise OSError("ended")
        return sock


_CONNECT = {"SessionExpiryInterval": SESSION_EXPIRY, "MaximumPacketSize": PAYLOAD_MAX, "ReceiveMaximum": 20}


# ---------------------------------------------------------------- paho


_LIBRARY: ModuleType | None = None


def library() -> ModuleType:
    """paho.mqtt.client, without what it imports for SRV records (5 MiB where dnspython is) and for proxies
    (urllib.request, and with that http and email: 2 MiB and 0.06 s). Both serve its dialling alone, and
    `_client` replaces that.
    """
    global _LIBRARY
    if _LIBRARY is None:
        with unused("dns.resolver", "urllib.request"):
            import paho.mqtt.client as paho
        _LIBRARY = paho
    return _LIBRARY


def version() -> str:
    """paho's."""
    library()
    import paho.mqtt

    return str(getattr(paho.mqtt, "__version__", "?"))


def _properties(packet: str, **values: Any) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    make: Any = Properties
    made = make(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _client(session: Session) -> Any:
    paho = library()
    plan = session.plan

    class Client(paho.Client):  # type: ignore[misc,name-defined]
        """paho's, dialling by our rules: every version since 1.4 makes its socket in this one method."""

        def _create_socket_connection(self) -> socket.socket:
            return session.dial()

    more: dict[str, Any] = {"client_id": plan.client_id, "reconnect_on_failure": False}
    if hasattr(paho, "CallbackAPIVersion"):
        more["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
    if plan.version == 5:
        more["protocol"] = paho.MQTTv5
    else:
        more |= {"protocol": paho.MQTTv311, "clean_session": False}
    client = Client(**more)
    will: dict[str, Any] = {}
    if plan.version == 5 and plan.will.delay:
        will["properties"] = _properties("WILLMESSAGE", WillDelayInterval=plan.will.delay)
    client.will_set(plan.will.topic, plan.will.payload, 1, True, **will)
    if plan.username:
        client.username_pw_set(plan.username, secret(plan.password_file) if plan.password_file else None)
    if plan.tls:
        client.tls_set_context(_tls(plan))
    for name in ("on_connect", "on_disconnect", "on_publish", "on_subscribe", "on_message"):
        setattr(client, name, getattr(session, name))
    return client


def _tls(plan: Plan) -> Any:
    import ssl

    context = ssl.create_default_context(cafile=plan.ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if plan.cert_file:
        if plan.key_file:
            only_root(plan.key_file)
        context.load_cert_chain(plan.cert_file, plan.key_file or None)
    return context
