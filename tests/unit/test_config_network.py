"""Network files as routers have them: what is discovered in each, and that none of it is called a fault."""

from typing import NamedTuple

import pytest

from wgrouter.config.load import load
from wgrouter.core.settings import HostPort, Settings

KEYS = (
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
    "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=",
)


class Case(NamedTuple):
    text: str
    devices: dict[str, str]  # of interfaces whose device the file tells
    peers: list[tuple[str, str, tuple[HostPort, ...], str]]  # (device, label, endpoints, probe)


CASES = {
    "a fresh image of 23.05 or later": Case(
        """
config interface 'loopback'
	option device 'lo'
	option proto 'static'
	option ipaddr '127.0.0.1'
	option netmask '255.0.0.0'

config globals 'globals'
	option ula_prefix 'fd2a:6a9b:1c3d::/48'
	option packet_steering '1'

config device
	option name 'br-lan'
	option type 'bridge'
	list ports 'lan1'
	list ports 'lan2'

config interface 'lan'
	option device 'br-lan'
	option proto 'static'
	option ipaddr '192.168.1.1'
	option netmask '255.255.255.0'
	option ip6assign '60'

config interface 'wan'
	option device 'wan'
	option proto 'dhcp'

config interface 'wan6'
	option device 'wan'
	option proto 'dhcpv6'
""",
        {"loopback": "lo", "lan": "br-lan", "wan": "wan", "wan6": "wan"},
        [],
    ),
    "19.07: ifname, bridges by type, quoted types": Case(
        """
config 'interface' 'loopback'
	option ifname 'lo'
	option proto 'static'

config 'interface' 'lan'
	option type 'bridge'
	option ifname 'eth0.1 wlan0'
	option proto 'static'

config interface 'guest'
	option ifname 'eth0.3 eth0.4'
	option proto 'static'

config interface 'wan'
	option ifname 'eth0.2'
	option proto 'dhcp'

config interface 'wan6'
	option ifname '@wan'
	option proto 'dhcpv6'

config switch
	option name 'switch0'
	option reset '1'
""",
        {"loopback": "lo", "lan": "br-lan", "wan": "eth0.2", "wan6": "eth0.2"},
        [],
    ),
    "PPPoE, modems, wireless, a tunnel broker": Case(
        """
config interface 'wan'
	option device 'eth1.7'
	option proto 'pppoe'
	option username 'somebody@example.net'
	option password 'it''s secret'
	option ipv6 'auto'

config interface 'wan6'
	option device '@wan'
	option proto 'dhcpv6'

config interface 'lte'
	option proto 'qmi'
	option device '/dev/cdc-wdm0'
	option apn 'internet'

config interface 'modem'
	option proto 'modemmanager'
	option device '/sys/devices/platform/ahb/1b000000.usb/usb1/1-1'

config interface 'wwan'
	option proto 'dhcp'

config interface 'henet'
	option proto '6in4'
	option tunnelid '1'

config interface 'a_long_interface_name'
	option proto 'pppoe'
	option device 'eth2'
""",
        {"wan": "pppoe-wan", "wan6": "pppoe-wan", "henet": "6in4-henet"},
        [],
    ),
    "aliases that lead nowhere": Case(
        """
config interface 'a'
	option device '@b'
config interface 'b'
	option device '@a'
	option proto 'static'
config interface 'c'
	option device '@gone'
	option proto 'static'
config interface 'd'
	option device '@d'
	option proto 'none'
config interface 'e'
	option proto 'static'
	option device 'much too long for a device'
""",
        {},
        [],
    ),
    "WireGuard as LuCI writes it": Case(
        f"""
config interface 'wg0'
	option proto 'wireguard'
	option private_key 'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk='
	option listen_port '51820'
	list addresses '10.14.0.1/24'
	list addresses 'fd42:14::1/64'
	option mtu '1420'
	option nohostroute '1'
	list dns '10.14.0.53'

config wireguard_wg0
	option description 'Imported peer configuration'
	option public_key '{KEYS[0]}'
	option preshared_key 'FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE='
	option route_allowed_ips '1'
	option endpoint_host 'home.example.org'
	option endpoint_port '51820'
	option persistent_keepalive '25'
	list allowed_ips '0.0.0.0/0'
	list allowed_ips '::/0'

config wireguard_wg0
	option description 'Laptop'
	option public_key '{KEYS[1]}'
	option private_key 'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk='
	list allowed_ips '10.14.0.7/32'
	list allowed_ips 'fd42:14::7/128'
	option disabled '1'

config wireguard_wg0
	option description 'Phone'
	option public_key '{KEYS[2]}'
	list allowed_ips '10.14.0.8/32'
""",
        {"wg0": "wg0"},
        [
            ("wg0", "Imported peer configuration", (HostPort("home.example.org", 51820),), ""),
            ("wg0", "Phone", (), "10.14.0.8"),
        ],
    ),
    "WireGuard as recipes have it": Case(
        f"""
config interface 'vpn'
	option proto 'wireguard'
	option private_key 'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk='
	option addresses '192.168.9.2/24 fd00:9::2'

config wireguard_vpn 'wgserver'
	option public_key '{KEYS[0]}'
	option preshared_key 'FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE='
	option endpoint_host '2001:db8::5'
	option route_allowed_ips '1'
	option persistent_keepalive '25'
	option allowed_ips '192.168.9.1/32 10.0.0.0/8'

config interface 'site'
	option proto 'wireguard'
	option private_key 'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk='
	option tunlink 'wan'
	option fwmark '0x10'

config wireguard_site
	option public_key '{KEYS[0]}'
	option endpoint_host '198.51.100.9'
	option endpoint_port '443'
	list allowed_ips '172.16.0.0/12'

config wireguard_site
	option public_key '{KEYS[1]}'
	option endpoint_host 'far.example.com'
""",
        {"vpn": "vpn", "site": "site"},
        [
            ("vpn", KEYS[0][:8], (HostPort("2001:db8::5", 51820),), "192.168.9.1"),
            ("site", KEYS[0][:8], (HostPort("198.51.100.9", 443),), ""),
            ("site", KEYS[1][:8], (HostPort("far.example.com", 51820),), ""),
        ],
    ),
    "other protocols with sections like ours": Case(
        f"""
config interface 'awg0'
	option proto 'amneziawg'
	option private_key 'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk='

config amneziawg_awg0
	option public_key '{KEYS[0]}'
	option endpoint_host 'x.example.net'

config wireguard_awg0
	option public_key '{KEYS[0]}'

config bridge-vlan
	option device 'br-lan'
	option vlan '1'
	list ports 'lan1:t'

config route
	option interface 'wan'
	option target '10.0.0.0/8'

config rule
	option mark '0x1'
	option lookup '100'
""",
        {"awg0": "awg0"},
        [],
    ),
}


