"""Every section and option of /etc/config/wgrouter: datatype, default, range, help. The single source.

load.py validates by it; generate.py writes docs/configuration.md and the commented default file from it.
Defaults are text as a user would write it, and a test holds them equal to those of core/settings.py.

To add an option: one line here, a field of that name in the section's class in core/settings.py, and
`python -m wgrouter.config.generate`. To add a section type that is there once (`config mqtt 'mqtt'`): a
Section here, its class in load.ONCE, its field in Settings.
"""

from __future__ import annotations

from typing import NamedTuple

from wgrouter.config.datatypes import DATATYPES, Limits

INF = float("inf")

# What is done about a value that is not taken; otherwise it counts as that text.
DEFAULT = "default"  # the option's default holds
SKIP = "skip"  # the section is skipped: any guess could do harm


class Option(NamedTuple):
    name: str
    datatype: str
    default: str  # "" for none; the items of a list with spaces between
    help: str
    low: float = 0
    high: float = INF
    choices: tuple[str, ...] = ()
    many: bool = False  # `list`, or `option` with spaces between the items
    field: str = ""  # of the settings class, if it has another name
    bad: str = DEFAULT
    example: str = ""  # for the default file, where there is no default

    @property
    def limits(self) -> Limits:
        return Limits(self.low, self.high, self.choices)

    @property
    def accepted(self) -> str:
        return DATATYPES[self.datatype].accepted(self.limits)

    @property
    def target(self) -> str:
        return self.field or self.name


class Section(NamedTuple):
    type: str
    name: str  # of the only one; "<…>": what it stands for; "": any (in a UCI file a name is there once)
    help: str
    options: tuple[Option, ...]
    example: str = ""  # the name in the default file

    @property
    def once(self) -> bool:
        return self.name[:1] not in ("", "<")


def _enabled(help: str, default: str = "1") -> Option:
    return Option("enabled", "boolean", default, help, bad="0")


_METHODS = ("icmp", "dns-udp", "dns-tcp", "tcp", "http", "https", "arp")

MAIN = Section(
    "wgrouter",
    "main",
    "The agent as a whole.",
    (
        _enabled("0: the agent runs, answers `wgrouter status`, and changes nothing."),
        Option("log_level", "choice", "info", "The least severe message that goes to the system log.",
               choices=("debug", "info", "warning", "error")),
        Option("look_interval", "duration", "5s", "Time between looks at WireGuard while all is well. "
               "What the kernel announces (links, addresses, routes) is seen at once.", low=1, high=60),
        Option("journal_entries", "integer", "512", "How many events and decisions the journal keeps in "
               "memory.", low=16, high=65536),
        Option("mwan3_hotplug", "boolean", "0", "Whether the scripts in /etc/hotplug.d/iface are called "
               "with `connected` and `disconnected` for each WAN, as mwan3 does it."),
    ),
)  # fmt: skip

DNS = Section(
    "dns",
    "dns",
    "How the names of peers are resolved. The agent asks by itself, over each WAN, and never through "
    "the system's resolver: that may itself depend on a tunnel. A failed look-up never removes a "
    "working endpoint.",
    (
        Option("server", "server", "", "DNS servers to ask, instead of those that the WANs gave.",
               many=True, field="servers", example="9.9.9.9"),
        Option("ttl_min", "duration", "5s", "A name is not resolved again sooner than this, however "
               "short its TTL.", low=1, high=3600),
        Option("ttl_max", "duration", "1h", "A name is resolved again after this, however long its TTL.",
               low=10, high=604800),
        Option("timeout", "duration", "1.5s", "How long one server may take for one query.", low=0.1,
               high=30),
        Option("retry", "duration", "5s", "Pause after a failed look-up; doubles with each further "
               "failure.", low=1, high=3600),
        Option("retry_max", "duration", "5m", "The longest such pause.", low=1, high=86400),
        Option("allow", "network", "", "Prefixes in which answers may lie; other answers are refused and "
               "reported. Without it any unicast address is taken but loopback and link-local ones. If no "
               "item of the list can be read, no answer is taken.", many=True, example="203.0.113.0/24"),
    ),
)  # fmt: skip

