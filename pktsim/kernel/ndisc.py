"""Neighbour discovery (RFC 4861) as Linux speaks it: net/ipv6/ndisc.c of Linux 6.18.

Asking for and answering with link-layer addresses, and redirects. States and timers are those of both families, in
:mod:`pktsim.kernel.neighbour`; addresses are given, so nothing is asked of routers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pktsim._fastpath import Packet
from pktsim.clock import HZ
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.addrconf import (
    ALL_NODES,
    ANY6,
    is_link_local,
    is_multicast6,
    is_solicited_node,
    link_local_address,
    solicited_node,
)
from pktsim.kernel.exthdr import skip_headers
from pktsim.kernel.icmp6 import IPV6_MIN_MTU, Icmp6Type
from pktsim.kernel.neighbour import Neighbour, Nud
from pktsim.kernel.netdev import NetDevice
from pktsim.kernel.transport import IPV6_HEADER
from pktsim.netfilter.opcodes import DropReason, RouteType

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

#: Options (RFC 4861 section 4.6).
SOURCE_LL_ADDR: Final = 1
TARGET_LL_ADDR: Final = 2
REDIRECT_HDR: Final = 4

#: Flags of an advertisement.
ROUTER: Final = 0x80
SOLICITED: Final = 0x40
OVERRIDE: Final = 0x20

_HOP_LIMIT: Final = 255
_MESSAGE: Final = 24  # up to the target address
_REDIRECT_MESSAGE: Final = 40
_USER_HZ: Final = 100
PACKET_HOST: Final = 0


def link_layer_option(kind: int, mac: bytes) -> bytes:
    return bytes([kind, 1]) + mac


def parse_options(data: bytes) -> dict[int, bytes] | None:
    """``ndisc_parse_options``: the first option of each kind without its head; ``None`` if they make no sense."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            return None
        size = data[at + 1] * 8
        if not size or at + size > len(data):
            return None
        found.setdefault(data[at], data[at + 2 : at + size])
        at += size
    return found


def _link_layer(options: dict[int, bytes], kind: int) -> tuple[bool, bytes]:
    """``ndisc_opt_addr_data``: whether the option makes sense, and the address, empty if there is none."""
    value = options.get(kind)
    return (True, b"") if value is None else (len(value) == 6, value)


