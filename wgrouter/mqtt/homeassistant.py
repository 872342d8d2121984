"""Home Assistant's device discovery: one retained message that makes a device with all its entities.

Keys as documented at home-assistant.io/integrations/mqtt: device discovery with shared options, in their
abbreviated forms. All entities read …/state; the select that chooses the WAN gives a command.
"""

from __future__ import annotations

from wgrouter.core import engine, links
from wgrouter.mqtt.payloads import Data, Identity, family_name
from wgrouter.mqtt.topics import Topics, level


def status_topic(prefix: str) -> str:
    """Where Home Assistant says that it has started."""
    return f"{prefix}/status"


def object_id(topics: Topics) -> str:
    """What Home Assistant takes as an id: letters, digits, _ and -."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in f"wgrouter_{topics.id}")


def discovery_topic(prefix: str, topics: Topics) -> str:
    return f"{prefix}/device/{object_id(topics)}/config"


def discovery(topics: Topics, identity: Identity, state: engine.State, capabilities: Data) -> Data:
    """The payload."""
    device = object_id(topics)
    components: dict[str, Data] = {}

    def entity(key: str, platform: str, name: str, **more: object) -> None:
        unique = f"{device}_{''.join(c if c.isalnum() else '_' for c in key)}"
        slug = "_".join(part for part in unique.lower().split("_") if part)  # as Home Assistant would make it
        components[unique.removeprefix(f"{device}_")] = {
            "p": platform,
            "uniq_id": unique,
            "default_entity_id": f"{platform}.{slug}",
            "name": name,
            **more,
        }

    wans: dict[str, list[str]] = {}
    for link in links.view(state.links):
        wans.setdefault(link.path.wan, []).append(family_name(link.path.family))
    active = "{{ value_json.active.ipv4 or value_json.active.ipv6 or 'none' }}"
    entity("active", "sensor", "Active WAN", val_tpl=active, ic="mdi:wan")
    if "switch" in capabilities["commands"] and not capabilities["signed"]:
        entity(
            "wan_choice",
            "select",
            "WAN",
            ops=["auto", *wans],
            val_tpl="{{ value_json.manual or 'auto' }}",
            cmd_t=topics.command("switch"),
            cmd_tpl='{"id":"ha-{{ now().timestamp() }}","expires":{{ (now().timestamp() + 60) | round(0) }},'
            '"arguments":{"wan":"{{ value }}"}}',
            qos=1,
            ic="mdi:swap-horizontal",
        )
    entity(
        "switches",
        "sensor",
        "Failovers",
        val_tpl="{{ value_json.switches }}",
        stat_cla="total_increasing",
        ic="mdi:counter",
    )
    for wan, families in wans.items():
        path = f"value_json.wans['{wan}']"
        up = " or ".join(f"{path}.{family}.state == 'up'" for family in families)
        safe = f"{path} is defined and ({up})"
        entity(
            f"wan_{wan}",
            "binary_sensor",
            f"WAN {wan}",
            val_tpl=f"{{{{ 'ON' if {safe} else 'OFF' }}}}",
            dev_cla="connectivity",
        )
        for key, name, unit, icon in (
            ("latency_ms", "latency", "ms", "mdi:timer-outline"),
            ("loss_percent", "loss", "%", "mdi:packet-network-outline"),
        ):
            entity(
                f"wan_{wan}_{key}",
                "sensor",
                f"WAN {wan} {name}",
                val_tpl=f"{{{{ {path}.{families[0]}.{key} if {path} is defined else none }}}}",
                unit_of_meas=unit,
                stat_cla="measurement",
                ic=icon,
            )
    for tunnel in state.settings.tunnels:
        for peer in tunnel.peers:
            label = peer.label.replace("\\", "\\\\").replace("'", "\\'")
            where = f"value_json.tunnels['{tunnel.device}'].peers['{label}']"
            entity(
                f"peer_{tunnel.device}_{level(peer.label)}",
                "binary_sensor",
                f"{tunnel.device} {peer.label}",
                val_tpl=f"{{{{ 'ON' if {where}.state in ('alive', 'idle') else 'OFF' }}}}",
                dev_cla="connectivity",
            )
    entity(
        "worst",
        "sensor",
        "Problem",
        val_tpl="{{ value_json.worst.text[:250] if value_json.worst else 'none' }}",
        ent_cat="diagnostic",
        ic="mdi:alert-circle-outline",
    )
    entity(
        "uptime",
        "sensor",
        "Agent uptime",
        val_tpl="{{ value_json.uptime_s }}",
        unit_of_meas="s",
        dev_cla="duration",
        ent_cat="diagnostic",
    )
    entity(
        "queued",
        "sensor",
        "Events waiting",
        val_tpl="{{ value_json.events.queued }}",
        ent_cat="diagnostic",
        ic="mdi:tray-full",
    )
    machine = identity.machine
    about = {
        "ids": [device],
        "name": machine.get("host") or topics.id,
        "mf": "wgrouter",
        "mdl": machine.get("model") or "OpenWrt router",
        "sw": identity.versions.get("wgrouter", ""),
    }
    return {
        "dev": about,
        "o": {"name": "wgrouter", "sw": identity.versions.get("wgrouter", "")},
        "stat_t": topics.state,  # of every component …
        "avty_t": topics.availability,
        "cmps": components,
    }