TUNNEL = Section(
    "tunnel",
    "<WireGuard interface>",
    "One WireGuard interface of /etc/config/network, if something about it shall differ. The "
    "others have these defaults.",
    (
        _enabled("0: the interface and its peers are left alone. 1 takes in one with `option auto '0'`, "
                 "too."),
        Option("interface", "name", "", "The WireGuard interface, if the section has another name: in a "
               "UCI file each name is there once.", bad=SKIP),
        Option("wan", "name", "", "WANs for the tunnel's own (encrypted) packets, in order of preference. "
               "Without it they use the WAN that is active.", many=True, field="wans", example="wan"),
        Option("new_port", "choice", "auto", "Whether the remedies may give WireGuard a new source port, "
               "which heals a stale NAT mapping. auto: only where the interface has no `listen_port`.",
               choices=("auto", "yes", "no")),
        Option("other_wan", "boolean", "1", "Whether the remedies may send the tunnel's own packets by "
               "another WAN, where that reaches the peer and the usual one does not."),
        Option("renew", "boolean", "0", "Whether the remedies may have netifd apply the interface's "
               "configuration again (`ifup` without a `down`)."),
        Option("restart", "boolean", "0", "Whether the remedies may take the interface down and up, as "
               "the last step."),
        Option("backoff", "duration", "15s", "Pause after every remedy was tried in vain; doubles with "
               "each round, until the network changes.", low=1, high=3600),
        Option("backoff_max", "duration", "15m", "The longest such pause.", low=1, high=86400),
        Option("steps_per_hour", "integer", "120", "Most remedies for one peer in an hour.", low=1,
               high=3600),
        Option("restarts_per_hour", "integer", "2", "Most `renew` and `restart` of the interface in an "
               "hour.", high=60),
        Option("return_after", "duration", "5m", "On an alternative endpoint: when to try the preferred "
               "one again. Doubles with each failure.", low=10, high=86400),
    ),
    "wg0",
)  # fmt: skip

PEER = Section(
    "peer",
    "",
    "One peer, if something about it shall differ. It is found by `public_key` or by `description`, "
    "which must fit one peer only; `interface` narrows the search.",
    (
        _enabled("0: this peer is left alone."),
        Option("interface", "name", "", "The WireGuard interface the peer belongs to.", bad=SKIP,
               example="wg0"),
        Option("public_key", "key", "", "The peer's public key, as in /etc/config/network.", bad=SKIP,
               example="xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="),
        Option("description", "text", "", "The peer's `description` in /etc/config/network, instead of "
               "its key.", bad=SKIP, example="office"),
        Option("endpoint", "endpoint", "", "Alternative endpoints, tried in this order after "
               "`endpoint_host` of /etc/config/network. Without a port: the port of that one.", many=True,
               field="endpoints", example="backup.example.net:51820"),
        Option("family", "choice", "auto", "Which addresses of a name to use. auto: those of a family "
               "that has a working WAN.", choices=("auto", "ipv4", "ipv6", "prefer_ipv4", "prefer_ipv6")),
        Option("srv", "boolean", "0", "Ask for the SRV record `_wireguard._udp.<name>` first: it gives "
               "host and port."),
        Option("probe", "probe", "auto", "An address inside the tunnel that answers ping: shows at once "
               "whether the tunnel works. auto: the peer's allowed IP, if that is a single host; off: no "
               "probe."),
        Option("probe_interval", "duration", "10s", "Time between probes while nothing else shows that "
               "the peer lives.", low=1, high=3600),
    ),
    "office",
)  # fmt: skip

WAN = Section(
    "wan",
    "<name>",
    "One uplink. Without any such section the interfaces that hold a default route are the WANs, in the "
    "order of their metrics. With one or more, only these are.",
    (
        _enabled("0: this WAN carries nothing and is not probed."),
        Option("interface", "name", "", "The interface in /etc/config/network. Without `interface` and "
               "`device` it is the section's name.", bad=SKIP, example="wan"),
        Option("device", "device", "", "The network device (layer 3: `pppoe-wan`, not `eth1`), where "
               "netifd does not know it.", bad=SKIP, example="eth1"),
        Option("priority", "integer", "10", "The lowest number that works is used. WANs of one priority "
               "share the load if `balance` is on.", low=1, high=1000),
        Option("weight", "integer", "1", "Share of new connections among WANs of one priority: 3 and 1 "
               "give 75 % and 25 %.", low=1, high=100),
        Option("metered", "boolean", "0", "Traffic costs: probe rarely, and believe received packets "
               "instead.", bad="1"),
        Option("family", "choice", "both", "Address families that this WAN offers.",
               choices=("both", "ipv4", "ipv6"), field="families", bad=SKIP),
        Option("target", "address", "", "Addresses to probe instead of those of `config probing`.",
               many=True, example="9.9.9.9"),
        Option("method", "choice", "", "How to probe, instead of `config probing`.", choices=_METHODS,
               many=True, field="methods", example="icmp"),
        Option("loss_max", "percent", "25", "More loss than this makes the WAN a poor one, which is left "
               "for a good one.", low=1, high=100),
        Option("latency_max", "milliseconds", "0", "More latency than this makes it a poor one. 0: no "
               "limit.", high=60000),
        Option("jitter_max", "milliseconds", "0", "More jitter than this makes it a poor one. 0: no limit.",
               high=60000),
        Option("mtu", "integer", "0", "The largest packet that passes this WAN, where it is less than the "
               "device's. 0: the device's.", high=65535),
    ),
    "wan",
)  # fmt: skip

