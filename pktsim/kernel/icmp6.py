"""ICMPv6 (RFC 4443) as Linux answers: net/ipv6/icmp.c of Linux 6.18.

Errors about packets, answers to echo requests, what an arriving error tells, and the rate limits. Neighbour discovery,
whose messages are ICMPv6 too, is :mod:`pktsim.kernel.ndisc`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from pktsim._fastpath import Packet
from pktsim.kernel.addrconf import ANY6, LOOPBACK6, is_link_local, is_multicast6
from pktsim.kernel.exthdr import skip_headers
from pktsim.kernel.icmp import ABOUT_AN_ERROR, NO_WAY_BACK, TO_MANY, WHILE_SENDING, About
from pktsim.kernel.icmp_limit import GLOBAL_LIMIT
from pktsim.kernel.netdev import AF_INET6, LOOPBACK_IFINDEX, NetDevice
from pktsim.kernel.timer_wheel import ms_to_jiffies
from pktsim.kernel.transport import IPV6_HEADER, build_ip
from pktsim.netfilter.opcodes import NO_FILE, DropReason, RouteType
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import IPPROTO_ICMPV6

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns


class Icmp6Type(enum.IntEnum):
    """ICMPv6 types (include/uapi/linux/icmpv6.h, include/net/ndisc.h)."""

    DEST_UNREACH = 1
    PKT_TOOBIG = 2
    TIME_EXCEED = 3
    PARAMPROB = 4
    ECHO_REQUEST = 128
    ECHO_REPLY = 129
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    NEIGHBOUR_SOLICITATION = 135
    NEIGHBOUR_ADVERTISEMENT = 136
    REDIRECT = 137


class Unreach6(enum.IntEnum):
    """Codes of DEST_UNREACH."""

    NOROUTE = 0
    ADM_PROHIBITED = 1
    NOT_NEIGHBOUR = 2
    ADDR_UNREACH = 3
    PORT_UNREACH = 4
    POLICY_FAIL = 5
    REJECT_ROUTE = 6


EXC_HOPLIMIT: Final = 0
EXC_FRAGTIME: Final = 1
#: Codes of PARAMPROB.
HDR_FIELD: Final = 0
UNK_NEXTHDR: Final = 1
UNK_OPTION: Final = 2
HDR_INCOMP: Final = 3

#: Messages from here on inform, those below report errors (RFC 4443 section 2.1).
INFORMATIONAL: Final = 128
IPV6_MIN_MTU: Final = 1280
_ICMP_HEADER: Final = 8
_REFLECT_ECHO: Final = 4  # FLOWLABEL_REFLECT_ICMPV6_ECHO_REPLIES

ND_TYPES: Final = frozenset(range(Icmp6Type.ROUTER_SOLICITATION, Icmp6Type.REDIRECT + 1))


def _quotes_error(packet: bytes) -> bool:
    """``is_ineligible``: errors and what cannot be told from one are not answered."""
    found = skip_headers(packet)
    # ipv6_skip_exthdr stops at the header of a later fragment, so that what it is of is not known
    if found is None or found.protocol != IPPROTO_ICMPV6 or found.fragment_offset:
        return False
    if found.offset >= len(packet):
        return not found.fragment
    return packet[found.offset] < INFORMATIONAL


def _in_ranges(number: int, text: str) -> bool:
    """Whether a bitmap written as ``0-1,3-127`` has a bit."""
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first and int(first) <= number <= int(last if dash else first):
            return True
    return False


class Icmp6:
    """ICMPv6 of one namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        #: The CPU's ICMPv6 socket is in use: what OUTPUT does to a message of ours cannot make another
        #: (icmpv6_xmit_lock).
        self._sending = False

    # ------------------------------------------------------------------------------------------------------ rate limits

    def _limited_type(self, icmp_type: int) -> bool:
        """``icmpv6_mask_allow``, inverted."""
        return _in_ranges(icmp_type, self._netns.sysctls.text("net.ipv6.icmp.ratemask"))

    def _peer_allow(self, destination: bytes, *, local: bool) -> bool:
        """``icmpv6_xrlim_allow`` of a limited message: one per ratelimit and address, six at once."""
        limits = self._netns.icmp_limits
        if not local:
            timeout = ms_to_jiffies(self._netns.sysctls.number("net.ipv6.icmp.ratelimit"))
            if not limits.peer_allow(destination, timeout):
                return False
        limits.global_consume()
        return True

    # ----------------------------------------------------------------------------------------------------------- errors

    def error(self, about: About, icmp_type: int, code: int, info: int = 0) -> bool:
        """``icmp6_send``: tell a packet's sender.

        Args:
            about: The packet; its ``route_type`` does not matter.
            icmp_type: Of the message.
            code: Of the message.
            info: The header's last four bytes: an MTU, or a pointer.

        Returns:
            Whether a message was sent.
        """
        netns = self._netns
        packet = about.packet
        unanswered = partial(netns.icmp.unanswered, about.pkt_id, icmp_type, code)
        if len(packet) < IPV6_HEADER:
            return False
        daddr, asked = packet[8:24], packet[24:40]
        in_device = netns.devices.find(about.in_ifindex)
        saddr = b""
        # __ipv6_chk_addr_and_flags: what is of a link, or of the host alone, has to be of this device
        elsewhere = is_link_local(asked) and not _has(in_device, asked)
        if asked == LOOPBACK6:
            bridged = about.related is not None and about.related.bridged
            elsewhere = bridged if in_device is None else not in_device.loopback
        if netns.is_local(asked) and not elsewhere:
            saddr = asked
        elif netns.datapath.address_type(asked, about.in_ifindex if is_link_local(asked) else 0) == RouteType.ANYCAST:
            saddr = asked  # ipv6_chk_acast_addr_src
        if is_multicast6(asked) or not about.unicast:
            if icmp_type != Icmp6Type.PKT_TOOBIG and (icmp_type, code) != (Icmp6Type.PARAMPROB, UNK_OPTION):
                return unanswered(TO_MANY)
            saddr = b""
        if daddr == ANY6 or is_multicast6(daddr):
            return unanswered("its source is no single host's address")
        if _quotes_error(packet):
            return unanswered(ABOUT_AN_ERROR)
        limited = False
        if self._limited_type(icmp_type) and not (in_device is not None and in_device.loopback):
            if not netns.icmp_limits.global_allow():
                return netns.icmp.withheld(about.pkt_id, icmp_type, code, GLOBAL_LIMIT)
            limited = True
        if self._sending and not about.in_ifindex:
            return unanswered(WHILE_SENDING)
        mark = about.mark if netns.sysctls.number("net.ipv6.fwmark_reflect") else 0
        ifindex = about.in_ifindex if is_link_local(daddr) else 0
        try:
            if not saddr:
                saddr = netns.route_source(daddr, ifindex=ifindex, mark=mark)
            if not saddr and in_device is not None:
                saddr = netns.select_address6(self._iif(about, in_device), daddr)
            route = netns.route_output(daddr, saddr=saddr, ifindex=ifindex, mark=mark)
        except OSError:
            return unanswered(NO_WAY_BACK)
        as_unicast = netns.sysctls.number("net.ipv6.icmp.error_anycast_as_unicast")
        if not as_unicast and netns.datapath.is_anycast(daddr, ifindex):
            return unanswered("its source is an anycast address (net.ipv6.icmp.error_anycast_as_unicast)")
        if limited and not self._peer_allow(daddr, local=route.local):
            return netns.icmp.withheld(about.pkt_id, icmp_type, code, "net.ipv6.icmp.ratelimit")
        message = struct.pack("!BBHI", icmp_type, code, 0, info)
        message += packet[: IPV6_MIN_MTU - IPV6_HEADER - _ICMP_HEADER]
        self.send(route.saddr, daddr, message, out=route.ifindex, ifindex=ifindex, mark=mark, related=about.related)
        return True

    def _iif(self, about: About, in_device: NetDevice) -> NetDevice:
        """``IP6CB(skb)->iif``: to ip6_rcv_core, what br_netfilter has routed came in by where it is to go."""
        packet = about.related
        if packet is None or not packet.bridge_routed:
            return in_device
        return self._netns.devices.find(packet.route_ifindex) or in_device

    def send(
        self,
        saddr: bytes,
        daddr: bytes,
        message: bytes,
        *,
        out: int,
        ifindex: int = 0,
        tclass: int = 0,
        flow_label: int | None = None,
        hop_limit: int = 0,
        mark: int = 0,
        related: Packet | None = None,
        onlink: bool = False,
    ) -> None:
        """``icmpv6_push_pending_frames``: the checksum, an IPv6 header, and off it goes.

        Args:
            saddr: Source address.
            daddr: Destination.
            message: ICMPv6 header and body; its checksum is filled in.
            out: The device it will leave by, whose hop limit counts.
            ifindex: The device it must leave by, if not 0.
            tclass: Traffic class.
            flow_label: As the settings say if ``None``.
            hop_limit: The device's, or 1 for groups, if 0.
            mark: Its mark.
            related: The packet whose connection it belongs to.
            onlink: Past the routes.
        """
        netns = self._netns
        check = transport_checksum(saddr, daddr, IPPROTO_ICMPV6, message)
        message = message[:2] + check.to_bytes(2, "big") + message[4:]
        if flow_label is None:
            kind = int.from_bytes(message[:2], "big")
            flow_label = netns.sockets.flow_label(saddr, daddr, IPPROTO_ICMPV6, kind, 0)
        if not hop_limit:
            hop_limit = 1 if is_multicast6(daddr) else netns.hop_limit(out)
        packet = build_ip(saddr, daddr, IPPROTO_ICMPV6, message, ttl=hop_limit, tos=tclass, flow_label=flow_label)
        outer, self._sending = self._sending, True
        try:
            netns.local_out(packet, mark=mark, ifindex=ifindex, uid=NO_FILE, related=related, onlink=onlink)
        finally:
            self._sending = outer

    # ---------------------------------------------------------------------------------------------------------- receive

    def receive(self, packet: Packet, data: bytes, offset: int, *, taken: bool = True) -> DropReason | None:
        """``icmpv6_rcv``: a packet for us; its ICMPv6 header is at ``offset``, and a socket may have ``taken`` it.

        Returns:
            Why it is dropped, if it is.
        """
        netns = self._netns
        message = data[offset:]
        saddr, daddr = data[8:24], data[24:40]
        if len(message) < _ICMP_HEADER:
            return DropReason.TRANSPORT_HEADER
        if transport_checksum(saddr, daddr, IPPROTO_ICMPV6, message) not in (0, 0xFFFF):
            return DropReason.TRANSPORT_CHECKSUM
        kind = message[0]
        if kind == Icmp6Type.ECHO_REQUEST:
            if netns.sysctls.number("net.ipv6.icmp.echo_ignore_all"):
                self._no_echo(packet, "net.ipv6.icmp.echo_ignore_all is set")
            else:
                self._echo_reply(packet, data, message)
        elif kind == Icmp6Type.ECHO_REPLY:
            return None if taken else DropReason.NO_SOCKET  # ping_rcv
        elif kind in ND_TYPES:
            return netns.ndisc.receive(packet, data, offset)
        elif kind < INFORMATIONAL:
            self._error_received(packet, data, message)
        return None

    def _no_echo(self, packet: Packet, why: str) -> None:
        self._netns.icmp.unanswered(packet.pkt_id, Icmp6Type.ECHO_REPLY, 0, why)

    def _echo_reply(self, packet: Packet, data: bytes, message: bytes) -> None:
        """``icmpv6_echo_reply``: from the address that was asked, unless that is a group."""
        netns = self._netns
        daddr, asked = data[8:24], data[24:40]
        group = is_multicast6(asked)
        if group and netns.sysctls.number("net.ipv6.icmp.echo_ignore_multicast"):
            self._no_echo(packet, "net.ipv6.icmp.echo_ignore_multicast is set")
            return
        anycast = packet.route_type == RouteType.ANYCAST
        if anycast and netns.sysctls.number("net.ipv6.icmp.echo_ignore_anycast"):
            self._no_echo(packet, "net.ipv6.icmp.echo_ignore_anycast is set")
            return
        as_source = netns.sysctls.number("net.ipv6.anycast_src_echo_reply")
        chosen = group or asked == ANY6 or (anycast and not as_source)
        mark = packet.mark if netns.sysctls.number("net.ipv6.fwmark_reflect") else 0
        # ip6_route_output_flags: without a source address the device counts
        ifindex = self._device_of(packet, asked) if chosen or is_link_local(daddr) else 0
        try:
            route = netns.route_output(daddr, saddr=b"" if chosen else asked, ifindex=ifindex, mark=mark)
        except OSError:
            self._no_echo(packet, NO_WAY_BACK)
            return
        in_device = netns.devices.find(packet.in_ifindex)
        limited = self._limited_type(Icmp6Type.ECHO_REPLY) and not (in_device is not None and in_device.loopback)
        if limited and not netns.icmp_limits.global_allow():
            netns.icmp.withheld(packet.pkt_id, Icmp6Type.ECHO_REPLY, 0, GLOBAL_LIMIT)
            return
        if limited and not self._peer_allow(daddr, local=route.local):
            netns.icmp.withheld(packet.pkt_id, Icmp6Type.ECHO_REPLY, 0, "net.ipv6.icmp.ratelimit")
            return
        first = int.from_bytes(data[:4], "big")
        reflect = netns.sysctls.number("net.ipv6.flowlabel_reflect") & _REFLECT_ECHO
        answer = bytes([Icmp6Type.ECHO_REPLY, message[1], 0, 0]) + message[4:]
        self.send(
            route.saddr, daddr, answer, out=route.ifindex, ifindex=ifindex, tclass=first >> 20 & 0xFF, mark=mark,
            flow_label=first & 0xFFFFF or None if reflect else None,
        )  # fmt: skip

    def _device_of(self, packet: Packet, asked: bytes) -> int:
        """``icmp6_iif``: the device that it came in by; by lo, the one that has the address that was asked."""
        if packet.in_ifindex == LOOPBACK_IFINDEX:
            for device in self._netns.devices:
                own = (entry for entry in device.addresses if entry.family == AF_INET6)
                if any(asked in (entry.address, entry.network) for entry in own):
                    return device.ifindex
        return packet.in_ifindex

    def _error_received(self, packet: Packet, data: bytes, message: bytes) -> None:
        """``icmpv6_notify``: tell the socket that the quoted packet came from."""
        netns = self._netns
        if len(message) >= _ICMP_HEADER + IPV6_HEADER:
            netns.sockets_icmp_error(data, packet.in_ifindex, packet.pkt_id)


def about6(packet: Packet) -> About:
    """About a packet that left the engine; what a bridge passes on has come in by no device of the IP layer."""
    about = About.of(packet)
    in_ifindex = 0 if packet.bridged else about.in_ifindex
    unicast = packet.pkt_type == 0 and packet.route_type != RouteType.MULTICAST
    return replace(about, in_ifindex=in_ifindex, unicast=unicast)


def _has(device: object, address: bytes) -> bool:
    addresses = getattr(device, "addresses", ())
    return any(entry.family == AF_INET6 and entry.address == address for entry in addresses)
