"""The IPv6 layer around the engine: delivery past extension headers, cutting and gathering fragments.

Source: net/ipv6/ip6_input.c, exthdrs.c, ip6_output.c, reassembly.c of Linux 6.18.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pktsim._fastpath import Packet
from pktsim.kernel.addrconf import is_multicast6
from pktsim.kernel.defragment import DefragUser, Reassembled
from pktsim.kernel.defragment6 import Defragmenter6, ParameterProblem
from pktsim.kernel.exthdr import FRAGMENT_HEADER, OptionProblem, check_options, fragment_point, number_before
from pktsim.kernel.icmp6 import (
    EXC_FRAGTIME,
    HDR_FIELD,
    IPV6_MIN_MTU,
    UNK_NEXTHDR,
    UNK_OPTION,
    Icmp6Type,
    Unreach6,
    about6,
)
from pktsim.kernel.transport import IPV6_HEADER
from pktsim.netfilter.opcodes import DropReason, Hook, RouteType
from pktsim.wire.frame import (
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_ICMPV6,
    IPPROTO_NONE,
    IPPROTO_PIM,
    IPPROTO_ROUTING,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    ipv6_extension_size,
)

if TYPE_CHECKING:
    from pktsim.kernel.icmp import About
    from pktsim.kernel.netns import Netns

_CHECKSUM_BREAK: Final = 76
#: Types of routing headers that a host drops unless it was told to look at them (RPL, SRv6: ``seg6_enabled``).
_ROUTED_BY_SEGMENTS: Final = frozenset((3, 4))


def fragment_ipv6(
    packet: bytes, mtu: int, ident: int, *, payload_sizes: Sequence[int] = (), local: bool
) -> list[bytes]:
    """Cut an IPv6 packet into fragments (``ip6_fragment``).

    Args:
        packet: The packet.
        mtu: Largest fragment, headers included.
        ident: Identification of the fragments.
        payload_sizes: Payload bytes of the fragments that it was made of: if they all fit, it is cut there again.
        local: A socket sent it, and has laid its data out in pieces for this already (``__ip6_append_data``): all of
            them but the last are of the same size, a multiple of eight.

    Returns:
        The fragments in order.
    """
    at, where = fragment_point(packet)
    protocol = packet[where]
    payload = packet[at:]
    room = mtu - at - FRAGMENT_HEADER
    step = room & ~7
    pieces: list[bytes] = []
    start = 0
    more = len(payload) - sum(payload_sizes)  # headers before the fragment header then that are behind it now
    if payload_sizes and more > 0:
        payload_sizes = (payload_sizes[0] + more, *payload_sizes[1:])
    old_pieces_fit = (
        more >= 0  # else the later pieces have no room in front of them for all headers
        and all(size <= room for size in payload_sizes)
        and all(size % 8 == 0 for size in payload_sizes[:-1])
    )
    if payload_sizes and old_pieces_fit:
        for size in payload_sizes:
            pieces.append(payload[start : start + size])
            start += size
    else:
        while start < len(payload):
            left = len(payload) - start
            # a router's last piece takes all the room there is
            size = left if left <= (step if local else room) else step
            pieces.append(payload[start : start + size])
            start += size
    header = bytearray(packet[:at])
    header[where] = IPPROTO_FRAGMENT
    fragments = []
    start = 0
    for index, piece in enumerate(pieces):
        header[4:6] = (at - IPV6_HEADER + FRAGMENT_HEADER + len(piece)).to_bytes(2, "big")
        offset = start | (index < len(pieces) - 1)
        fragments.append(
            bytes(header) + bytes([protocol, 0]) + offset.to_bytes(2, "big") + ident.to_bytes(4, "big") + piece
        )
        start += len(piece)
    return fragments


class Ip6:
    """The IPv6 layer of one namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self.defragmenter = Defragmenter6(netns.wheel, self._setting, self._expired, netns.discard)

    def _setting(self, key: str) -> int:
        family = "net.netfilter" if key.startswith("nf_") else "net.ipv6"
        return self._netns.sysctls.number(f"{family}.{key}")

    # --------------------------------------------------------------------------------------------------------- delivery

    def deliver(self, packet: Packet) -> None:
        """``ip6_protocol_deliver_rcu``: a packet has passed INPUT; step over its extension headers."""
        data = packet.data
        protocol, at, where = data[6], IPV6_HEADER, 6
        about = about6(packet)
        payload = self._netns.fragments.payload_length(packet)
        if payload:
            # nf_ct_frag6_gather leaves the transport header where the fragment header was, and ip6_protocol_deliver_rcu
            # takes what there is there for the first header that has not been looked at
            at = len(data) - payload
            where = IPV6_HEADER if protocol == IPPROTO_HOPOPTS and at > IPV6_HEADER else 6
            protocol = data[where]
        pointer = where  # the same place in the packet as it is quoted
        while True:
            # those that its fragments held have not been looked at
            first_options = protocol == IPPROTO_HOPOPTS and at == IPV6_HEADER and not payload
            if protocol in (IPPROTO_DSTOPTS, IPPROTO_ROUTING) or first_options:
                whole_header = at + 8 <= len(data) and at + ipv6_extension_size(protocol, data[at + 1]) <= len(data)
                if not whole_header or not self._options_fine(about, data, protocol, at):
                    self._netns.discard(packet, DropReason.IP_HEADER)
                    return
                protocol, where, at = data[at], at, at + ipv6_extension_size(protocol, data[at + 1])
                pointer = where + len(about.packet) - len(data)
            elif protocol == IPPROTO_FRAGMENT:
                if at + FRAGMENT_HEADER > len(data):
                    self._netns.icmp6.error(about, Icmp6Type.PARAMPROB, HDR_FIELD, at)
                    self._netns.discard(packet, DropReason.IP_HEADER)
                    return
                if not int.from_bytes(data[at + 2 : at + 4], "big") & 0xFFF9:
                    # an atomic fragment (RFC 6946) is whole
                    data = self._without(data, at, where)
                    protocol, pointer = data[where], at
                    continue
                whole = self._gather(packet, about)
                if whole is None:
                    return
                data = whole.data
                at = len(data) - sum(whole.payload_sizes)
                where = number_before(data, at)
                protocol, pointer = data[where], where
                about = replace(about6(packet), packet=data)
            else:
                break
        self._deliver(packet, about, data, protocol, at, pointer)

    @staticmethod
    def _without(data: bytes, at: int, where: int) -> bytes:
        header = bytearray(data[:at])
        header[where] = data[at]
        header[4:6] = (int.from_bytes(data[4:6], "big") - FRAGMENT_HEADER).to_bytes(2, "big")
        return bytes(header) + data[at + FRAGMENT_HEADER :]

    def _options_fine(self, about: About, data: bytes, protocol: int, at: int) -> bool:
        """``ipv6_parse_hopopts``, ``ipv6_destopt_rcv``, ``ipv6_rthdr_rcv``."""
        icmp6 = self._netns.icmp6
        if protocol == IPPROTO_ROUTING:
            if is_multicast6(data[24:40]) or not about.unicast or data[at + 2] in _ROUTED_BY_SEGMENTS:
                return False
            if data[at + 3]:  # segments left: no kind of source route is followed
                icmp6.error(about, Icmp6Type.PARAMPROB, HDR_FIELD, at + 2)
                return False
            return True
        if protocol == IPPROTO_HOPOPTS:
            return True  # looked at when it came in
        try:
            check_options(data, at)
        except OptionProblem as problem:
            if problem.pointer and (problem.also_groups or not is_multicast6(data[24:40])):
                icmp6.error(about, Icmp6Type.PARAMPROB, UNK_OPTION, problem.pointer)
            return False
        return True

    def _gather(self, packet: Packet, about: About) -> Reassembled | None:
        """``ipv6_frag_rcv``."""
        try:
            whole = self.defragmenter.add(packet, DefragUser.LOCAL_DELIVER)
        except ParameterProblem as problem:
            self._netns.icmp6.error(about, Icmp6Type.PARAMPROB, problem.code, problem.pointer)
            whole = None
        if whole is None and self.defragmenter.reason is not None:
            self._netns.discard(packet, self.defragmenter.reason)
        elif whole is not None:
            packet.morph(whole.first)
        return whole

    def _deliver(self, packet: Packet, about: About, data: bytes, protocol: int, at: int, pointer: int) -> None:
        netns = self._netns
        if protocol == IPPROTO_HOPOPTS:
            # only the first header may be one: to the host it is a protocol that nobody knows
            netns.icmp6.error(about, Icmp6Type.PARAMPROB, UNK_NEXTHDR, pointer)
            netns.discard(packet, DropReason.NO_SOCKET)
            return
        if protocol == IPPROTO_UDP and netns.encapsulated(packet, data, at):
            return
        if protocol == IPPROTO_UDP and packet.checksum_stale and len(data) - at > _CHECKSUM_BREAK:
            # udp6_csum_init: "If SW calculated the value, we know it's bad", though only hop limit or TOS was changed;
            # what is short is summed up once more
            data = data[: at + 6] + bytes((data[at + 6] ^ 0xFF,)) + data[at + 7 :]
        # tcp_v6_conn_request and tcp_v6_send_reset answer what was sent to one host alone
        to_many = packet.broadcast or packet.route_type == RouteType.ANYCAST
        many = to_many if protocol == IPPROTO_TCP else is_multicast6(data[24:40])
        mark = packet.mark
        reply_mark = mark if mark and netns.sysctls.number("net.ipv6.fwmark_reflect") else 0
        reason = netns.sockets.deliver(
            data, ifindex=packet.in_ifindex, broadcast=many, reply_mark=reply_mark, pkt_id=packet.pkt_id
        )
        if protocol == IPPROTO_ICMPV6:
            full = reason if reason is DropReason.SOCKET_RCVBUFF else None
            reason = netns.icmp6.receive(packet, data, at, taken=reason is not DropReason.NO_SOCKET) or full
        if reason is None:
            return
        if protocol == IPPROTO_PIM:
            netns.pim(packet.pkt_id)
            return
        if reason is DropReason.NO_SOCKET and protocol not in (IPPROTO_TCP, IPPROTO_ICMPV6, IPPROTO_NONE):
            if protocol not in (IPPROTO_UDP, IPPROTO_UDPLITE):
                netns.icmp6.error(about, Icmp6Type.PARAMPROB, UNK_NEXTHDR, pointer)
            elif not (many and protocol == IPPROTO_UDP):
                # a protocol that there is has had its connection taken off (nf_reset_ct)
                netns.icmp6.error(replace(about, related=None), Icmp6Type.DEST_UNREACH, Unreach6.PORT_UNREACH)
        netns.discard(packet, reason)

    # -------------------------------------------------------------------------------------------------------- fragments

    def defragment(self, packet: Packet, hook: int) -> Reassembled | None:
        """``ipv6_defrag``: for connection tracking."""
        if hook == Hook.OUTPUT:
            user = DefragUser.CONNTRACK_OUT
        else:
            user = DefragUser.CONNTRACK_BRIDGE_IN if packet.bridged else DefragUser.CONNTRACK_IN
        return self.defragmenter.add(packet, user)

    def _expired(self, packet: Packet, user: DefragUser) -> None:
        """``ip6frag_expire_frag_queue``: who sent the first fragment is told, whoever gathered."""
        del user
        self._netns.icmp6.error(replace(about6(packet), related=None), Icmp6Type.TIME_EXCEED, EXC_FRAGTIME)

    def cut(self, packet: Packet, mtu: int, payload_sizes: Sequence[int]) -> tuple[list[bytes], int]:
        """``ip6_fragment``: the fragments, or none and the errno that the sender gets.

        Only what a local socket sent, or what connection tracking has gathered, is cut; routers say what would fit.
        """
        data = packet.data
        largest = packet.fragment_max
        too_big = len(data) > mtu and not packet.ignore_df and not packet.local
        if largest:
            too_big = largest > mtu
            mtu = max(largest, IPV6_MIN_MTU) if not too_big else mtu
        at, _ = fragment_point(data)
        if payload_sizes and at > len(data) - sum(payload_sizes) + payload_sizes[0]:
            # ip6_find_1stfragopt looks no further than the first piece for the headers that each fragment needs
            self._netns.discard(packet, DropReason.FRAGMENT_BAD)
            return [], errno.EINVAL
        if too_big or mtu < at + FRAGMENT_HEADER + 8:
            self._netns.icmp6.error(about6(packet), Icmp6Type.PKT_TOOBIG, 0, mtu)
            self._netns.discard(packet, DropReason.FRAGMENT_NEEDED)
            return [], errno.EMSGSIZE
        ident = self._netns.choices.below(f"{self._netns.name}/ip6.frag_id", 0xFFFFFFFF) + 1
        local = packet.local and not largest
        return fragment_ipv6(data, mtu, ident, payload_sizes=payload_sizes, local=local), 0