PROBING = Section(
    "probing",
    "probing",
    "How WANs are watched. The rate is low while all is well; the first late answer starts a burst that "
    "decides within half a second.",
    (
        Option("method", "choice", "icmp", "How to probe: ping; a DNS query over UDP or TCP; a TCP "
               "connection; an HTTP(S) request that shows a captive portal; ARP (or neighbour discovery) "
               "to the gateway.", choices=_METHODS, many=True, field="methods"),
        Option("target", "address",
               "1.1.1.1 8.8.8.8 9.9.9.9 2606:4700:4700::1111 2001:4860:4860::8888 2620:fe::fe", "Addresses "
               "to probe, in turn. More than one: a dead target is then not a dead WAN. A list without "
               "any address of a family leaves that family's default targets.", many=True),
        Option("interval", "duration", "1s", "Time between probes of one WAN and address family.", low=0.05,
               high=60),
        Option("metered_interval", "duration", "10s", "The same on a metered WAN.", low=0.05, high=3600),
        Option("timeout", "duration", "2s", "An answer later than this is lost.", low=0.1, high=30),
        Option("late_min", "duration", "200ms", "An answer is late after three round trips, but never "
               "before this.", low=0.005, high=5),
        Option("burst_interval", "duration", "40ms", "Time between the probes of a burst.", low=0.005,
               high=5),
        Option("burst_count", "integer", "6", "Probes in a burst. If none is answered, the WAN is down.",
               low=2, high=50),
        Option("window", "duration", "30s", "Loss, latency and jitter are computed over this time.", low=2,
               high=3600),
        Option("dns_name", "dnsname", ".", "The name that dns-udp and dns-tcp ask for."),
        Option("http_url", "url", "http://connectivitycheck.gstatic.com/generate_204", "What http and "
               "https fetch. Any answer but status 204 counts as a captive portal."),
    ),
)  # fmt: skip

HOLD = Section(
    "hold",
    "hold",
    "Damping: what keeps a flapping WAN from moving traffic back and forth. Leaving a dead WAN is never "
    "delayed.",
    (
        Option("up_after", "duration", "5s", "A WAN must work this long before it is used again.", high=3600),
        Option("up_max", "duration", "5m", "The longest that flapping can make it.", high=86400),
        Option("penalty_half_life", "duration", "2m", "A WAN's past flapping counts half after this time.",
               low=1, high=86400),
        Option("margin_ms", "milliseconds", "10", "A WAN is left for a better one only if that is faster "
               "by this much …", high=10000),
        Option("margin_percent", "share", "33", "… and by this share.", high=100, field="margin_ratio"),
    ),
)  # fmt: skip

ROUTING = Section(
    "routing",
    "routing",
    "How traffic is moved. All that the agent adds lies in these ranges and is taken away when it "
    "stops.",
    (
        _enabled("0: no route and no rule is touched: tunnels are cared for, WANs only watched."),
        Option("balance", "boolean", "0", "Spread new connections over the WANs of the best priority, by "
               "weight."),
        Option("sticky", "boolean", "0", "When balancing: all connections of one source address use one "
               "WAN."),
        Option("failback", "choice", "new", "What goes back to a better WAN once it works again: new "
               "connections, all of them, or none while the present one works.",
               choices=("new", "all", "never")),
        Option("switch_for", "duration", "0", "How long `wgrouter switch WAN` holds if it is not told. 0: "
               "until `wgrouter switch auto`.", high=604800, field="switch_seconds"),
        Option("table_base", "integer", "7400", "The first of the routing tables used: one, and one more "
               "for each WAN.", low=256, high=4294967000),
        Option("rule_base", "integer", "6000", "The first of the 200 preferences used in `ip rule`. mwan3 "
               "has 1000 to 3999, pbr ends at 30000.", low=1, high=32500),
        Option("protocol", "integer", "157", "The number that marks routes and rules as the agent's own. "
               "/etc/iproute2/rt_protos.d names it.", low=5, high=255),
        Option("mark_mask", "mask", "0x3f000000", "The bits of packet marks used: adjacent ones, at least "
               "three. Six have room for 30 WANs. mwan3 uses 0x3f00; pbr and Tailscale 0xff0000.", low=7,
               high=0xFFFFFFFF),
    ),
)  # fmt: skip

