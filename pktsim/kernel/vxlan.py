"""VXLAN (RFC 7348): drivers/net/vxlan/vxlan_core.c of Linux 6.18, as flannel and others use it.

A frame given to the device goes out as a UDP packet of the namespace itself, through OUTPUT and the outer routes; a
packet to the port is taken before the sockets see it, and its frame received by the device.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pktsim.errors import TopologyError
from pktsim.fidelity import approximated
from pktsim.kernel.netdev import NetDevice
from pktsim.kernel.transport import build_ip
from pktsim.netfilter.opcodes import DropReason, LinkKind
from pktsim.wire.addr import MAC_ZERO, ip_from_text, mac_from_text
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import IPPROTO_UDP

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

approximated(
    "kernel.vxlan.source_port",
    "the outer source port is a hash of the inner flow, the same for both directions; Linux takes the sending socket's "
    "own hash where it has one, which is another for each socket and after each retransmission time-out",
    source="include/net/udp.h udp_flow_src_port, include/net/sock.h sk_rethink_txhash",
)

#: What Linux uses unless told otherwise; IANA's number is 4789.
LINUX_PORT: Final = 8472
_HEADER = struct.Struct("!II")
_FLAG_VNI: Final = 0x08000000
_UDP_HEADER: Final = 8
_ETHERNET: Final = 14
_HEADROOM: Final = 50  # outer Ethernet, IPv4, UDP, VXLAN
_ECN_MASK: Final = 3
_CE: Final = 3


@dataclass(slots=True, eq=False)
class VxlanDevice:
    """One vxlan device.

    Attributes:
        local: The outer source address; chosen by the route if empty.
        link: ifindex of the device that outer packets leave by, 0 for any.
        learning: Remember from which host a MAC address came.
        ttl: Of outer packets; 0 for the usual one.
        fdb: MAC address -> remote addresses; the zero MAC's are for everything that is not known.
    """

    device: NetDevice
    vni: int
    local: bytes
    link: int
    port: int
    learning: bool
    udp_csum: bool
    ttl: int
    fdb: dict[bytes, list[bytes]] = field(default_factory=dict)


class Vxlan:
    """All vxlan devices of one namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._devices: dict[tuple[int, int], VxlanDevice] = {}  # by port and VNI
        self._secret = b""

    def add(
        self,
        name: str,
        *,
        vni: int,
        local: str = "",
        link: str = "",
        port: int = LINUX_PORT,
        learning: bool = True,
        udp_csum: bool = True,
        ttl: int = 0,
        mac: str = "",
        mtu: int = 0,
    ) -> VxlanDevice:
        """``ip link add NAME type vxlan id VNI local ADDRESS dev LINK dstport PORT …``."""
        netns = self._netns
        if not 0 <= vni < 1 << 24:
            raise TopologyError(f"{vni} is not a VXLAN network identifier", place=f"{netns.name}/{name}")
        if (port, vni) in self._devices:
            raise TopologyError(f"there is a vxlan device for VNI {vni}, port {port} already", place=netns.name)
        link_device = netns.devices.named(link) if link else None
        if not mtu:
            mtu = link_device.mtu - _HEADROOM if link_device is not None else 1500
        device = netns.link_add(name, LinkKind.VXLAN, mac=mac, mtu=mtu)
        tunnel = VxlanDevice(
            device,
            vni,
            ip_from_text(local) if local else b"",
            link_device.ifindex if link_device is not None else 0,
            port,
            learning,
            udp_csum,
            ttl,
        )
        self._devices[port, vni] = tunnel
        netns.tunnels[device.ifindex] = lambda frame, mark: self._send(tunnel, frame, mark)
        netns.udp_encapsulations[port] = lambda packet, ifindex: self._receive(port, packet)
        return tunnel

    def fdb_add(self, name: str, mac: str, remote: str) -> None:
        """``bridge fdb append MAC dev NAME dst REMOTE``."""
        tunnel = self._named(name)
        remotes = tunnel.fdb.setdefault(mac_from_text(mac), [])
        address = ip_from_text(remote)
        if address not in remotes:
            remotes.append(address)

    def fdb_delete(self, name: str, mac: str) -> None:
        """``bridge fdb del MAC dev NAME``."""
        self._named(name).fdb.pop(mac_from_text(mac), None)

    def _named(self, name: str) -> VxlanDevice:
        for tunnel in self._devices.values():
            if tunnel.device.name == name:
                return tunnel
        raise TopologyError(f"{name} is not a vxlan device", place=self._netns.name)

    def removed(self, ifindex: int) -> None:
        """A device was deleted."""
        for key, tunnel in list(self._devices.items()):
            if tunnel.device.ifindex == ifindex:
                del self._devices[key]
                if not any(port == key[0] for port, _ in self._devices):
                    self._netns.udp_encapsulations.pop(key[0], None)

    # ------------------------------------------------------------------------------------------------------------- send

    def _send(self, tunnel: VxlanDevice, frame: bytes, mark: int) -> DropReason | None:
        """``vxlan_xmit``: to every remote that the destination MAC address is behind. Returns why to none, if so."""
        remotes = tunnel.fdb.get(frame[:6]) or tunnel.fdb.get(MAC_ZERO)
        if not remotes:
            return DropReason.NO_TX_TARGET
        reasons = [self._send_to(tunnel, frame, mark, remote) for remote in list(remotes)]
        return None if None in reasons else reasons[0]

    def _send_to(self, tunnel: VxlanDevice, frame: bytes, mark: int, remote: bytes) -> DropReason | None:
        """``vxlan_xmit_one``."""
        netns = self._netns
        try:
            route = netns.route_output(remote, saddr=tunnel.local, ifindex=tunnel.link, mark=mark)
        except OSError:
            return DropReason.NO_ROUTE
        saddr = tunnel.local or route.saddr
        length = _UDP_HEADER + _HEADER.size + len(frame)
        head = struct.pack("!HHHH", self._source_port(frame), tunnel.port, length, 0)
        segment = head + _HEADER.pack(_FLAG_VNI, tunnel.vni << 8) + frame
        if tunnel.udp_csum:
            check = transport_checksum(saddr, remote, IPPROTO_UDP, segment)
            segment = segment[:6] + check.to_bytes(2, "big") + segment[8:]
        packet = build_ip(
            saddr,
            remote,
            IPPROTO_UDP,
            segment,
            ttl=tunnel.ttl or netns.sysctls.number("net.ipv4.ip_default_ttl"),
            tos=_inner_ecn(frame),  # RFC 6040: normal mode
            ip_id=netns.next_ip_id(saddr, remote, IPPROTO_UDP),
            df=False,
        )
        netns.local_out(packet, mark=mark, ifindex=tunnel.link)
        return None

    def _source_port(self, frame: bytes) -> int:
        """``udp_flow_src_port``: a hash of the inner flow, equal for both directions, in the range of local ports."""
        netns = self._netns
        if not self._secret:
            self._secret = netns.choices.below(f"{netns.name}/flow_hash.secret", 1 << 64).to_bytes(8, "big")
        low, high = netns.sysctls.numbers("net.ipv4.ip_local_port_range")
        digest = hashlib.blake2b(_flow(frame), digest_size=4, key=self._secret).digest()
        return (int.from_bytes(digest, "big") * (high - low) >> 32) + low

    # ---------------------------------------------------------------------------------------------------------- receive

    def _receive(self, port: int, packet: bytes) -> DropReason | None:
        """``vxlan_rcv``: a packet for a tunnel, be it a broken one. Returns why it is dropped, if it is."""
        netns = self._netns
        header_length = (packet[0] & 15) * 4
        segment = packet[header_length : int.from_bytes(packet[2:4], "big")]
        if len(segment) < _UDP_HEADER + _HEADER.size + _ETHERNET:
            return DropReason.VXLAN_INVALID_HDR
        if segment[6:8] != b"\0\0":
            saddr, daddr = packet[12:16], packet[16:20]
            if transport_checksum(saddr, daddr, IPPROTO_UDP, segment) not in (0, 0xFFFF):
                return DropReason.TRANSPORT_CHECKSUM
        flags, vni = _HEADER.unpack_from(segment, _UDP_HEADER)
        tunnel = self._devices.get((port, vni >> 8))
        # Other flags belong to extensions that such a device does not speak.
        if flags != _FLAG_VNI or vni & 0xFF:
            return DropReason.VXLAN_INVALID_HDR
        if tunnel is None or not tunnel.device.up:
            return DropReason.VXLAN_VNI_NOT_FOUND
        frame = segment[_UDP_HEADER + _HEADER.size :]
        if frame[6:12] == tunnel.device.mac:
            return DropReason.LOCAL_MAC  # our own, come back
        if tunnel.learning:
            tunnel.fdb[frame[6:12]] = [packet[12:16]]
        decapsulated = _with_outer_ecn(frame, packet[1] & _ECN_MASK)
        if decapsulated is None:
            return DropReason.IP_TUNNEL_ECN
        # gro_cells: received by the device when what is under way is done
        netns.receive_later(tunnel.device.ifindex, decapsulated)
        return None


