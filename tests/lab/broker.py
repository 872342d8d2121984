"""The lab's MQTT broker: mosquitto with MQTT 5, TLS, passwords and an access-control list, and ways to fail.

    1883   plain, user and password
    8883   TLS, user and password
    8884   TLS with a client certificate, whose common name is the user

Every router of the lab is a user, and so is `operator`. A router may write below <prefix>/<user>/ and
homeassistant/, and read its own commands; the operator may do anything. `Subscriber` is a witness that shares
no code with the agent: mosquitto_sub.
"""

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .netns import Box, end, run
from .poll import PATIENCE_SECONDS, until
from .topology import BROKER, ZONE

Certificate = Literal["server", "stranger", "other-name", "expired"]

_CONF = """
per_listener_settings false
user root
persistence true
persistence_location {dir}/
allow_anonymous false
password_file {dir}/passwords
acl_file {dir}/acl
log_dest stderr
log_type all
connection_messages true
set_tcp_nodelay true
listener 1883
listener 8883
cafile {dir}/ca.crt
certfile {dir}/{certificate}.crt
keyfile {dir}/{certificate}.key
listener 8884
cafile {dir}/ca.crt
certfile {dir}/{certificate}.crt
keyfile {dir}/{certificate}.key
require_certificate true
use_identity_as_username true
"""

_ACL = """
user operator
topic readwrite #
pattern write {prefix}/%u/#
pattern read {prefix}/%u/cmd/#
pattern write homeassistant/#
pattern read homeassistant/status
"""

# One CA signs all but "stranger", which another CA of the same name signed.
_CERTIFICATES = r"""
cd {dir}
ca() {{
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=lab CA' \
        -keyout $1.key -out $1.crt 2>/dev/null
}}
sign() {{  # NAME CA COMMON-NAME SUBJECT-ALT-NAMES DAYS
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$3" \
        -keyout $1.key -out $1.csr 2>/dev/null
    echo "subjectAltName=$4" >$1.ext
    openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -set_serial $((serial += 1)) -days $5 \
        -extfile $1.ext -out $1.crt 2>/dev/null
}}
serial=1
ca ca
ca other-ca
here=DNS:broker.{zone},IP:{address4},IP:{address6}
sign server ca broker.{zone} $here 2
sign stranger other-ca broker.{zone} $here 2
sign other-name ca elsewhere.{zone} DNS:elsewhere.{zone} 2
sign expired ca broker.{zone} $here -1
for user in {users}; do sign client-$user ca $user DNS:$user 2; done
"""


@dataclass(frozen=True)
class Message:
    """What the witness received, and when by the wall clock of this machine (time.time())."""

    at: float
    topic: str
    payload: str
    retained: bool
    qos: int
    properties: dict[str, Any]

    def json(self) -> Any:
        return json.loads(self.payload)


class Subscriber:
    """mosquitto_sub as the operator, MQTT 5, writing down what it hears."""

    def __init__(self, broker: "Broker", name: str, topics: Sequence[str]) -> None:
        self._log = log = broker.directory / f"{name}.log"
        # %U: when it was received, with nanoseconds; %j: everything about it.
        argv = ["mosquitto_sub", "-h", BROKER[0], "-V", "mqttv5", "-i", name, "-q", "1", "-F", "%U %j"]
        argv += ["-c", "-x", "600"]  # what comes while it has to connect anew waits for it
        argv += ["-u", "operator", "-P", broker.password("operator")]
        argv += [word for topic in topics for word in ("-t", topic)]
        self._process = broker.box.start("stdbuf", "-oL", *argv, log=log)
        until(
            lambda: f"Sending SUBACK to {name}" in broker.log,
            within=PATIENCE_SECONDS,
            what=f"{name} is subscribed",
        )

    def messages(self, topic_end: str = "") -> list[Message]:
        """What came so far, on topics that end like this."""
        lines = (line for line in self._log.read_text().splitlines() if line.endswith("}"))
        found = (_message(line) for line in lines)
        return [message for message in found if message.topic.endswith(topic_end)]

    def stop(self) -> None:
        end(self._process)


def _message(line: str) -> Message:
    at, _, text = line.partition(" ")
    fields = json.loads(text)
    payload = fields.get("payload")
    return Message(
        float(at),
        fields["topic"],
        "" if payload is None else payload if isinstance(payload, str) else json.dumps(payload),
        bool(fields.get("retain")),
        fields.get("qos", 0),
        fields.get("properties", {}),
    )


class Broker:
    """A mosquitto in a box, at broker.lab.test."""

    host = f"broker.{ZONE}"
    addresses = BROKER

    def __init__(self, box: Box, directory: Path, users: Sequence[str], prefix: str = "wgrouter") -> None:
        self.box = box
        self.directory = directory
        self.users = (*users, "operator")
        self._witnesses = 0
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        script = _CERTIFICATES.format(
            dir=directory, zone=ZONE, address4=BROKER[0], address6=BROKER[1], users=" ".join(self.users)
        )
        run(["bash", "-ec", script])
        (directory / "acl").write_text(_ACL.format(prefix=prefix))
        passwords = directory / "passwords"
        passwords.write_text("".join(f"{user}:{self.password(user)}\n" for user in self.users))
        passwords.chmod(0o600)
        run(["mosquitto_passwd", "-U", str(passwords)])
        self.use_certificate("server", restart=False)

    def password(self, user: str) -> str:
        return f"password-of-{user}"

    @property
    def ca(self) -> Path:
        """The CA that clients should trust."""
        return self.directory / "ca.crt"

    def client_certificate(self, user: str) -> tuple[Path, Path]:
        """A user's certificate and key, for port 8884."""
        return self.directory / f"client-{user}.crt", self.directory / f"client-{user}.key"

    @property
    def log(self) -> str:
        """What mosquitto says."""
        file = self.directory / "mosquitto.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Accept connections when this returns."""
        before = self.log.count(" running")
        conf = str(self.directory / "mosquitto.conf")
        self._process = self.box.start("mosquitto", "-c", conf, log=self.directory / "mosquitto.log")
        until(lambda: self.log.count(" running") > before, within=PATIENCE_SECONDS, what="mosquitto runs")

    def stop(self) -> None:
        """End it: connections are closed, new ones refused. Retained messages and sessions are kept."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def freeze(self) -> None:
        """Let the kernel accept connections, and nobody answer on them."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after freeze()."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def use_certificate(self, certificate: Certificate, *, restart: bool = True) -> None:
        """Present the right certificate, or one that is wrong in a certain way."""
        conf = _CONF.format(dir=self.directory, certificate=certificate)
        (self.directory / "mosquitto.conf").write_text(conf)
        if restart:
            self.stop()
            self.start()

    def subscribe(self, *topics: str) -> Subscriber:
        """A witness of these topics (of all, if none is given), subscribed when this returns."""
        self._witnesses += 1
        return Subscriber(self, f"witness{self._witnesses}", topics or ("#",))

    def publish(self, topic: str, payload: str, *options: str) -> None:
        """Publish as the operator, with mosquitto_pub; options are its own, e.g. "-r"."""
        argv = (
            "mosquitto_pub",
            "-h",
            BROKER[0],
            "-V",
            "mqttv5",
            "-u",
            "operator",
            "-P",
            self.password("operator"),
        )
        self.box.run(*argv, "-q", "1", "-t", topic, "-s", *options, stdin=payload)