RULE = Section(
    "rule",
    "<name>",
    "Forwarded traffic that goes by chosen WANs. The first rule that fits decides; what is not written "
    "fits all.",
    (
        _enabled("0: as if it were not here."),
        Option("src_ip", "network", "", "Source address or prefix.", field="src", bad=SKIP,
               example="192.168.1.0/24"),
        Option("dest_ip", "network", "", "Destination address or prefix.", field="dst", bad=SKIP,
               example="198.51.100.0/24"),
        Option("proto", "choice", "all", "Protocol.", choices=("all", "tcp", "udp", "icmp"),
               field="protocol", bad=SKIP),
        Option("src_port", "ports", "", "Source ports: of TCP and UDP, unless `proto` is one of them.",
               bad=SKIP, example="5060"),
        Option("dest_port", "ports", "", "Destination ports: of TCP and UDP, unless `proto` is one of "
               "them.", field="dst_port", bad=SKIP, example="80,443"),
        Option("ipset", "setname", "", "Destinations in the sets `<ipset>_4` and `<ipset>_6` of nftables' "
               "table `inet wgrouter`, which dnsmasq's `nftset` can fill.", bad=SKIP, example="streaming"),
        Option("wan", "name", "", "WANs in order of preference; `balanced` is all of them, by weight.",
               many=True, field="wans", bad=SKIP, example="wan"),
        Option("last_resort", "choice", "default", "When none of them works: route as other traffic, or "
               "refuse (unreachable) or drop (blackhole) it.",
               choices=("default", "unreachable", "blackhole"), bad=SKIP),
        Option("sticky", "boolean", "0", "All connections of one source address use one WAN."),
    ),
    "voip",
)  # fmt: skip

MQTT = Section(
    "mqtt",
    "mqtt",
    "What the fleet is told over MQTT, and what it may ask; docs/mqtt.md has the topics. Needs the package "
    "`wgrouter-mqtt`. Without a broker nothing is told.",
    (
        _enabled("0: no broker is spoken to."),
        Option("broker", "broker", "", "Brokers in order of preference: the next one is tried when one does "
               "not take us.", many=True, field="brokers", example="mqtts://broker.example.net:8883"),
        Option("prefix", "topic", "wgrouter", "The beginning of every topic."),
        Option("id", "topic", "", "This router in topics. Without it a MAC address of its hardware, "
               "which stays the same when it is flashed anew.", example="office"),
        Option("username", "text", "", "User name at the broker.", example="office"),
        Option("password_file", "path", "", "File with the password alone. Only root may be able to read it.",
               example="/etc/wgrouter.password"),
        Option("ca_file", "path", "", "Certificates that may sign the broker's (PEM). Without it those of "
               "the system.", example="/etc/ssl/certs/fleet-ca.pem"),
        Option("cert_file", "path", "", "Client certificate (PEM).", example="/etc/wgrouter.crt"),
        Option("key_file", "path", "", "Its key. Only root may be able to read it.",
               example="/etc/wgrouter.key"),
        Option("server_name", "host", "", "The name that the broker's certificate must have, where it is not "
               "the broker's host name.", example="broker.example.net"),
        Option("protocol", "choice", "auto", "MQTT version. auto: 5, and 3.1.1 where the broker does not "
               "know that.", choices=("auto", "5", "3.1.1")),
        Option("keepalive", "duration", "60s", "Longest silence on the connection; a broker that does not "
               "answer is given up after twice this.", low=5, high=3600),
        Option("will_delay", "duration", "45s", "How long the router must be gone before the broker says so. "
               "A failover takes less.", high=3600),
        Option("heartbeat", "duration", "5m", "The whole state is told this often though nothing changed.",
               low=5, high=86400),
        Option("severity", "choice", "info", "The least severe event that is told.",
               choices=("info", "warning", "error")),
        Option("queue", "integer", "1000", "Events that wait while no broker is there; then the oldest go.",
               low=10, high=100000),
        Option("queue_file", "path", "", "Keep them here over a restart of the agent: written when it stops. "
               "Without it they are lost then.", example="/etc/wgrouter.events"),
        Option("command", "choice", "", "Commands that may be given over MQTT; none without this.", many=True,
               field="commands", choices=("refresh", "reresolve", "switch", "explain", "diagnose", "report",
               "reload", "set"), example="refresh"),
        Option("command_key_file", "path", "", "File with the key that commands must be signed with, 16 "
               "characters or more. If it cannot be read no command is taken.", example="/etc/wgrouter.hmac"),
        Option("confirm", "duration", "60s", "`set` is taken back unless the broker is reached again within "
               "this.", low=5, high=600),
        Option("homeassistant", "topic", "", "Home Assistant's discovery prefix: tells it of this router. "
               "Without it nothing is told there.", example="homeassistant"),
        Option("metrics_file", "path", "", "Write the figures for Prometheus' textfile collector here; works "
               "without a broker.", example="/var/prometheus/wgrouter.prom"),
        Option("metrics_interval", "duration", "15s", "How often.", low=5, high=3600),
    ),
)  # fmt: skip

SECTIONS = (MAIN, DNS, TUNNEL, PEER, WAN, PROBING, HOLD, ROUTING, RULE, MQTT)
BY_TYPE = {section.type: section for section in SECTIONS}
