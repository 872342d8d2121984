"""The lab's DNS server: Knot, authoritative for lab.test, and the only resolver anybody in the lab has.

Records are changed by writing the zone and telling Knot to load it, which is done when `publish` returns.
Misbehaviour: NXDOMAIN is a name without records; a lie is a record; SERVFAIL is a zone of that name without a
file; silence and refusal are nft rules; slowness is a relay in front (slow_dns.py).
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .netns import Box, LabError, end
from .poll import PATIENCE_SECONDS, until
from .topology import ZONE


@dataclass(frozen=True)
class Answer:
    """What a resolver said, e.g. Answer("NOERROR", ("198.51.100.1",))."""

    rcode: str
    data: tuple[str, ...] = ()


_CONF = """
server:
    rundir: {dir}
    listen: [ 0.0.0.0@53, ::@53 ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    async-start: off
control:
    listen: {dir}/knot.sock
log:
  - target: stderr
    any: notice
database:
    storage: {dir}/db
template:
  - id: default
    storage: {dir}
    zonefile-load: whole
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: {zone}
    file: zone
"""

_SLOW_PORT = 5353
_RCODES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}


class Nameserver:
    """A running knotd in a box."""

    def __init__(self, box: Box, directory: Path, ttl: int) -> None:
        self.box = box
        self._dir = directory
        self._ttl = ttl
        self._serial = 0
        # name → type → (ttl, data): the truth, from which the zone is written. Names are relative to the
        # zone.
        self._records: dict[str, dict[str, tuple[int, tuple[str, ...]]]] = {}
        self._failing: set[str] = set()
        self._silent: dict[str, bool] = {}
        self._slow = 0.0
        (directory / "db").mkdir(parents=True)
        self._relay: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start knotd; `await_ready` returns when it answers."""
        self._write()
        self.box.start("knotd", "-c", str(self._conf), log=self._dir / "knotd.log")

    def await_ready(self) -> None:
        until(lambda: self._knotc("zone-status", ZONE), within=PATIENCE_SECONDS, what="knotd is up")

    @property
    def _conf(self) -> Path:
        return self._dir / "knot.conf"

    def _knotc(self, *command: str) -> str:
        return self.box.run("knotc", "-b", "-t", "5", "-s", str(self._dir / "knot.sock"), *command)

    def _write(self) -> None:
        self._serial += 1
        lines = [f"$ORIGIN {ZONE}.", f"$TTL {self._ttl}"]
        # The last number is how long a NXDOMAIN may be kept (RFC 2308).
        lines += [
            f"@ SOA dns hostmaster {self._serial} 3600 600 86400 {self._ttl}",
            "@ NS dns",
            "dns A 192.0.2.53",
        ]
        for name, types in self._records.items():
            lines += [f"{name} {ttl} {kind} {item}" for kind, (ttl, data) in types.items() for item in data]
        (self._dir / "zone").write_text("\n".join(lines) + "\n")
        conf = _CONF.format(dir=self._dir, zone=ZONE)
        self._conf.write_text(
            conf + "".join(f"  - domain: {n}.{ZONE}\n    file: none\n" for n in sorted(self._failing))
        )

    def set(self, name: str, kind: str, data: Iterable[str], ttl: int | None = None) -> None:
        """Change the truth about one name and type, without telling anybody yet."""
        types = self._records.setdefault(relative(name), {})
        types[kind] = (self._ttl if ttl is None else ttl, tuple(data))

    def forget(self, name: str) -> None:
        """Drop a name, and what lies below it: else it would go on to exist, as a name without records."""
        short = relative(name)
        for known in [known for known in self._records if f".{known}".endswith(f".{short}")]:
            del self._records[known]

    def forget_all(self) -> None:
        self._records.clear()

    def publish(self) -> None:
        """Serve what was set. When this returns, every further answer is the new one."""
        self._write()
        self._knotc("zone-reload", ZONE)

    def fail(self, name: str, failing: bool) -> None:
        """Answer SERVFAIL for a name, or no more."""
        before = set(self._failing)
        (self._failing.add if failing else self._failing.discard)(relative(name))
        if self._failing != before:
            self._write()
            self._knotc("reload")

    @property
    def failing(self) -> frozenset[str]:
        return frozenset(self._failing)

    # ---- reachability

    def silence(self, addresses: Iterable[str], *, refuse: bool) -> None:
        """Let nothing reach port 53 of these addresses: dropped, or refused as by a host without a server."""
        self._silent |= dict.fromkeys(addresses, refuse)
        self._filter()

    def speak(self, addresses: Iterable[str] | None = None) -> None:
        """Undo silence, of these addresses or of all."""
        for address in list(self._silent) if addresses is None else addresses:
            self._silent.pop(address, None)
        self._filter()

    def slow(self, seconds: float) -> None:
        """Answer over UDP only after this long; 0 ends it."""
        if self._relay is not None:
            end(self._relay)
            self._relay = None
        self._slow = seconds
        if seconds:
            log = self._dir / "slow.log"
            log.unlink(missing_ok=True)
            command = (sys.executable, "-m", "tests.lab.slow_dns", str(_SLOW_PORT), str(seconds))
            self._relay = self.box.start(*command, log=log)
            until(lambda: "ready" in log.read_text(), within=PATIENCE_SECONDS, what="the relay of slow_dns")
        self._filter()
        # Queries in flight keep the way they came.
        self.box.run("conntrack", "-F", check=False)

    def _filter(self) -> None:
        verdicts = "\n".join(
            f"ip{'6' if ':' in address else ''} daddr {address} meta l4proto {{ tcp, udp }} th dport 53 "
            f"{'reject' if refuse else 'drop'}"
            for address, refuse in self._silent.items()
        )
        slow = f'iifname "net" udp dport 53 dnat to :{_SLOW_PORT}' if self._slow else ""
        self.box.nft(
            f"""
            table inet lab
            delete table inet lab
            table inet lab {{
                chain silent {{ type filter hook prerouting priority raw; {verdicts}
                }}
                chain slow {{ type nat hook prerouting priority dstnat; {slow}
                }}
            }}"""
        )


def relative(name: str) -> str:
    """The name as the zone file has it: site1.lab.test. → site1."""
    short = name.rstrip(".").removesuffix(f".{ZONE}")
    if not short or short == ZONE:
        raise LabError(f"{name!r}: the lab's names lie below {ZONE}")
    return short


def ask(box: Box, name: str, kind: str, server: str, seconds: float) -> Answer | None:
    """Ask as a host in that box would, with kdig; None if nobody answered in time."""
    full = f"{relative(name)}.{ZONE}."
    # kdig counts whole seconds.
    output = box.run(
        *(
            "kdig",
            f"@{server}",
            "+json",
            f"+timeout={max(1, round(seconds))}",
            "+retry=0",
            "+norec",
            full,
            kind,
        ),
        check=False,
        timeout=seconds + 5,
    )
    reply = json.loads(output)
    if "RCODE" not in reply:
        return None
    records = [record for record in reply.get("answerRRs", ()) if record["TYPEname"] == kind]
    data = tuple(str(record[f"rdata{kind}"]) for record in records)
    return Answer(_RCODES.get(reply["RCODE"], str(reply["RCODE"])), data)