class Ndisc:
    """Asking and answering for one namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._proxy_queue_lengths: dict[int, int] = {}

    def _conf(self, device: NetDevice, key: str) -> int:
        return self._netns.sysctls.conf("net.ipv6.conf", device.name, key)

    def _send(self, device: NetDevice, saddr: bytes, daddr: bytes, message: bytes) -> None:
        """``ndisc_send_skb``: through OUTPUT and POSTROUTING like any packet, but past the routes."""
        self._netns.icmp6.send(
            saddr,
            daddr,
            message,
            out=device.ifindex,
            ifindex=device.ifindex,
            tclass=self._conf(device, "ndisc_tclass"),
            flow_label=0,
            hop_limit=_HOP_LIMIT,
            onlink=True,
        )

    # ----------------------------------------------------------------------------------------------------------- asking

    def solicit(self, entry: Neighbour, packet: bytes, *, unicast: bool) -> None:
        """``ndisc_solicit``: in the name of the packet that waits, if it is from this device; else of the device.

        Args:
            entry: Whose address is asked for.
            packet: The packet that waits for it, from the network header on; empty if there is none.
            unicast: Ask the known address, to confirm it.
        """
        device = self._netns.devices.find(entry.ifindex)
        if device is None or device.noarp:
            return
        saddr = packet[8:24]
        if not saddr or not any(own.address == saddr for own in device.addresses):
            saddr = link_local_address(device)
        if not saddr:
            return
        message = bytes([Icmp6Type.NEIGHBOUR_SOLICITATION, 0, 0, 0]) + bytes(4) + entry.address
        message += link_layer_option(SOURCE_LL_ADDR, device.mac)
        self._send(device, saddr, entry.address if unicast else solicited_node(entry.address), message)

    def advertise(self, device: NetDevice, daddr: bytes, target: bytes, flags: int, *, with_address: bool) -> None:
        """``ndisc_send_na``."""
        if any(own.address == target for own in device.addresses):
            saddr = target
            with_address = with_address or bool(self._conf(device, "force_tllao"))
        else:
            saddr = self._netns.select_address6(device, daddr)
            if not saddr:
                return
        message = bytes([Icmp6Type.NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]) + target
        if with_address:
            message += link_layer_option(TARGET_LL_ADDR, device.mac)
        self._send(device, saddr, daddr, message)

    # -------------------------------------------------------------------------------------------------------- receiving

    def receive(self, packet: Packet, data: bytes, offset: int) -> DropReason | None:
        """``ndisc_rcv``: a message whose checksum is right, at ``offset`` of the packet. Returns why it is dropped."""
        netns = self._netns
        device = netns.devices.find(packet.in_ifindex)
        skipped = skip_headers(packet.data)
        fragmented = skipped is not None and (skipped.fragment or packet.fragment_max)
        if device is None:
            return DropReason.LINK_DOWN
        if fragmented and self._conf(device, "suppress_frag_ndisc"):
            return DropReason.IPV6_NDISC_FRAG
        message = data[offset:]
        # RFC 4861 section 7.1: it has not been forwarded
        if data[7] != _HOP_LIMIT:
            return DropReason.IPV6_NDISC_HOP_LIMIT
        if message[1] != 0:
            return DropReason.IPV6_NDISC_BAD_CODE
        saddr, daddr = data[8:24], data[24:40]
        kind = message[0]
        if kind == Icmp6Type.NEIGHBOUR_SOLICITATION:
            return self._solicited(device, saddr, daddr, message, packet.pkt_type, queued=False)
        if kind == Icmp6Type.NEIGHBOUR_ADVERTISEMENT:
            return self._advertised(device, saddr, daddr, message)
        if kind == Icmp6Type.ROUTER_SOLICITATION:
            return self._router_solicited(device, saddr, message)
        if kind == Icmp6Type.ROUTER_ADVERTISEMENT:
            accept = self._conf(device, "accept_ra")
            if accept == 2 or (accept and not self._conf(device, "forwarding")):
                raise UnsupportedFeature(
                    "router advertisements", place=f"{netns.name}/{device.name}", mend="set its accept_ra to 0"
                )
            return DropReason.NDISC_IGNORED
        if self._conf(device, "forwarding"):
            return DropReason.NDISC_IGNORED
        if len(message) < _REDIRECT_MESSAGE:
            return DropReason.NDISC_INVALID
        netns.redirected(message[24:40], message[8:24], router=saddr, ifindex=device.ifindex)
        return None

    def _solicited(
        self, device: NetDevice, saddr: bytes, daddr: bytes, message: bytes, pkt_type: int, *, queued: bool
    ) -> DropReason | None:
        """``ndisc_recv_ns``."""
        if len(message) < _MESSAGE or is_multicast6(message[8:24]):
            return DropReason.NDISC_INVALID
        target = message[8:24]
        duplicate_detection = saddr == ANY6
        if duplicate_detection and not is_solicited_node(daddr):
            return DropReason.NDISC_INVALID
        options = parse_options(message[_MESSAGE:])
        if options is None:
            return DropReason.IPV6_NDISC_BAD_OPTIONS
        sensible, mac = _link_layer(options, SOURCE_LL_ADDR)
        if not sensible or (mac and duplicate_detection):
            return DropReason.IPV6_NDISC_BAD_OPTIONS
        to_group = is_multicast6(daddr)
        ours = any(own.address == target for own in device.addresses)
        router = bool(self._conf(device, "forwarding"))
        if not ours:
            anycast = self._netns.datapath.address_type(target, device.ifindex) == RouteType.ANYCAST
            if not anycast and not self._proxied(device, target):
                return DropReason.IPV6_NDISC_NS_OTHERHOST
            if not queued and pkt_type != PACKET_HOST and to_group and self._proxy_delay(device):
                return self._delay(device, saddr, daddr, message, pkt_type)
            # a proxy entry's NTF_ROUTER, which ``ip neigh add proxy`` does not set unless told to
            router = router and anycast
        flags = ROUTER if router else 0
        if duplicate_detection:
            self.advertise(device, ALL_NODES, target, flags | (OVERRIDE if ours else 0), with_address=True)
            return None
        table = self._netns.nd_table
        entry = table.find(device.ifindex, saddr)
        if entry is None and (not to_group or mac):
            entry = table.create(device.ifindex, saddr)
        if entry is None:
            return DropReason.NEIGH_CREATEFAIL
        table.update(entry, mac, Nud.STALE, override=True, weak_override=True)
        flags |= SOLICITED | (OVERRIDE if ours and to_group else 0)
        self.advertise(device, saddr, target, flags, with_address=to_group)
        return None

    def _advertised(self, device: NetDevice, saddr: bytes, daddr: bytes, message: bytes) -> DropReason | None:
        """``ndisc_recv_na``."""
        if len(message) < _MESSAGE or is_multicast6(message[8:24]):
            return DropReason.NDISC_INVALID
        flags, target = message[4], message[8:24]
        solicited = bool(flags & SOLICITED)
        if is_multicast6(daddr) and solicited:
            return DropReason.NDISC_INVALID
        if not solicited and self._conf(device, "drop_unsolicited_na"):
            return DropReason.NDISC_UNSOLICITED
        options = parse_options(message[_MESSAGE:])
        if options is None:
            return DropReason.IPV6_NDISC_BAD_OPTIONS
        sensible, mac = _link_layer(options, TARGET_LL_ADDR)
        if not sensible:
            return DropReason.IPV6_NDISC_BAD_OPTIONS
        if any(own.address == target for own in device.addresses):
            return DropReason.NDISC_UNSOLICITED
        table = self._netns.nd_table
        entry = table.find(device.ifindex, target)
        state = Nud.REACHABLE if solicited else Nud.STALE
        if entry is None and mac and self._conf(device, "forwarding") and self._untracked_accepted(device, saddr):
            # RFC 9131
            entry = table.create(device.ifindex, target)
            state = Nud.STALE
        if entry is None or entry.state == Nud.FAILED:
            return DropReason.NDISC_UNSOLICITED
        if mac == device.mac and self._conf(device, "forwarding") and self._is_proxy(device, target):
            return DropReason.NDISC_IGNORED
        table.update(entry, mac, state, override=bool(flags & OVERRIDE), weak_override=True)
        entry.router = bool(flags & ROUTER)
        return None

    def _untracked_accepted(self, device: NetDevice, saddr: bytes) -> bool:
        """``accept_untracked_na``: 1 always, 2 from addresses of the device's own networks."""
        level = self._conf(device, "accept_untracked_na")
        return level == 1 or (level == 2 and any(own.covers(saddr) for own in device.addresses))

    def _router_solicited(self, device: NetDevice, saddr: bytes, message: bytes) -> DropReason | None:
        """``ndisc_recv_rs``: a router learns who asks; the answer is a daemon's."""
        if not self._conf(device, "forwarding") or saddr == ANY6:
            return DropReason.NDISC_IGNORED
        options = parse_options(message[8:])
        if options is None:
            return DropReason.IPV6_NDISC_BAD_OPTIONS
        sensible, mac = _link_layer(options, SOURCE_LL_ADDR)
        table = self._netns.nd_table
        entry = table.find(device.ifindex, saddr) or table.create(device.ifindex, saddr)
        if sensible and entry is not None:
            table.update(entry, mac, Nud.STALE, override=True, weak_override=True)
        return None

    # --------------------------------------------------------------------------------------------- answering for others

    def _is_proxy(self, device: NetDevice, target: bytes) -> bool:
        proxies = self._netns.arp.proxies
        return (device.ifindex, target) in proxies or (0, target) in proxies

    def _proxied(self, device: NetDevice, target: bytes) -> bool:
        settings = self._netns.sysctls
        switched_on = settings.conf("net.ipv6.conf", "all", "proxy_ndp") or self._conf(device, "proxy_ndp")
        return bool(self._conf(device, "forwarding") and switched_on and self._is_proxy(device, target))

    def _proxy_delay(self, device: NetDevice) -> int:
        return self._netns.neighbour_setting(10, device.ifindex, "proxy_delay") * HZ // _USER_HZ

    def _delay(self, device: NetDevice, saddr: bytes, daddr: bytes, message: bytes, pkt_type: int) -> DropReason | None:
        """``pneigh_enqueue``: a proxy lets the owner answer first."""
        netns = self._netns
        waiting = self._proxy_queue_lengths.get(device.ifindex, 0)
        if waiting > netns.neighbour_setting(10, device.ifindex, "proxy_qlen"):
            return DropReason.NEIGH_QUEUEFULL
        self._proxy_queue_lengths[device.ifindex] = waiting + 1
        delay = netns.choices.below(f"{netns.name}/{device.name}/ndisc.proxy_delay", self._proxy_delay(device))

        def answer() -> None:
            self._proxy_queue_lengths[device.ifindex] -= 1
            if device.up and netns.devices.find(device.ifindex) is device:
                self._solicited(device, saddr, daddr, message, pkt_type, queued=True)

        netns.wheel.after(delay, answer)
        return None

    # -------------------------------------------------------------------------------------------------------- redirects

    def send_redirect(self, packet: Packet) -> None:
        """``ip6_forward`` and ``ndisc_send_redirect``: tell the sender of a shorter way, once a second."""
        netns = self._netns
        data = packet.data
        source, destination = data[8:24], data[24:40]
        target = packet.next_hop
        device = netns.devices.find(packet.in_ifindex)
        unanswered = partial(netns.icmp.unanswered, packet.pkt_id, Icmp6Type.REDIRECT, 0)
        if device is None or not netns.icmp_limits.peer_allow(destination, HZ):
            unanswered("the rate limit withholds it (one a second for a destination)")
            return
        saddr = link_local_address(device)
        if not saddr:
            unanswered(f"{device.name} has no link-local address")
            return
        if target != destination and not is_link_local(target):
            unanswered("the next hop's address is not link-local")
            return
        route_type, out, next_hop, *_ = netns.datapath.route(source, saddr=saddr, ifindex=device.ifindex)
        if route_type != RouteType.UNICAST or out != device.ifindex or next_hop != source:
            unanswered("its source is no neighbour there")
            return
        if not netns.icmp_limits.peer_allow(source, HZ):
            unanswered("the rate limit withholds it (one a second for a sender)")
            return
        message = bytes([Icmp6Type.REDIRECT, 0, 0, 0]) + bytes(4) + target + destination
        entry = netns.nd_table.find(packet.route_ifindex, target)
        if entry is not None and entry.valid:
            message += link_layer_option(TARGET_LL_ADDR, entry.mac)
        room = min(IPV6_MIN_MTU - IPV6_HEADER - len(message), len(data) + 8) & ~7
        message += bytes([REDIRECT_HDR, room >> 3]) + bytes(6) + data[: room - 8]
        self._send(device, saddr, source, message)
