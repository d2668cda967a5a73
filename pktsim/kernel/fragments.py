"""Fragments of both families: packets too long for where they go, and pieces that wait for the rest.

Follows net/ipv4/ip_output.c, ip_fragment.c, net/bridge/br_netfilter_hooks.c and net/netfilter of Linux 6.18: how a
packet that was gathered for conntrack is cut again depends on the pieces it came in, and on who read its headers since.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pktsim.clock import NS_PER_US
from pktsim.kernel.defragment import Defragmenter, DefragUser, Reassembled, pulled
from pktsim.kernel.icmp import EXC_FRAGTIME, About, IcmpType, Unreach
from pktsim.kernel.ip import IP_DF, fragment_ipv4
from pktsim.kernel.netdev import AF_INET
from pktsim.netfilter.opcodes import CtInfo, DropReason, Hook, RouteType
from pktsim.wire.frame import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE

if TYPE_CHECKING:
    from pktsim._fastpath import Event, Packet
    from pktsim.kernel.netns import Netns

#: A sending process is interrupted after each frame by everything that the frame sets off; then it sends the next.
PROCESS_GAP_NS: Final = 60 * NS_PER_US

_IPPROTO_SCTP: Final = 132
_TCP_HEADER: Final = 20
_SCTP_HEADER: Final = 12
#: Of a transport header, what must be in one piece before NAT writes in it (nf_nat_l4proto_manip_pkt).
_TRANSLATED: Final = {
    IPPROTO_TCP: _TCP_HEADER,
    _IPPROTO_SCTP: _SCTP_HEADER,
    IPPROTO_UDP: 8,
    IPPROTO_UDPLITE: 8,
    IPPROTO_ICMP: 8,
    IPPROTO_ICMPV6: 8,
}
#: Reassembled packets whose old pieces are remembered; a packet that waits longer than this many others loses them.
_REMEMBERED_PIECES: Final = 1024


class Fragments:
    """The fragments of one network namespace; its methods are handlers of what the engine hands out."""

    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        self.defragmenter = Defragmenter(
            netns.wheel, lambda key: netns.sysctls.number(f"net.ipv4.{key}"), self._expired, netns.discard
        )
        self._pieces: OrderedDict[int, tuple[int, ...]] = OrderedDict()

    def send(self, packet: Packet, ifindex: int, mtu: int, _c: Any) -> None:
        """``ip_fragment``, or ``br_nf_dev_queue_xmit`` for what br_netfilter put together."""
        data = packet.data
        largest = packet.fragment_max
        bridged = packet.bridged and packet.phys_out_ifindex != 0
        if packet.family != AF_INET:
            self._send6(packet, mtu)
            return
        if not bridged:
            df = int.from_bytes(data[6:8], "big") & IP_DF
            if df and (not packet.ignore_df or largest > mtu):
                self.netns.icmp.error(About.of(packet), IcmpType.DEST_UNREACH, Unreach.FRAG_NEEDED, mtu)
                if packet.local:
                    self.netns.send_failed(errno.EMSGSIZE)
                self.netns.discard(packet, DropReason.FRAGMENT_NEEDED)
                return
            if largest:
                mtu = min(mtu, largest)
        in_process = packet.local and not self.netns.in_softirq
        # br_validate_ipv4 clears what was noted of it
        keep_df = packet.fragments_keep_df and not bridged
        pieces = fragment_ipv4(
            data, mtu, payload_sizes=self._old_pieces(packet), keep_df=keep_df,
            options_read=packet.options_read,
        )  # fmt: skip
        self._output(packet, pieces, in_process=in_process)

    def payload_length(self, packet: Packet) -> int:
        """The bytes of what was gathered, without the headers that each of its fragments had; 0 if it was not."""
        return sum(self._pieces.get(packet.pkt_id, ())) if packet.fragment_max else 0

    def _old_pieces(self, packet: Packet) -> tuple[int, ...]:
        """The payload bytes of the fragments it was gathered from; none if they are one piece by now.

        Bytes move to the first where somebody reads a header that it did not have as a whole (``__pskb_pull_tail``).
        """
        sizes = self._pieces.pop(packet.pkt_id, ())
        if not sizes or packet.linear:
            return ()
        read = 0
        received = packet.family == AF_INET and not packet.local and not packet.bridged
        if packet.protocol == IPPROTO_TCP and received:
            wanted = "net.ipv4.ip_early_demux", "net.ipv4.tcp_early_demux"
            read = _TCP_HEADER if all(map(self.netns.sysctls.number, wanted)) else 0
        elif packet.protocol == _IPPROTO_SCTP and not packet.local and packet.ctinfo != CtInfo.UNTRACKED:
            # sctp_error
            read = _SCTP_HEADER if self.netns.sysctls.number("net.netfilter.nf_conntrack_checksum") else 0
        if packet.translated:
            read = _TRANSLATED.get(packet.protocol, 0)
        if read:
            # headers that an IPv6 sender has put before it are among what was gathered
            read += packet.transport_offset - (len(packet.data) - sum(sizes))
        return pulled(sizes, read)

    def _send6(self, packet: Packet, mtu: int) -> None:
        local = packet.local  # a packet that is not cut is gone
        in_process = local and not self.netns.in_softirq
        pieces, error = self.netns.ip6.cut(packet, mtu, self._old_pieces(packet))
        if error:
            if local:
                self.netns.send_failed(error)
            return
        self._output(packet, pieces, in_process=in_process)

    def _output(self, packet: Packet, pieces: list[bytes], *, in_process: bool) -> None:
        """A process sends its fragments one by one; what each sets off happens before the next."""
        events = self.netns.datapath.output(packet, pieces, self.netns.clock.now_ns)
        if not in_process:
            self.netns.process(events)
            return
        groups: list[list[Event]] = []
        for event in events:
            if not groups or groups[-1][-1][1] != event[1]:
                groups.append([])
            groups[-1].append(event)
        for index, group in enumerate(groups):
            if index == 0:
                self.netns.process(group)
            else:
                self.netns.clock.after(index * PROCESS_GAP_NS, partial(self.netns.process, group))

    def gather(self, packet: Packet, hook: int, local: int, _c: Any) -> None:
        if packet.family != AF_INET:
            self._reassembled(packet, self.netns.ip6.defragment(packet, hook), self.netns.ip6.defragmenter.reason)
            return
        if local:
            user = DefragUser.LOCAL_DELIVER
        elif hook == Hook.OUTPUT:
            user = DefragUser.CONNTRACK_OUT
        elif packet.bridged:
            user = DefragUser.CONNTRACK_BRIDGE_IN
        else:
            user = DefragUser.CONNTRACK_IN
        self._reassembled(packet, self.defragmenter.add(packet, user), self.defragmenter.reason)

    def _reassembled(self, packet: Packet, whole: Reassembled | None, reason: DropReason | None) -> None:
        """The last fragment goes on as the whole packet, sent as the first was (inet_frag_reasm_prepare)."""
        if whole is None:
            if reason is not None:
                self.netns.discard(packet, reason)
            return
        if whole.payload_sizes:
            pieces = len(whole.payload_sizes)
            self.netns.remark(packet.pkt_id, f"is the last of {pieces} fragments, and goes on as the whole packet")
        packet.morph(whole.first)
        packet.set_data(whole.data)
        packet.fragment_max = whole.largest
        packet.ignore_df = bool(whole.largest)
        # skb_headroom: what a sender or a router has cut leaves no more than what was in front of its own payload
        packet.linear = packet.linear or whole.cramped
        packet.fragments_keep_df = bool(whole.largest and packet.family == AF_INET and whole.data[6] & 0x40)
        self._pieces[packet.pkt_id] = whole.payload_sizes
        while len(self._pieces) > _REMEMBERED_PIECES:
            self._pieces.popitem(last=False)
        self.netns.process(self.netns.datapath.resume(packet, self.netns.clock.now_ns))

    def _expired(self, packet: Packet, user: DefragUser) -> None:
        """``ip_expire``: conntrack gathers for others too, and only our own senders are told."""
        data = packet.data
        local = self.netns.datapath.address_type(data[16:20]) == RouteType.LOCAL
        if user != DefragUser.LOCAL_DELIVER and not local:
            return
        about = replace(About.of(packet), route_type=RouteType.LOCAL if local else packet.route_type, related=None)
        self.netns.icmp.error(about, IcmpType.TIME_EXCEEDED, EXC_FRAGTIME)
