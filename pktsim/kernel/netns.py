"""One network namespace: what happens around its engine while packets move.

The engine answers each call with events; :meth:`Netns.process` works them off depth first, in order, as one CPU's
softirq would: frames seen go to the capture, frames sent go onto their wire, and each kind of upcall goes to its one
handler, whose own events are worked off on the spot. What a namespace must not know: who plugged what into its wires,
and what a pod or a Service is.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from pktsim._fastpath import Packet
from pktsim.clock import NS_PER_US, Clock
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.addrconf import LOOPBACK6, is_link_local, is_multicast6, select_source
from pktsim.kernel.arp import Arp
from pktsim.kernel.configuration import Configuration
from pktsim.kernel.defragment import Defragmenter, DefragUser, Reassembled, pulled
from pktsim.kernel.icmp import EXC_FRAGTIME, About, Icmp, IcmpType, Unreach
from pktsim.kernel.icmp6 import IPV6_MIN_MTU, Icmp6, Icmp6Type, Unreach6, about6
from pktsim.kernel.icmp_limit import IcmpLimits
from pktsim.kernel.ip import IP_DF, OutputRoute, fragment_ipv4
from pktsim.kernel.ip6 import Ip6
from pktsim.kernel.ndisc import Ndisc
from pktsim.kernel.neighbour import Neighbour, NeighbourTable
from pktsim.kernel.netdev import (
    AF_INET,
    AF_INET6,
    LOOPBACK_IFINDEX,
    NetDevice,
    Scope,
    family_of,
)
from pktsim.kernel.reject import reject
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.timer_wheel import HZ, TimerWheel
from pktsim.kernel.transport import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE
from pktsim.kernel.vxlan import Vxlan
from pktsim.netfilter.lower import Lowered
from pktsim.netfilter.nft_ruleset import NftRuleset
from pktsim.netfilter.opcodes import CtInfo, DropReason, Hook, RouteType, Upcall
from pktsim.netfilter.opcodes import Event as EventKind
from pktsim.netfilter.ruleset import Ruleset
from pktsim.rng import Choices
from pktsim.wire.addr import ip_from_text, ip_to_text

if TYPE_CHECKING:
    from pktsim._fastpath import Event
    from pktsim.kernel.capture import Capture
    from pktsim.kernel.explain import Explainer

#: Frames sent to lo are received after what is already on its way, as a wire's are: both wait in the CPU's backlog.
LOOPBACK_DELAY_NS: Final = 1 * NS_PER_US
#: A sending process is interrupted after each frame by everything that the frame sets off; then it sends the next.
PROCESS_GAP_NS: Final = 60 * NS_PER_US

_IPPROTO_IGMP: Final = 2
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
#: ``IP_MAX_MTU``, ``IP6_MAX_MTU``: IPv6's length field does not count the header.
_MAX_MTU: Final = {AF_INET: 0xFFFF, AF_INET6: 0xFFFF + 40}
#: Reassembled packets whose old pieces are remembered; a packet that waits longer than this many others loses them.
_REMEMBERED_PIECES: Final = 1024

#: Plain numbers: asked for every event.
_RX, _TX, _UPCALL = int(EventKind.RX), int(EventKind.TX), int(EventKind.UPCALL)

#: What a send reports when netfilter drops the packet on its way out (``nf_hook_slow``).
_REPORTED_AS_EPERM: Final = frozenset(
    (
        DropReason.RULE,
        DropReason.POLICY,
        DropReason.HOTDROP,
        DropReason.NAT,
        DropReason.CONNTRACK_TABLE_FULL,
        DropReason.CONNTRACK_INVALID,
        DropReason.CONNTRACK_CLASH,
    )
)

#: ``-errno`` of routes that refuse (``fib_props``, net/ipv4/fib_semantics.c).
_ROUTE_ERRORS: Final = {
    0: errno.ENETUNREACH,
    RouteType.BLACKHOLE: errno.EINVAL,
    RouteType.UNREACHABLE: errno.EHOSTUNREACH,
    RouteType.PROHIBIT: errno.EACCES,
    RouteType.THROW: errno.ENETUNREACH,
}

#: ... and of what a rule has sent another way (``ip_route_me_harder``).
_REROUTE_ERRORS: Final = {
    DropReason.NO_ROUTE: errno.ENETUNREACH,
    DropReason.ROUTE_BLACKHOLE: errno.EINVAL,
    DropReason.ROUTE_UNREACHABLE: errno.EHOSTUNREACH,
    DropReason.ROUTE_PROHIBIT: errno.EACCES,
}


@dataclass(frozen=True, slots=True)
class Held:
    """A packet held back before a step, to make a race happen."""

    packet: Packet
    hook: Hook
    step: int


@dataclass(frozen=True, slots=True)
class PathMtu:
    """A learnt path MTU (``struct fib_nh_exception``)."""

    mtu: int
    locked: bool
    expires: int  # jiffies


class Netns(Configuration):
    """A network namespace.

    Args:
        name: Unique in its world; used in captures and for the places that choices are asked at.
        clock: The world's time.
        choices: The world's chance.
        wheel: The world's kernel timers; one of its own if not given.
        capture: Where frames are recorded; nowhere if not given.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        choices: Choices,
        wheel: TimerWheel | None = None,
        capture: Capture | None = None,
    ) -> None:
        super().__init__(name, clock=clock, choices=choices)
        self.wheel = TimerWheel(clock) if wheel is None else wheel
        self.capture = capture
        self.datapath.capture = capture is not None
        self.arp_table = NeighbourTable(self, AF_INET)
        self.nd_table = NeighbourTable(self, AF_INET6)
        self.arp = Arp(self)
        self.icmp_limits = IcmpLimits(self)
        self.icmp = Icmp(self)
        self.ndisc = Ndisc(self)
        self.icmp6 = Icmp6(self)
        self.ip6 = Ip6(self)
        self.defragmenter = Defragmenter(
            self.wheel, lambda key: self.sysctls.number(f"net.ipv4.{key}"), self._fragments_expired
        )
        self.held: list[Held] = []
        #: Told of each engine call and of changed tables, to keep traces; see :mod:`pktsim.kernel.explain`.
        self.explainer: Explainer | None = None
        #: Takes a frame given to a tunnel's device, and its mark, by ifindex.
        self.tunnels: dict[int, Callable[[bytes, int], None]] = {}
        #: Takes a UDP packet before the sockets do, by destination port (``encap_rcv``); says whether it did.
        self.udp_encapsulations: dict[int, Callable[[bytes, int], bool]] = {}
        #: See a frame that arrives before the kernel does, as packet sockets and XDP programs do; one that returns
        #: ``True`` has taken it.
        self.ingress_programs: list[Callable[[int, bytes], bool]] = []
        #: Told of packets that went no further: (packet number, reason, ifindex).
        self.drop_listener: Callable[[int, DropReason, int], None] | None = None
        self._pieces: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._path_mtus: dict[bytes, PathMtu] = {}
        self._id_counters: dict[tuple[bytes, bytes, int], tuple[int, int]] = {}
        self._softirq = 0
        self._send_error = 0
        self._handlers: dict[int, Callable[[Packet, Any, Any, Any], None]] = {
            Upcall.ARP: self._on_arp,
            Upcall.DELIVER: self._on_deliver,
            Upcall.ICMP_ERROR: self._on_icmp_error,
            Upcall.REJECT: self._on_reject,
            Upcall.NEIGHBOUR_MISS: self._on_neighbour_miss,
            Upcall.FRAGMENT: self._on_fragment,
            Upcall.DEFRAGMENT: self._on_defragment,
            Upcall.VXLAN_XMIT: self._on_vxlan_xmit,
            Upcall.OTHER_L2: self._on_other_l2,
            Upcall.HELD: self._on_held,
            Upcall.FLOOD: self._on_flood,
        }
        self.vxlan = Vxlan(self)
        self._tcp_settings: dict[str, str] = {}
        self.sockets = SocketLayer(self)
        self.datapath.context.find_socket = lambda *asked: self.sockets.find(*asked)
        self.setting_listeners.append(self._transport_setting)
        self.removal_listeners.append(self._tunnel_removed)
        self._add_loopback()

    def __repr__(self) -> str:
        return f"<Netns {self.name}>"

    def _transport_setting(self, name: str) -> None:
        """A setting that the sockets go by."""
        if name.startswith("net.ipv4.tcp_"):
            self._tcp_settings[name] = self.sysctls.text(name)
            self.sockets.tcp_table.settings = TcpSettings.from_sysctls(self._tcp_settings)
        elif name == "net.ipv4.ip_local_port_range":
            low, high = self.sysctls.numbers(name)
            self.sockets.port_range = (low, high)

    def _tunnel_removed(self, ifindex: int) -> None:
        if self.tunnels.pop(ifindex, None) is not None:
            self.vxlan.removed(ifindex)

    # ---------------------------------------------------------------------------------------- what neighbour tables ask

    def proxy_add(self, address: str, name: str = "") -> None:
        """``ip neigh add proxy ADDRESS [dev NAME]``."""
        ifindex = self.devices.named(name).ifindex if name else 0
        self.arp.proxies.add((ifindex, ip_from_text(address)))

    def neighbour_setting(self, family: int, ifindex: int, key: str) -> int:
        device = self.devices.find(ifindex)
        prefix = "net.ipv4.neigh" if family == AF_INET else "net.ipv6.neigh"
        return self.sysctls.conf(prefix, device.name if device is not None else "default", key)

    def neighbour_place(self, ifindex: int) -> str:
        device = self.devices.find(ifindex)
        return f"{self.name}/{device.name}" if device is not None else self.name

    def neighbour_changed(self, entry: Neighbour) -> None:
        self.datapath.neighbour_set(entry.ifindex, entry.address, entry.mac, entry.engine_class)

    def neighbour_gone(self, entry: Neighbour) -> None:
        self.datapath.neighbour_del(entry.ifindex, entry.address)

    def neighbour_solicit(self, entry: Neighbour, packet: Packet | None, *, unicast: bool) -> None:
        data = packet.data if packet is not None else b""
        if len(entry.address) == 4:
            self.arp.solicit(entry, data, unicast=unicast)
        else:
            self.ndisc.solicit(entry, data, unicast=unicast)

    def neighbour_send(self, packet: Packet) -> None:
        self.process(self.datapath.resume(packet, self.clock.now_ns))

    def neighbour_unreachable(self, packet: Packet) -> None:
        """``ipv4_link_failure``, ``ndisc_error_report``."""
        if packet.family == AF_INET:
            self.icmp.error(About.of(packet), IcmpType.DEST_UNREACH, Unreach.HOST)
        else:
            self.icmp6.error(about6(packet), Icmp6Type.DEST_UNREACH, Unreach6.ADDR_UNREACH)
        self.datapath.discard(packet, DropReason.NEIGHBOUR_FAILED)

    def neighbour_discard(self, packet: Packet) -> None:
        self.datapath.discard(packet, DropReason.NEIGHBOUR_FAILED)

    def confirm_neighbour(self, daddr: bytes) -> None:
        route_type, ifindex, next_hop, *_ = self.datapath.route(daddr)
        if route_type == RouteType.UNICAST:
            self.neighbour_table(next_hop).confirm(ifindex, next_hop)

    # ---------------------------------------------------------------------------------------------------------- packets

    def load_ruleset(self, ruleset: Ruleset, lowered: Sequence[Lowered] | None = None) -> None:
        if self.explainer is not None:
            self.explainer.rules_changed(self)
        super().load_ruleset(ruleset, lowered)
        if self.explainer is not None:
            self.explainer.rules_loaded(self)

    def nft_load(self, ruleset: NftRuleset) -> None:
        if self.explainer is not None:
            self.explainer.rules_changed(self)
        super().nft_load(ruleset)
        if self.explainer is not None:
            self.explainer.rules_loaded(self)

    def hold(self, hook: Hook, step: int, on: bool = True) -> None:
        """Hold packets back before a step of a hook (a ``TableId``, or 8 for confirm); they gather in ``held``."""
        self.datapath.hold_set(hook, step, on)

    def release(self, held: Held) -> None:
        """Let a held packet go on."""
        self.held.remove(held)
        self.process(self.datapath.resume(held.packet, self.clock.now_ns))

    def receive(self, ifindex: int, frame: bytes) -> None:
        """A frame arrives at a device, in softirq."""
        for program in self.ingress_programs:
            if program(ifindex, frame):
                return
        self._softirq += 1
        try:
            self.process(self.datapath.receive(ifindex, frame, self.clock.now_ns))
        finally:
            self._softirq -= 1

    def receive_later(self, ifindex: int, frame: bytes) -> None:
        """A frame that a device of the namespace itself made arrives behind what is on its way already."""
        self.clock.after(LOOPBACK_DELAY_NS, lambda: self.receive(ifindex, frame))

    def transmit(self, ifindex: int, frame: bytes) -> None:
        """Give a device a frame to send, beneath the network layer."""
        self.process(self.datapath.transmit(ifindex, frame, self.clock.now_ns))

    def local_out(
        self,
        packet: bytes,
        *,
        mark: int = 0,
        ifindex: int = 0,
        uid: int = 0,
        gid: int = 0,
        related: Packet | None = None,
        checksum_partial: bool = False,
        onlink: bool = False,
    ) -> int:
        """Send a complete packet of our own. Returns 0 or the errno that the sender gets.

        The arguments are those of :meth:`Datapath.send_local`.
        """
        events = self.datapath.send_local(
            packet,
            self.clock.now_ns,
            mark=mark,
            ifindex=ifindex,
            uid=uid,
            gid=gid,
            related=related,
            checksum_partial=checksum_partial,
            onlink=onlink,
        )
        outer, self._send_error = self._send_error, self._reported(events)
        try:
            self.process(events)
            return self._send_error
        finally:
            self._send_error = outer

    @staticmethod
    def _reported(events: Sequence[Event]) -> int:
        """What the sender is told of a packet that did not get through OUTPUT and POSTROUTING."""
        if not events:
            return 0
        # copies that rules made on the way (TEE) are younger than the packet, and may have come to their end before it
        kind, _, reason, *rest = min(events, key=itemgetter(1))
        # A packet that has reached a device, be it lo, is out of the sender's sight.
        if kind == EventKind.DROP and rest[0] == 0:
            if reason in _REPORTED_AS_EPERM:
                return errno.EPERM
            if reason in _REROUTE_ERRORS:
                return _REROUTE_ERRORS[reason]
        elif kind == EventKind.UPCALL and reason == Upcall.REJECT and rest[2] in (Hook.OUTPUT, Hook.POSTROUTING):
            return errno.EPERM
        return 0

    def process(self, events: Sequence[Event]) -> None:
        """Work off what an engine call led to, depth first and in order."""
        if self.explainer is not None:
            self.explainer.collect(self)
        capture = self.capture
        if capture is not None and not capture.on:
            capture = None
        for event in events:
            kind = event[0]
            if kind == _RX:
                if capture is not None:
                    capture.record(self, event[2], "in", event[3], event[1])
            elif kind == _TX:
                device = self.devices.find(event[2])
                if device is not None and not device.carrier:
                    # dev_deactivate: noop_qdisc, in front of all taps
                    if self.drop_listener is not None:
                        self.drop_listener(event[1], DropReason.NO_CARRIER, event[2])
                    continue
                if capture is not None:
                    capture.record(self, event[2], "out", event[3], event[1])
                # only devices that something can be plugged into have anything to carry a frame away
                if device is not None and device.carry is not None:
                    device.carry(event[3])
            elif kind == _UPCALL:
                reason = event[2]
                if reason == Upcall.NEIGHBOUR_USED:
                    self._neighbour_used(event[4], event[5])
                    continue
                handler = self._handlers.get(reason)
                if handler is None:
                    raise UnsupportedFeature(f"packets handed out for {Upcall(reason).name}", place=self.name)
                handler(event[3], event[4], event[5], event[6])
            elif self.drop_listener is not None:
                self.drop_listener(event[1], DropReason(event[2]), event[3])

    # ---------------------------------------------------------------------------------------------------------- upcalls

    def _on_arp(self, packet: Packet, ifindex: int, _b: Any, _c: Any) -> None:
        self.arp.receive(ifindex, packet.data, packet.pkt_type)

    def _on_other_l2(self, packet: Packet, _a: Any, _b: Any, _c: Any) -> None:
        self.datapath.discard(packet, DropReason.NO_PROTOCOL)

    def _on_held(self, packet: Packet, hook: int, step: int, _c: Any) -> None:
        self.held.append(Held(packet, Hook(hook), step))

    def _on_flood(self, packet: Packet, _a: Any, _b: Any, _c: Any) -> None:
        self.process(self.datapath.resume(packet, self.clock.now_ns))

    def _on_neighbour_miss(self, packet: Packet, ifindex: int, next_hop: bytes, _c: Any) -> None:
        self.neighbour_table(next_hop).resolve(ifindex, next_hop, packet)

    def _neighbour_used(self, ifindex: int, next_hop: bytes) -> None:
        self.neighbour_table(next_hop).used(ifindex, next_hop)

    def _on_vxlan_xmit(self, packet: Packet, ifindex: int, _b: Any, _c: Any) -> None:
        tunnel = self.tunnels.get(ifindex)
        if tunnel is None:
            self.datapath.discard(packet, DropReason.NO_CARRIER)
        else:
            tunnel(packet.frame, packet.mark)

    def _on_icmp_error(self, packet: Packet, icmp_type: int, code: int, info: int) -> None:
        if packet.family != AF_INET:
            if icmp_type == Icmp6Type.REDIRECT:
                self.ndisc.send_redirect(packet)
                self.process(self.datapath.resume(packet, self.clock.now_ns))
            else:
                self.icmp6.error(about6(packet), icmp_type, code, info)
            return
        about = About.of(packet)
        if icmp_type == IcmpType.REDIRECT:
            # the packet itself is forwarded all the same
            if self.icmp.redirect_allowed(about.packet[12:16]):
                self.icmp.error(about, icmp_type, code, int.from_bytes(packet.next_hop, "big"))
            self.process(self.datapath.resume(packet, self.clock.now_ns))
            return
        no_route = icmp_type == IcmpType.DEST_UNREACH and code != Unreach.FRAG_NEEDED
        if not no_route or self.icmp.route_error_allowed(about.packet[12:16]):
            self.icmp.error(about, icmp_type, code, info)

    def _on_reject(self, packet: Packet, reject_with: int, hook: int, _c: Any) -> None:
        reject(self, packet, reject_with, hook)
        self.datapath.release(packet)

    def _on_deliver(self, packet: Packet, protocol: int, _b: Any, _c: Any) -> None:
        """A packet has passed INPUT. What came by lo is taken when what is under way is done (``netif_rx``)."""
        if packet.in_ifindex == LOOPBACK_IFINDEX:
            self.clock.after(LOOPBACK_DELAY_NS, lambda: self._deliver_later(packet, protocol))
        else:
            self._deliver(packet, protocol)

    def _deliver_later(self, packet: Packet, protocol: int) -> None:
        self._softirq += 1
        try:
            self._deliver(packet, protocol)
        finally:
            self._softirq -= 1

    def _deliver(self, packet: Packet, protocol: int) -> None:
        """``ip_protocol_deliver_rcu``."""
        data, ifindex, broadcast, mark = packet.data, packet.in_ifindex, packet.broadcast, packet.mark
        if data[0] >> 4 != 4:
            self.ip6.deliver(packet)
            return
        header_length = (data[0] & 15) * 4
        if protocol == IPPROTO_UDP and self.encapsulated(data, header_length, ifindex):
            return
        # TCP looks at the frame's address as well; for others the route counts, and NAT may have made it a unicast one
        to_many = packet.route_type in (RouteType.BROADCAST, RouteType.MULTICAST) or data[16] >> 4 == 14
        many = broadcast if protocol == IPPROTO_TCP else to_many
        reply_mark = mark if mark and self.sysctls.number("net.ipv4.fwmark_reflect") else 0
        taken = self.sockets.deliver(data, ifindex=ifindex, broadcast=many, reply_mark=reply_mark)
        if protocol == IPPROTO_ICMP:
            self.icmp.receive(data, ifindex=ifindex, broadcast=to_many, mark=mark)
            return
        if taken or protocol in (IPPROTO_TCP, _IPPROTO_IGMP):
            return
        about = replace(About.of(packet), route_type=RouteType.LOCAL, unicast=not broadcast)
        if protocol not in (IPPROTO_UDP, IPPROTO_UDPLITE):
            self.icmp.error(about, IcmpType.DEST_UNREACH, Unreach.PROTOCOL)
        else:
            # a protocol that there is has had its connection taken off (nf_reset_ct)
            self.icmp.error(replace(about, related=None), IcmpType.DEST_UNREACH, Unreach.PORT)
        self.datapath.discard(packet, DropReason.NO_SOCKET)

    def encapsulated(self, data: bytes, offset: int, ifindex: int) -> bool:
        """``encap_rcv``: whether a tunnel has taken a UDP packet, whose UDP header is at ``offset``."""
        if not self.udp_encapsulations:
            return False
        taker = self.udp_encapsulations.get(int.from_bytes(data[offset + 2 : offset + 4], "big"))
        return taker is not None and taker(data, ifindex)

    def sockets_icmp_error(self, packet: bytes, ifindex: int) -> None:
        """Hand an ICMP error to the sockets."""
        self.sockets.icmp_error(packet, ifindex=ifindex)

    def icmp_unreachable(self, packet: bytes, ifindex: int, code: int) -> None:
        """Answer a packet that no socket wants with a destination unreachable."""
        self.icmp.error(About(packet, ifindex, RouteType.LOCAL), IcmpType.DEST_UNREACH, code)

    # -------------------------------------------------------------------------------------------------------- fragments

    def _on_fragment(self, packet: Packet, ifindex: int, mtu: int, _c: Any) -> None:
        """``ip_fragment``, or ``br_nf_dev_queue_xmit`` for what br_netfilter put together."""
        data = packet.data
        largest = packet.fragment_max
        bridged = packet.bridged and packet.phys_out_ifindex != 0
        if bridged:
            mtu = min(mtu, self.devices.get(ifindex).mtu)
        if packet.family != AF_INET:
            self._fragment6(packet, self.devices.get(ifindex).mtu if bridged else mtu)
            return
        if not bridged:
            df = int.from_bytes(data[6:8], "big") & IP_DF
            if df and (not largest or largest > mtu):
                self.icmp.error(About.of(packet), IcmpType.DEST_UNREACH, Unreach.FRAG_NEEDED, mtu)
                if packet.local:
                    self._send_error = errno.EMSGSIZE
                self.datapath.discard(packet, DropReason.FRAGMENT_NEEDED)
                return
            if largest:
                mtu = min(mtu, largest)
        in_process = packet.local and not self._softirq
        pieces = fragment_ipv4(data, mtu, payload_sizes=self._old_pieces(packet), keep_df=packet.fragments_keep_df)
        events = self.datapath.output(packet, pieces, self.clock.now_ns)
        if in_process:
            self._process_spaced(events)
        else:
            self.process(events)

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
            read = _TCP_HEADER if all(map(self.sysctls.number, wanted)) else 0
        elif packet.protocol == _IPPROTO_SCTP and not packet.local and packet.ctinfo != CtInfo.UNTRACKED:
            # sctp_error
            read = _SCTP_HEADER if self.sysctls.number("net.netfilter.nf_conntrack_checksum") else 0
        if packet.translated:
            read = _TRANSLATED.get(packet.protocol, 0)
        if read:
            # headers that an IPv6 sender has put before it are among what was gathered
            read += packet.transport_offset - (len(packet.data) - sum(sizes))
        return pulled(sizes, read)

    def _fragment6(self, packet: Packet, mtu: int) -> None:
        local = packet.local  # a packet that is not cut is gone
        in_process = local and not self._softirq
        pieces, error = self.ip6.cut(packet, mtu, self._old_pieces(packet))
        if error:
            self._send_error = error if local else self._send_error
            return
        events = self.datapath.output(packet, pieces, self.clock.now_ns)
        if in_process:
            self._process_spaced(events)
        else:
            self.process(events)

    def _process_spaced(self, events: Sequence[Event]) -> None:
        """A process sends its fragments one by one; what each sets off happens before the next."""
        groups: list[list[Event]] = []
        for event in events:
            if not groups or groups[-1][-1][1] != event[1]:
                groups.append([])
            groups[-1].append(event)
        for index, group in enumerate(groups):
            if index == 0:
                self.process(group)
            else:
                self.clock.after(index * PROCESS_GAP_NS, lambda group=group: self.process(group))  # type: ignore[misc]

    def _on_defragment(self, packet: Packet, hook: int, local: int, _c: Any) -> None:
        if packet.family != AF_INET:
            self._reassembled(packet, self.ip6.defragment(packet, hook), waits=self.ip6.defragmenter.waits)
            return
        if local:
            user = DefragUser.LOCAL_DELIVER
        elif hook == Hook.OUTPUT:
            user = DefragUser.CONNTRACK_OUT
        elif packet.bridged:
            user = DefragUser.CONNTRACK_BRIDGE_IN
        else:
            user = DefragUser.CONNTRACK_IN
        self._reassembled(packet, self.defragmenter.add(packet, user), waits=self.defragmenter.waits)

    def _reassembled(self, packet: Packet, whole: Reassembled | None, *, waits: bool) -> None:
        """The last fragment goes on as the whole packet."""
        if whole is None:
            if not waits:
                self.datapath.discard(packet, DropReason.FRAGMENT_BAD)
            return
        packet.set_data(whole.data)
        packet.fragment_max = whole.largest
        packet.fragments_keep_df = bool(whole.largest and packet.family == AF_INET and whole.data[6] & 0x40)
        self._pieces[packet.pkt_id] = whole.payload_sizes
        while len(self._pieces) > _REMEMBERED_PIECES:
            self._pieces.popitem(last=False)
        self.process(self.datapath.resume(packet, self.clock.now_ns))

    def _fragments_expired(self, packet: Packet, user: DefragUser) -> None:
        """``ip_expire``: conntrack gathers for others too, and only our own senders are told."""
        data = packet.data
        local = self.datapath.address_type(data[16:20]) == RouteType.LOCAL
        if user != DefragUser.LOCAL_DELIVER and not local:
            self.datapath.discard(packet, DropReason.FRAGMENT_BAD)
            return
        about = replace(About.of(packet), route_type=RouteType.LOCAL if local else packet.route_type, related=None)
        self.icmp.error(about, IcmpType.TIME_EXCEEDED, EXC_FRAGTIME)
        self.datapath.discard(packet, DropReason.FRAGMENT_BAD)

    # ---------------------------------------------------------------------------------------------------------- routing

    def route_output(self, daddr: bytes, *, saddr: bytes = b"", ifindex: int = 0, mark: int = 0) -> OutputRoute:
        """``ip_route_output_key``: the way, and the source address to use.

        Raises:
            OSError: As connect(2) would: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL, ENODEV.
        """
        family = family_of(daddr)
        any_address = bytes(len(daddr))
        if saddr == any_address:
            saddr = b""
        limited = family == AF_INET and daddr == b"\xff\xff\xff\xff"
        multicast = daddr[0] >> 4 == 14 if family == AF_INET else is_multicast6(daddr)
        if saddr and family == AF_INET:
            if saddr[0] >> 4 == 14 or saddr == b"\xff\xff\xff\xff":
                raise OSError(errno.EINVAL, f"{ip_to_text(saddr)} cannot be a source")
            if not ifindex and not self.is_local(saddr):
                raise OSError(errno.EINVAL, f"{ip_to_text(saddr)} is not an address of {self.name}")
            if not ifindex and (multicast or limited):
                ifindex = self._device_with(saddr)
        if family == AF_INET6 and (multicast or is_link_local(daddr)) and not ifindex and saddr:
            ifindex = self._device_with(saddr) if is_link_local(saddr) else 0
        device = self.devices.find(ifindex) if ifindex else None
        if ifindex and device is None:
            raise OSError(errno.ENODEV, f"{self.name} has no interface {ifindex}")
        if device is not None and not device.up:
            raise OSError(errno.ENETUNREACH, f"{device.name} is down")
        if device is not None and family == AF_INET and (multicast or limited):
            saddr = saddr or self.select_address(device, b"", Scope.LINK)
            return OutputRoute(saddr, ifindex, min(device.mtu, _MAX_MTU[family]), False, limited)
        if daddr == any_address:
            daddr = saddr or (b"\x7f\0\0\1" if family == AF_INET else LOOPBACK6)
        route_type, out, _, preferred, mtu = self.datapath.route(daddr, saddr=saddr, ifindex=ifindex, mark=mark)
        if family == AF_INET6 and multicast and device is not None and route_type == 0:
            route_type, out, mtu = RouteType.MULTICAST, ifindex, device.mtu  # ff00::/8 of every device
        if route_type == 0 and device is not None and family == AF_INET:
            # "Apparently, routing tables are wrong. Assume, that the destination is on link."
            saddr = saddr or self.select_address(device, b"", Scope.LINK)
            return OutputRoute(saddr, ifindex, min(device.mtu, _MAX_MTU[family]), False, False)
        error = _ROUTE_ERRORS.get(route_type)
        local = route_type == RouteType.LOCAL
        if error is None and not local and family == AF_INET and saddr[:1] == b"\x7f" and out != LOOPBACK_IFINDEX:
            # __mkroute_output: a loopback address is no source on a link
            error = None if self.sysctls.conf_or(self.devices.get(out).name, "route_localnet") else errno.EINVAL
        if error is not None:
            raise OSError(error, f"{self.name}: no way to {ip_to_text(daddr)}")
        if family == AF_INET6 and not saddr:
            saddr = preferred or self.select_address6(self.devices.find(out), daddr)
            if not saddr:
                raise OSError(errno.EADDRNOTAVAIL, f"{self.name} has no address to write to {ip_to_text(daddr)} from")
        mtu = min(mtu, _MAX_MTU[family])
        if not local:
            mtu = min(mtu, self._path_mtu(daddr) or mtu)
        return OutputRoute(saddr or preferred, out, mtu, local, limited or route_type == RouteType.BROADCAST)

    def route_source(self, daddr: bytes, *, ifindex: int = 0, mark: int = 0) -> bytes:
        """``icmpv6_rt_has_prefsrc``: the source address that the route to ``daddr`` names; empty if it names none."""
        return bytes(self.datapath.route(daddr, ifindex=ifindex, mark=mark)[3])

    def select_address6(self, device: NetDevice | None, destination: bytes) -> bytes:
        """``ipv6_dev_get_saddr``: a source address for what leaves by ``device``; empty if there is none."""
        only = device is not None and bool(self.sysctls.conf("net.ipv6.conf", device.name, "use_oif_addrs_only"))
        return select_source(self.devices, device, destination, only_out=only)

    def hop_limit(self, ifindex: int) -> int:
        """``ip6_dst_hoplimit``: of packets of our own that leave by a device."""
        device = self.devices.find(ifindex)
        return self.sysctls.conf("net.ipv6.conf", device.name if device is not None else "all", "hop_limit")

    def _device_with(self, address: bytes) -> int:
        for device in self.devices:
            if any(entry.address == address for entry in device.addresses):
                return device.ifindex
        return 0

    def is_local(self, address: bytes) -> bool:
        return self.datapath.address_type(address) == RouteType.LOCAL

    def mtu(self, ifindex: int) -> int:
        """A device's MTU."""
        return self.devices.get(ifindex).mtu

    def route_input_type(self, device: NetDevice, sip: bytes, tip: bytes) -> tuple[int, int]:
        """``ip_route_input``: type and device of the route of a packet from ``sip`` to ``tip``.

        Both are 0 where it would be a martian, or has no route.
        """
        if sip[0] >> 4 == 14 or sip == b"\xff\xff\xff\xff" or sip[0] == 0:
            return 0, 0
        localnet = self.sysctls.conf_or(device.name, "route_localnet")
        if (sip[0] == 127 or tip[0] == 127) and not localnet:
            return 0, 0
        route_type, out, *_ = self.datapath.route(tip, saddr=sip, iif=device.ifindex)
        if route_type in (0, *_ROUTE_ERRORS) or not self._source_valid(device, sip):
            return 0, 0
        return route_type, out

    def _source_valid(self, device: NetDevice, sip: bytes) -> bool:
        """``fib_validate_source``."""
        if self.is_local(sip):
            return self.sysctls.conf_or(device.name, "accept_local")
        mode = self.sysctls.conf_max(device.name, "rp_filter")
        if not mode:
            return True
        route_type, out, *_ = self.datapath.route(sip)
        return route_type == RouteType.UNICAST and (mode == 2 or out == device.ifindex)

    def specific_destination(self, destination: bytes, source: bytes, ifindex: int) -> bytes:
        """``fib_compute_spec_dst``: our address in the place of the broadcast address that was asked."""
        if self.is_local(destination):
            return destination
        if source[0]:
            _, _, _, preferred, _ = self.datapath.route(source)
            if preferred:
                return bytes(preferred)
        return self.select_address(self.devices.find(ifindex), source, Scope.UNIVERSE if source[0] else Scope.LINK)

    # --------------------------------------------------------------------------------------------------------- path MTU

    def update_pmtu(self, daddr: bytes, mtu: int, *, mark: int = 0) -> None:
        """``__ip_rt_update_pmtu``: a router said that this much fits towards ``daddr``."""
        if len(daddr) == 4 and self.sysctls.number("net.ipv4.ip_no_pmtu_disc") == 1:
            mtu = 0  # what the message says is not believed, that it came is
        try:
            route = self.route_output(daddr, mark=mark)
        except OSError:
            return
        if route.local or route.mtu < mtu:
            return
        old = self._path_mtus.get(daddr)
        if old is not None and old.locked and self._path_mtu(daddr):
            return
        if len(daddr) == 16:
            # never below what every link must carry (RFC 8201 section 4)
            expires = self.wheel.jiffies + self.sysctls.number("net.ipv6.route.mtu_expires") * HZ
            if IPV6_MIN_MTU <= mtu < route.mtu:
                self._path_learnt(daddr, PathMtu(mtu, False, expires))
            return
        floor = self.sysctls.number("net.ipv4.route.min_pmtu")
        locked = mtu < floor
        if locked:
            mtu = min(route.mtu, floor)
        expires = self.wheel.jiffies + self.sysctls.number("net.ipv4.route.mtu_expires") * HZ
        self._path_learnt(daddr, PathMtu(mtu, locked, expires))

    def _path_learnt(self, daddr: bytes, known: PathMtu) -> None:
        now = self.wheel.jiffies
        self._path_mtus = {address: path for address, path in self._path_mtus.items() if path.expires >= now}
        self._path_mtus[daddr] = known
        self._push_path_mtus()

    def _push_path_mtus(self) -> None:
        self.datapath.path_mtus_set(
            [(address, path.mtu, path.locked, path.expires) for address, path in self._path_mtus.items()]
        )

    def _path_mtu(self, daddr: bytes) -> int:
        """The learnt path MTU, 0 if there is none."""
        known = self._path_mtus.get(daddr)
        if known is None:
            return 0
        if self.wheel.jiffies > known.expires:
            del self._path_mtus[daddr]
            return 0
        return known.mtu

    def path_mtus_flush(self) -> None:
        """Forget learnt path MTUs (``ip route flush cache``)."""
        self._path_mtus.clear()
        self._push_path_mtus()

    def redirected(self, daddr: bytes, gateway: bytes, *, router: bytes, ifindex: int) -> None:
        """``__ip_do_redirect``: not obeyed; hosts here keep the next hop that their routes name."""

    # ------------------------------------------------------------------------------------------------------ the IpStack

    def send_ip(
        self, packet: bytes, *, ifindex: int = 0, mark: int = 0, uid: int = 0, checksum_partial: bool = False
    ) -> None:
        """Send a complete IP packet of a local socket.

        Raises:
            OSError: What the sending call reports: EPERM, EMSGSIZE, ENETUNREACH, EINVAL.
        """
        error = self.local_out(packet, mark=mark, ifindex=ifindex, uid=uid, checksum_partial=checksum_partial)
        if error:
            raise OSError(error, errno.errorcode[error])

    def next_ip_id(self, saddr: bytes, daddr: bytes, protocol: int, segments: int = 1) -> int:
        """``__ip_select_ident``: a counter per addresses and protocol, pushed on by chance as time passes."""
        key = (saddr, daddr, protocol)
        place = f"{self.name}/ip.id"
        now = self.wheel.jiffies
        known = self._id_counters.get(key)
        if known is None:
            counter = self.choices.below(place, 1 << 16)
        else:
            counter, then = known
            counter += self.choices.below(place, now - then) if now > then else 0
        self._id_counters[key] = (counter + segments & 0xFFFF, now)
        return counter & 0xFFFF
