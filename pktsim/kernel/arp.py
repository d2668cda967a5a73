"""ARP (RFC 826) as Linux speaks it: net/ipv4/arp.c of Linux 6.18."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pktsim.clock import HZ
from pktsim.kernel.neighbour import Neighbour, Nud
from pktsim.kernel.netdev import NetDevice, Scope
from pktsim.netfilter.opcodes import DropReason, RouteType
from pktsim.wire.addr import MAC_BROADCAST, MAC_ZERO, ip_to_text, mac_to_text
from pktsim.wire.frame import ETH_P_ARP, ETH_P_IP

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

ARPHRD_ETHER: Final = 1
ARPOP_REQUEST: Final = 1
ARPOP_REPLY: Final = 2

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_USER_HZ: Final = 100

PACKET_HOST: Final = 0


@dataclass(frozen=True, slots=True)
class ArpPacket:
    """An ARP packet for IPv4 over Ethernet: operation, then hardware and protocol address of sender and target."""

    operation: int
    sha: bytes
    sip: bytes
    tha: bytes
    tip: bytes

    def pack(self) -> bytes:
        return _ARP.pack(ARPHRD_ETHER, ETH_P_IP, 6, 4, self.operation, self.sha, self.sip, self.tha, self.tip)

    @classmethod
    def unpack(cls, data: bytes) -> ArpPacket | None:
        """Read one; ``None`` if it is cut short or not about IPv4 over Ethernet."""
        if len(data) < _ARP.size:
            return None
        hardware, protocol, hlen, plen, operation, sha, sip, tha, tip = _ARP.unpack_from(data)
        if hardware != ARPHRD_ETHER or protocol != ETH_P_IP or hlen != 6 or plen != 4:
            return None
        return cls(operation, sha, sip, tha, tip)


def frame(destination: bytes, source: bytes, packet: ArpPacket) -> bytes:
    """The Ethernet frame, not padded: a real NIC would do that, a veth does not."""
    return destination + source + ETH_P_ARP.to_bytes(2, "big") + packet.pack()


class Arp:
    """Asking and answering for one namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        #: ``pneigh``: addresses answered for, beside proxy_arp (``ip neigh add proxy``)
        self.proxies: set[tuple[int, bytes]] = set()
        self._proxy_queue_lengths: dict[int, int] = {}

    # ----------------------------------------------------------------------------------------------------------- asking

    def solicit(self, entry: Neighbour, packet: bytes, *, unicast: bool) -> None:
        """``arp_solicit``.

        Args:
            entry: Whose address is asked for.
            packet: The packet that waits for it, from the network header on; empty if there is none.
            unicast: Ask the known address, to confirm it.
        """
        device = self._netns.devices.find(entry.ifindex)
        if device is None:
            return
        source = self._announced(device, entry.address, packet[12:16])
        if not source:
            source = self._netns.select_address(device, entry.address, Scope.LINK) or bytes(4)
        destination = entry.mac if unicast else MAC_BROADCAST
        self.send(device, ArpPacket(ARPOP_REQUEST, device.mac, source, MAC_ZERO, entry.address), destination)

    def _announced(self, device: NetDevice, target: bytes, saddr: bytes) -> bytes:
        """The waiting packet's own source, if arp_announce lets the target know it."""
        level = self._netns.sysctls.conf_max(device.name, "arp_announce")
        if not saddr or level >= 2 or self._netns.datapath.address_type(saddr) != RouteType.LOCAL:
            return b""
        if level == 0:
            return saddr
        # inet_addr_onlink: both are in one network of the device
        for entry in device.addresses:
            if not entry.secondary and entry.covers(target) and entry.covers(saddr):
                return saddr
        return b""

    def send(self, device: NetDevice, packet: ArpPacket, destination: bytes) -> None:
        """``arp_send_dst``."""
        if not device.noarp:
            self._netns.transmit(device.ifindex, frame(destination, device.mac, packet))

    def announce(self, device: NetDevice, address: bytes) -> None:
        """``inetdev_send_gratuitous_arp``: ask for our own address."""
        self.send(device, ArpPacket(ARPOP_REQUEST, device.mac, address, device.mac, address), MAC_BROADCAST)

    # -------------------------------------------------------------------------------------------------------- answering

    def receive(self, ifindex: int, data: bytes, pkt_type: int, *, pkt_id: int = 0) -> DropReason | None:
        """``arp_rcv``: a frame's ARP packet, from the network header on; ``pkt_id`` is for the trace.

        Returns:
            Why it is dropped, if it is. What is no drop in Linux, as a question about another host, is none here.
        """
        device = self._netns.devices.find(ifindex)
        packet = ArpPacket.unpack(data)
        if device is None:
            return DropReason.LINK_DOWN
        if packet is None or packet.operation not in (ARPOP_REQUEST, ARPOP_REPLY):
            return DropReason.ARP_INVALID
        if device.noarp or device.loopback:
            self._unanswered(pkt_id, f"{device.name} does without ARP")
            return None
        return self._process(device, packet, pkt_type, pkt_id, queued=False)

    def _unanswered(self, pkt_id: int, why: str, *, common: bool = False) -> None:
        """Say why a question is not answered; ``common``: that is so often that no capture's comment shall say so."""
        if self._netns.explainer is not None and pkt_id:
            self._netns.explainer.unanswered(self._netns, pkt_id, "an ARP reply", why, common=common)

    def _process(
        self, device: NetDevice, packet: ArpPacket, pkt_type: int, pkt_id: int, *, queued: bool
    ) -> DropReason | None:
        """``arp_process``."""
        netns = self._netns
        sysctls = netns.sysctls
        sip, tip = packet.sip, packet.tip
        request = packet.operation == ARPOP_REQUEST
        if tip[0] >> 4 == 14 or (tip[0] == 127 and not sysctls.conf_or(device.name, "route_localnet")):
            return DropReason.ARP_INVALID
        if sip == tip and sysctls.conf_or(device.name, "drop_gratuitous_arp"):
            return DropReason.ARP_GRATUITOUS
        elsewhere = f"{ip_to_text(tip)} is not an address of this host"
        if sip == bytes(4):
            # duplicate address detection (RFC 5227)
            if request and netns.datapath.address_type(tip) != RouteType.LOCAL:
                self._unanswered(pkt_id, elsewhere, common=True)
            elif request and self._ignored(device, sip, tip):
                self._unanswered(pkt_id, f"net.ipv4.conf.{device.name}.arp_ignore is set")
            elif request:
                self._reply(device, packet, pkt_id)
            else:
                netns.remark(pkt_id, "nothing is learnt from it: it has no sender's address")
            return None
        if request:
            route_type, out_ifindex = netns.datapath.route_input(tip, sip, device.ifindex)
            if route_type == RouteType.LOCAL:
                if self._ignored(device, sip, tip):
                    self._unanswered(pkt_id, f"net.ipv4.conf.{device.name}.arp_ignore is set")
                elif self._filtered(device, sip, tip):
                    self._unanswered(pkt_id, f"net.ipv4.conf.{device.name}.arp_filter is set")
                elif netns.arp_table.learn(device.ifindex, sip, packet.sha) is not None:
                    self._reply(device, packet, pkt_id)
                else:
                    self._unanswered(pkt_id, "the neighbour table is full (net.ipv4.neigh.default.gc_thresh3)")
                return None
            if (
                route_type == RouteType.UNICAST
                and sysctls.conf("net.ipv4.conf", device.name, "forwarding")
                and self._proxied(device, sip, tip, out_ifindex)
            ):
                netns.arp_table.learn(device.ifindex, sip, packet.sha)
                if queued or pkt_type == PACKET_HOST or not self._proxy_delay(device):
                    self._reply(device, packet, pkt_id)
                else:
                    return self._delay_reply(device, packet, pkt_type, pkt_id)
                return None
            self._unanswered(pkt_id, elsewhere, common=True)
        self._update(device, packet, pkt_type, pkt_id)
        return None

    def _update(self, device: NetDevice, packet: ArpPacket, pkt_type: int, pkt_id: int) -> None:
        """The end of ``arp_process``: what a packet not meant to be answered tells about its sender."""
        netns = self._netns
        table = netns.arp_table
        reply = packet.operation == ARPOP_REPLY
        accept = self._accepted(device, packet.sip)
        entry = table.find(device.ifindex, packet.sip)
        gratuitous = False
        if entry is not None or accept:
            gratuitous = self._gratuitous(packet)
        if entry is None and accept:
            unicast = netns.datapath.address_type(packet.sip) == RouteType.UNICAST
            if gratuitous or (reply and unicast):
                entry = table.find(device.ifindex, packet.sip) or table.create(device.ifindex, packet.sip)
        if entry is None:
            if reply or packet.sip == packet.tip:
                text = f"nothing is learnt from it: nobody has asked for it (net.ipv4.conf.{device.name}.arp_accept)"
                netns.remark(pkt_id, text)
            return
        # Of several answers the first counts: an address is replaced only after locktime.
        locktime = netns.neighbour_setting(2, device.ifindex, "locktime") * HZ // _USER_HZ
        override = gratuitous or netns.wheel.jiffies > entry.updated + locktime
        if not override and entry.valid and entry.mac != packet.sha:
            netns.remark(pkt_id, f"the address known is kept: it is too new (net.ipv4.neigh.{device.name}.locktime)")
        # Broadcast replies and requests do not prove reachability.
        state = Nud.REACHABLE if reply and pkt_type == PACKET_HOST else Nud.STALE
        table.update(entry, packet.sha, state, override=override)
        if entry.mac == packet.sha:
            known = f"{ip_to_text(entry.address)} is at {mac_to_text(entry.mac)} ({entry.state.name})"
            netns.remark(pkt_id, f"the neighbour table has it: {known}")
        elif entry.state in (Nud.PERMANENT, Nud.NOARP):
            netns.remark(pkt_id, f"the address known is kept: the entry is {entry.state.name}")

    def _gratuitous(self, packet: ArpPacket) -> bool:
        """``arp_is_garp``."""
        if packet.sip != packet.tip:
            return False
        if packet.operation == ARPOP_REPLY and packet.sha != packet.tha:
            return False
        return bool(self._netns.datapath.address_type(packet.sip) == RouteType.UNICAST)

    def _accepted(self, device: NetDevice, sip: bytes) -> bool:
        """``arp_accept``: 1 takes unsolicited entries, 2 only from the device's own networks."""
        level = self._netns.sysctls.conf_max(device.name, "arp_accept")
        if level == 2:
            return any(not entry.secondary and entry.covers(sip) for entry in device.addresses)
        return level == 1

    def _reply(self, device: NetDevice, request: ArpPacket, pkt_id: int) -> None:
        answer = ArpPacket(ARPOP_REPLY, device.mac, request.tip, request.sha, request.sip)
        self._netns.remark(pkt_id, f"answered: {ip_to_text(request.tip)} is at {mac_to_text(device.mac)}")
        self.send(device, answer, request.sha)

    # ------------------------------------------------------------------------------------------------ whether to answer

    def _ignored(self, device: NetDevice, sip: bytes, tip: bytes) -> bool:
        """``arp_ignore``."""
        level = self._netns.sysctls.conf_max(device.name, "arp_ignore")
        if level == 0:
            return False
        if level == 1:
            return not self._confirmed(device, b"", tip, Scope.HOST)
        if level == 2:
            return not self._confirmed(device, sip, tip, Scope.HOST)
        if level == 3:
            return not self._confirmed(None, b"", tip, Scope.LINK)
        return level == 8

    def _confirmed(self, device: NetDevice | None, sip: bytes, tip: bytes, scope: int) -> bool:
        """``inet_confirm_addr``: the address is configured, here or anywhere, in this scope, in the asker's network."""
        for candidate in [device] if device is not None else list(self._netns.devices):
            for entry in candidate.addresses:
                if entry.address == tip and entry.scope <= scope and (not any(sip) or entry.covers(sip)):
                    return True
        return False

    def _filtered(self, device: NetDevice, sip: bytes, tip: bytes) -> bool:
        """``arp_filter``: only answer on the device that packets to the asker would leave by."""
        if not self._netns.sysctls.conf_or(device.name, "arp_filter"):
            return False
        route_type, ifindex, *_ = self._netns.datapath.route(sip, saddr=tip)
        return not route_type or ifindex != device.ifindex

    def _proxied(self, device: NetDevice, sip: bytes, tip: bytes, out_ifindex: int) -> bool:
        sysctls = self._netns.sysctls
        if out_ifindex == device.ifindex:
            # arp_fwd_pvlan (RFC 3069): answer for others on the same link, but not for the asker itself
            return sysctls.conf_or(device.name, "proxy_arp_pvlan") and sip != tip
        if sysctls.conf_or(device.name, "proxy_arp"):
            return True
        return (device.ifindex, tip) in self.proxies or (0, tip) in self.proxies

    def _proxy_delay(self, device: NetDevice) -> int:
        return self._netns.neighbour_setting(2, device.ifindex, "proxy_delay") * HZ // _USER_HZ

    def _delay_reply(self, device: NetDevice, packet: ArpPacket, pkt_type: int, pkt_id: int) -> DropReason | None:
        """``pneigh_enqueue``: a proxy lets the owner answer first."""
        waiting = self._proxy_queue_lengths.get(device.ifindex, 0)
        if waiting > self._netns.neighbour_setting(2, device.ifindex, "proxy_qlen"):
            return DropReason.NEIGH_QUEUEFULL
        self._proxy_queue_lengths[device.ifindex] = waiting + 1
        delay = self._netns.choices.below(
            f"{self._netns.name}/{device.name}/arp.proxy_delay", self._proxy_delay(device)
        )

        def answer() -> None:
            self._proxy_queue_lengths[device.ifindex] -= 1
            if device.up and self._netns.devices.find(device.ifindex) is device:
                self._process(device, packet, pkt_type, 0, queued=True)

        self._netns.wheel.after(delay, answer)
        self._netns.remark(pkt_id, f"answered later (net.ipv4.neigh.{device.name}.proxy_delay)")
        return None
