"""WireGuard devices: what they and their peers are doing, and the few things of them that the agent changes.

Touches WireGuard in the kernel (generic netlink) and in a process (wireguard-go's socket), in the network
namespace of the thread that made the object. Must not know names, WANs or why an endpoint is set.

What is set is said in full by the method's name: every request carries UPDATE_ONLY (a peer that was taken
away meanwhile is not made again) and never REPLACE_ALLOWEDIPS, so allowed IPs, preshared key and session
survive. That a peer is not there is no error to WireGuard, so it is none here: the next look shows it. No
private or preshared key is kept. See _wireguard.py for the two ways to speak, and for why they are not
pyroute2's.
"""

from __future__ import annotations

import errno
import ipaddress
import time
from collections.abc import Iterable, Mapping
from typing import Final

from wgrouter.core.model import DeviceSeen, Endpoint
from wgrouter.ports._netlink import NETLINK_ROUTE, Socket, device_kinds, index_of, name_of
from wgrouter.ports._wireguard import Answer, KernelDevices, PeerChange, ProcessDevices

DIRECTORY: Final = "/var/run/wireguard"  # where wireguard-go puts its sockets; it cannot be told otherwise
PROCESS_TIMEOUT_S: Final = 1.0  # for one request, and for all of a snapshot together
KIND: Final = "wireguard"