def _inner_ecn(frame: bytes) -> int:
    """``INET_ECN_encapsulate`` with an outer TOS of 0: ECT stays, CE does not travel outside as such but as ECT(0)."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) > 15:
        ecn = frame[15] & _ECN_MASK
    elif kind == b"\x86\xdd" and len(frame) > 15:
        ecn = frame[15] >> 4 & _ECN_MASK
    else:
        return 0
    return 2 if ecn == _CE else ecn


def _with_outer_ecn(frame: bytes, outer: int) -> bytes | None:
    """``IP_ECN_decapsulate`` (RFC 6040): CE outside goes inside; ``None`` where the inner packet cannot carry it."""
    kind = frame[12:14]
    if outer != _CE or kind not in (b"\x08\x00", b"\x86\xdd") or len(frame) < 34:
        return frame
    changed = bytearray(frame)
    if kind == b"\x08\x00":
        inner = frame[15] & _ECN_MASK
        if inner == 0:
            return None
        if inner != _CE:
            changed[15] |= _CE
            # RFC 1624 for the one word that changed
            old, new = int.from_bytes(frame[14:16], "big"), int.from_bytes(changed[14:16], "big")
            total = (0xFFFF ^ int.from_bytes(frame[24:26], "big")) + (0xFFFF ^ old) + new
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            changed[24:26] = (0xFFFF ^ total).to_bytes(2, "big")
    else:
        if frame[15] >> 4 & _ECN_MASK == 0:
            return None
        changed[15] |= _CE << 4
    return bytes(changed)


def _flow(frame: bytes) -> bytes:
    """What ``skb_get_hash`` hashes: addresses, protocol and ports, the lower end first."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 34:
        source, destination, protocol = frame[26:30], frame[30:34], frame[23]
        at = _ETHERNET + (frame[14] & 15) * 4
        fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
    elif kind == b"\x86\xdd" and len(frame) >= 54:
        source, destination, protocol = frame[22:38], frame[38:54], frame[20]
        at, fragment = _ETHERNET + 40, 0
    else:
        return frame[:12]
    ports = (frame[at : at + 2], frame[at + 2 : at + 4]) if not fragment and protocol in (6, 17, 132) else (b"", b"")
    ends = sorted(((source, ports[0]), (destination, ports[1])))
    return b"".join(address + port for address, port in ends) + bytes([protocol])