def discovered(text: str) -> Settings:
    found = load({"network": text.encode()})
    assert found.problems == ()
    return found.settings


@pytest.mark.parametrize("name", CASES)
def test_what_is_discovered(name: str) -> None:
    case = CASES[name]
    for text in (case.text, case.text.replace("\n", "\r\n")):
        settings = discovered(text)
        assert dict(settings.interfaces) == case.devices
        assert [
            (peer.device, peer.label, peer.endpoints, peer.probe) for peer in settings.peers()
        ] == case.peers


def test_addresses_of_a_tunnel() -> None:
    vpn, site = discovered(CASES["WireGuard as recipes have it"].text).tunnels
    assert vpn.addresses == ("192.168.9.2/24", "fd00:9::2/128")
    assert (site.fwmark, site.listen_port, vpn.fwmark) == (0x10, 0, 0)


def test_a_password_with_quotes_is_read_as_uci_reads_it() -> None:
    """In single quotes '' ends one string and starts the next: nothing after it is lost."""
    assert discovered(CASES["PPPoE, modems, wireless, a tunnel broker"].text).interfaces["wan"] == "pppoe-wan"


def test_a_tunnel_has_a_name_that_a_device_can_have() -> None:
    """The kernel takes 15 characters; with more there is never a device, and nobody would say why."""
    text = "config interface 'wireguard_office'\n\toption proto 'wireguard'\n"
    found = load({"network": text.encode()})
    assert found.settings.tunnels == ()
    (problem,) = found.problems
    assert (problem.line, problem.message) == (1, "no device can be called 'wireguard_office': 16 characters")
    assert (problem.accepted, problem.consequence) == ("up to 15 characters", "the tunnel is left out")
    assert (
        load({"network": text.replace("_office", "_offic").encode()}).settings.tunnels[0].device
        == "wireguard_offic"
    )