class WireGuard:
    """Use from one thread. Every method is bounded in time, and raises OSError."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._links = Socket(NETLINK_ROUTE, strict=True)
        self._kernel = KernelDevices()
        self._process = ProcessDevices(directory)
        self._seen: dict[str, DeviceSeen] = {}
        self._given: Mapping[str, DeviceSeen] = {}
        # Of link-local endpoints: address and scope, by device and public key. Debian's wireguard-go does not
        # tell the scope, so what was set is remembered for as long as the address stays.
        self._scopes: dict[tuple[str, str], tuple[str, int | str]] = {}
        self.problems: dict[str, str] = {}  # devices that could not be read at the last look, and why

    def close(self) -> None:
        self._links.close()
        self._kernel.close()

    def snapshot(self, names: Iterable[str] | None = None) -> Mapping[str, DeviceSeen]:
        """All devices, or those of `names` that exist. Objects that did not change are the ones of last time.

        A device that cannot be read is as it was last seen, and `problems` says why; if it was never seen,
        it is left out. OSError if that leaves nothing.
        """
        kinds = device_kinds(self._links)
        sockets = self._process.names()
        wanted = kinds if names is None else [name for name in dict.fromkeys(names) if name in kinds]
        deadline = time.monotonic() + PROCESS_TIMEOUT_S
        found: dict[str, DeviceSeen] = {}
        problems: dict[str, str] = {}
        failure: OSError | None = None
        for name in wanted:
            try:
                if kinds[name] == KIND:
                    answer = self._kernel.get(name)
                elif name in sockets:
                    answer = self._process.get(name, max(0.01, deadline - time.monotonic()))
                else:
                    continue
            except OSError as error:
                if error.errno != errno.ENODEV:  # else it has just gone
                    failure = error
                    problems[name] = error.strerror or str(error)
                    if name in self._seen:
                        found[name] = self._seen[name]
                continue
            found[name] = _same(self._seen.get(name), answer)
            self._scopes.update(((name, key), scope) for key, scope in answer.scopes.items())
        self._kernel.forget_unused()
        self.problems = problems
        self._seen = {name: seen for name, seen in (self._seen | found).items() if name in kinds}
        self._scopes = {place: scope for place, scope in self._scopes.items() if self._is_at(place, scope[0])}
        if failure is not None and not found:
            raise failure
        given = self._given
        if len(found) != len(given) or any(given.get(name) is not seen for name, seen in found.items()):
            self._given = found
        return self._given

    def set_endpoint(self, device: str, public_key: str, endpoint: Endpoint) -> None:
        """Give a peer its outer address. The same again is not nothing: WireGuard forgets its cached source.

        A link-local address needs a device: "fe80::1%eth0", or the peer has it already. EINVAL otherwise.
        """
        address, _, zone = endpoint.address.partition("%")
        scope = (0, "")
        if ":" in address and ipaddress.IPv6Address(address).is_link_local:
            scope = self._scope(device, public_key, address, zone)
        plain = Endpoint(address, endpoint.port)
        self._set(device, [PeerChange(public_key, endpoint=plain, scope=scope)])
        if scope[0]:
            self._scopes[device, public_key] = (address, scope[0])

    def set_keepalive(self, device: str, public_key: str, seconds: int) -> None:
        """Set the persistent keepalive, 0 for none. From 0 to something sends a packet at once."""
        self._set(device, [PeerChange(public_key, keepalive=seconds)])

    def provoke(self, device: str, public_key: str, keepalive: int) -> None:
        """Make WireGuard send at once, and shake hands if it has to: keepalive to 0 and back to `keepalive`.

        With `keepalive` 0 it is on for that moment only. All in one request: there is no instant at which
        dying would leave the keepalive off.
        """
        steps = (0, keepalive) if keepalive else (0, 1, 0)
        self._set(device, [PeerChange(public_key, keepalive=seconds) for seconds in steps])

    def set_listen_port(self, device: str, port: int) -> None:
        """Give the device another UDP source port. EADDRINUSE if it is taken."""
        self._set(device, listen_port=port)

    def set_fwmark(self, device: str, mark: int) -> None:
        """Mark the device's outer packets, 0 for none."""
        self._set(device, fwmark=mark)

    def _set(
        self,
        device: str,
        peers: Iterable[PeerChange] = (),
        *,
        listen_port: int | None = None,
        fwmark: int | None = None,
    ) -> None:
        kind = device_kinds(self._links).get(device)
        try:
            if kind == KIND:
                self._kernel.set(device, peers, listen_port=listen_port, fwmark=fwmark)
            elif kind is not None and device in self._process.names():
                self._process.set(
                    device, peers, timeout=PROCESS_TIMEOUT_S, listen_port=listen_port, fwmark=fwmark
                )
            else:
                raise OSError(errno.ENODEV, "there is no such WireGuard device")
        except OSError as error:
            words = f"{device}: {error.strerror or error}"
            raise OSError(error.errno, words) from error

    def _scope(self, device: str, public_key: str, address: str, zone: str) -> tuple[int, str]:
        """Index and name of the device of a link-local address: as given, else as the peer had it."""
        had, scope = self._scopes.get((device, public_key), ("", ""))
        known = zone or (scope if had == address else "")
        if isinstance(known, str) and known and not known.isdigit():
            return index_of(self._links, known), known
        if known:
            index = int(known)
            return index, name_of(self._links, index) or str(index)
        raise OSError(
            errno.EINVAL, f"{device}: the link-local endpoint {address} needs a device ({address}%eth0)"
        )

    def _is_at(self, place: tuple[str, str], address: str) -> bool:
        """Is the endpoint of this device's peer at this address?"""
        device = self._seen.get(place[0])
        peer = device.peers.get(place[1]) if device else None
        return peer is not None and peer.endpoint is not None and peer.endpoint.address == address


def _same(old: DeviceSeen | None, answer: Answer) -> DeviceSeen:
    """The device as answered, with the objects of last time for whatever did not change."""
    new = answer.device
    if old is None:
        return new
    peers = {}
    for key, peer in new.peers.items():
        before = old.peers.get(key)
        peers[key] = before if before == peer else peer
    same = len(peers) == len(old.peers) and all(old.peers.get(key) is peer for key, peer in peers.items())
    if same and (old.public_key, old.listen_port, old.fwmark, old.userspace) == (
        new.public_key,
        new.listen_port,
        new.fwmark,
        new.userspace,
    ):
        return old
    return DeviceSeen(
        name=new.name,
        public_key=new.public_key,
        listen_port=new.listen_port,
        fwmark=new.fwmark,
        userspace=new.userspace,
        peers=old.peers if same else peers,
    )
