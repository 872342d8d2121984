"""What the broker port and its session pass each other: plans, news, and reasons in words.

Touches nothing but the files that hold secrets.
"""

from __future__ import annotations

import os
import random
import socket

from wgrouter.core.records import dataclass

# CONNACK: what it means, of MQTT 3.1.1 (3.2.2.3) and of MQTT 5 (3.2.2.2).
REASONS = {
    1: "does not know this version of MQTT",
    2: "does not accept the client id",
    3: "is not available",
    4: "rejects the user name or password",
    5: "does not authorise this user",
    128: "refuses without a reason",
    132: "does not know this version of MQTT",
    133: "does not accept the client id",
    134: "rejects the user name or password",
    135: "does not authorise this user",
    136: "is not available",
    137: "is busy",
    138: "has banned this client",
    140: "does not know this way to authenticate",
    141: "has heard nothing from us for too long",
    142: "has another client with this id",
    149: "finds a packet too large",
    151: "has no quota left for us",
    159: "has too many connections just now",
}
OTHER_VERSION = (1, 132)

RESOLVING, CONNECTING, SECURING, GREETING, UP = "resolving", "connecting", "securing", "greeting", "up"


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when we are gone for `delay` seconds (at once under MQTT 3.1.1)."""

    topic: str
    payload: bytes
    delay: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to connect, and how."""

    host: str
    port: int
    tls: bool
    version: int  # 5 or 4 (3.1.1)
    client_id: str
    keepalive: int
    will: Will
    subscriptions: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()  # that a session from before may still have
    addresses: tuple[str, ...] = ()  # that worked before: tried before the name is looked up again
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Greeted:
    """The broker has taken us."""

    version: int
    local: str  # our address
    remote: str
    addresses: tuple[str, ...]  # that may be tried next time, this one first


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over or never was: why, for people, and whether another MQTT version may help."""

    reason: str
    other_version: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A message: what was answered to it goes to `reply_to` with `correlation`, if they are given."""

    topic: str
    payload: bytes
    retained: bool
    reply_to: str = ""
    correlation: bytes = b""


def reason_of(error: Exception, stage: str, plan: Plan) -> str:
    """Why, for people; never a secret."""
    import ssl

    if isinstance(error, socket.gaierror):
        return f"its name {plan.host} is not resolved: {error.strerror or error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return silence_of(stage, plan)
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on port {plan.port}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"it sends what is not understood ({type(error).__name__}: {str(error)[:80]})"


def silence_of(stage: str, plan: Plan) -> str:
    """What a time-out means at this stage."""
    return {
        RESOLVING: f"the look-up of {plan.host} does not end",
        CONNECTING: "does not answer",
        SECURING: "accepts connections and never answers (TLS)",
        GREETING: "accepts connections and never answers",
    }.get(stage, "does not answer any more")


def secret(path: str) -> str:
    """The first line of a file that nobody but its owner may read. OSError says what is wrong with it."""
    only_root(path)
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.readline().rstrip("\r\n")


def only_root(path: str) -> None:
    mode = os.stat(path).st_mode
    if mode & 0o077:
        raise PermissionError(f"{path} can be read by others (mode {mode & 0o777:o}): chmod 600 {path}")


def full_jitter(ceiling: float) -> float:
    """Any time up to the ceiling: ten thousand routers that lost one broker come back spread over it."""
    return random.random() * ceiling
