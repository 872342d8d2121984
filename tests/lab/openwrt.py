"""The files that a router's own configuration consists of, as OpenWrt 24.10 has them.

Decides text only. The agent reads these with `--root`; the lab sets the router up as netifd would from the
same facts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .topology import Isp, Router, Site


@dataclass(frozen=True)
class Key:
    private: str
    public: str


@dataclass(frozen=True)
class Keys:
    """The keys of a lab, by router and by site; preshared ones by both."""

    routers: Mapping[str, Key]
    sites: Mapping[str, Key]
    preshared: Mapping[tuple[str, str], str]

    def secrets(self) -> set[str]:
        """All that must appear in no output."""
        private = {key.private for key in (*self.routers.values(), *self.sites.values())}
        return private | set(self.preshared.values())


def _section(kind: str, name: str, options: Mapping[str, str | int | Sequence[str]]) -> str:
    lines = [f"config {kind}" + (f" '{name}'" if name else "")]
    for option, value in options.items():
        if isinstance(value, str | int):
            lines.append(f"\toption {option} '{value}'")
        else:
            lines += [f"\tlist {option} '{item}'" for item in value]
    return "\n".join(lines) + "\n"


def peer(site: Site, router: Router, keys: Keys) -> str:
    """A peer section, as LuCI writes it."""
    preshared = {"preshared_key": keys.preshared[router.name, site.name]} if site.psk else {}
    return _section(
        f"wireguard_{site.tunnel}",
        "",
        {
            "description": site.name,
            "public_key": keys.sites[site.name].public,
            **preshared,
            "allowed_ips": site.allowed_ips,
            "route_allowed_ips": 1,
            "endpoint_host": site.host,
            "endpoint_port": site.port,
            **({"persistent_keepalive": site.keepalive} if site.keepalive else {}),
        },
    )


def network(router: Router, uplinks: Iterable[Isp], sites: Sequence[Site], keys: Keys) -> str:
    """/etc/config/network."""
    parts = [
        _section("interface", "loopback", {"device": "lo", "proto": "static", "ipaddr": ("127.0.0.1/8",)}),
        _section("globals", "globals", {"ula_prefix": f"{router.lan6}:/48", "packet_steering": 1}),
        _section(
            "interface",
            "lan",
            {
                "device": "br-lan",
                "proto": "static",
                "ipaddr": (f"{router.lan4}.1/24",),
                "ip6addr": (f"{router.lan6}:1/64",),
            },
        ),
    ]
    for isp in uplinks:
        options: dict[str, str | int | Sequence[str]] = {"device": isp.port, "proto": isp.proto}
        if isp.proto == "static":
            options |= {
                "ipaddr": (f"{isp.router4}/{isp.length4}",),
                "gateway": isp.gateway4,
                "ip6addr": (f"{isp.router6}/64",),
                "ip6gw": isp.gateway6,
                "dns": isp.resolvers,
            }
        elif isp.proto == "pppoe":
            options |= {"username": "subscriber", "password": "of-the-line"}
        if isp.metric:
            options["metric"] = isp.metric
        parts.append(_section("interface", isp.interface, options))
    for n, tunnel in enumerate(tunnels(sites)):
        options = {
            "proto": "wireguard",
            "private_key": keys.routers[router.name].private,
            "addresses": tunnel_addresses(router),
        }
        if router.listen_port:
            options["listen_port"] = router.listen_port + n
        if not router.host_routes:
            options["nohostroute"] = 1
        parts.append(_section("interface", tunnel, options))
        parts += [peer(site, router, keys) for site in sites if site.tunnel == tunnel]
    return "\n".join(parts)


def tunnels(sites: Iterable[Site]) -> list[str]:
    """The WireGuard interfaces of a router, in order."""
    return sorted({site.tunnel for site in sites})


def tunnel_addresses(router: Router) -> tuple[str, str]:
    """The router's own addresses in its tunnels. The routes come from `route_allowed_ips`."""
    return f"{router.tunnel4}/32", f"{router.tunnel6}/128"


def resolv_conf_auto(uplinks: Iterable[Isp]) -> str:
    """/tmp/resolv.conf.d/resolv.conf.auto: which resolvers came with which interface."""
    lines = []
    for isp in uplinks:
        lines += [f"# Interface {isp.interface}", *(f"nameserver {address}" for address in isp.resolvers)]
    return "\n".join(lines) + "\n"
