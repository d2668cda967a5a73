"""One network namespace: what happens around its engine while packets move.

The engine answers each call with events; :meth:`Netns.process` works them off depth first, in order, as one CPU's
softirq would: frames seen go to the capture, frames sent go onto their wire, and each kind of upcall goes to its one
handler, whose own events are worked off on the spot. What a namespace must not know: who plugged what into its wires,
and what a pod or a Service is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from pktsim._fastpath import Packet
from pktsim.clock import NS_PER_US, Clock
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.arp import Arp
from pktsim.kernel.fragments import Fragments
from pktsim.kernel.icmp import About, Icmp, IcmpType, Unreach
from pktsim.kernel.icmp6 import Icmp6, Icmp6Type, Unreach6, about6
from pktsim.kernel.icmp_limit import IcmpLimits
from pktsim.kernel.ip6 import Ip6
from pktsim.kernel.ip_options import IpOptions
from pktsim.kernel.ndisc import Ndisc
from pktsim.kernel.neighbour import Neighbour, NeighbourTable
from pktsim.kernel.netdev import (
    AF_INET,
    AF_INET6,
    LOOPBACK_IFINDEX,
)
from pktsim.kernel.reject import reject
from pktsim.kernel.routing import Routing
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.timer_wheel import TimerWheel
from pktsim.kernel.vxlan import Vxlan
from pktsim.netfilter.lower import Lowered
from pktsim.netfilter.nft_ruleset import NftRuleset
from pktsim.netfilter.opcodes import DropReason, Hook, RouteType, Upcall
from pktsim.netfilter.opcodes import Event as EventKind
from pktsim.netfilter.ruleset import Ruleset
from pktsim.rng import Choices
from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import (
    IPPROTO_ICMP,
    IPPROTO_IGMP,
    IPPROTO_PIM,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    FrameView,
)

if TYPE_CHECKING:
    from pktsim._fastpath import Event
    from pktsim.kernel.capture import Capture
    from pktsim.kernel.explain import Explainer

#: Frames sent to lo are received after what is already on its way, as a wire's are: both wait in the CPU's backlog.
LOOPBACK_DELAY_NS: Final = 1 * NS_PER_US

#: Refusals of refusals before it is clear that there is no end: a rule makes something else of each, and Linux's stack
#: would run over.
_MOST_REFUSALS: Final = 16

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
        DropReason.CONNTRACK_CLASH,
        DropReason.REJECTED,
    )
)

#: ... and of what a rule has sent another way (``ip_route_me_harder``).
_REROUTE_ERRORS: Final = {
    DropReason.NO_ROUTE: errno.ENETUNREACH,
    DropReason.IP_LOCALNET: errno.EINVAL,
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


class Netns(Routing):
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
        super().__init__(name, clock=clock, choices=choices, wheel=wheel)
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
        self.fragments = Fragments(self)
        self.ip_options = IpOptions(self)
        self.held: list[Held] = []
        #: Told of each engine call and of changed tables, to keep traces; see :mod:`pktsim.kernel.explain`.
        self.explainer: Explainer | None = None
        #: Takes a frame given to a tunnel's device, and its mark, by ifindex.
        self.tunnels: dict[int, Callable[[bytes, int], DropReason | None]] = {}
        #: Takes a UDP packet before the sockets do, by destination port (``encap_rcv``); says why it is dropped, if so.
        self.udp_encapsulations: dict[int, Callable[[bytes, int], DropReason | None]] = {}
        #: See a frame that arrives before the kernel does, as packet sockets and XDP programs do; one that returns
        #: ``True`` has taken it.
        self.ingress_programs: list[Callable[[int, bytes], bool]] = []
        #: Told of packets that went no further: (packet number, reason, ifindex).
        self.drop_listener: Callable[[int, DropReason, int], None] | None = None
        self._id_counters: dict[tuple[bytes, bytes, int], tuple[int, int]] = {}
        #: The packet whose frame a wire has just been given.
        self.leaving = 0
        self._softirq = 0
        self._refusals = 0
        self._send_error = 0
        self._handlers: dict[int, Callable[[Packet, Any, Any, Any], None]] = {
            Upcall.ARP: self._on_arp,
            Upcall.DELIVER: self._on_deliver,
            Upcall.ICMP_ERROR: self._on_icmp_error,
            Upcall.REJECT: self._on_reject,
            Upcall.NEIGHBOUR_MISS: self._on_neighbour_miss,
            Upcall.FRAGMENT: self.fragments.send,
            Upcall.DEFRAGMENT: self.fragments.gather,
            Upcall.VXLAN_XMIT: self._on_vxlan_xmit,
            Upcall.OTHER_L2: self._on_other_l2,
            Upcall.HELD: self._on_held,
            Upcall.FLOOD: self._on_flood,
            Upcall.IP_OPTIONS: self.ip_options.upcall,
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
        self.discard(packet, DropReason.NEIGHBOUR_FAILED)

    def neighbour_discard(self, packet: Packet, reason: DropReason) -> None:
        self.discard(packet, reason)

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

    def discard(self, packet: Packet, reason: DropReason) -> None:
        """What the engine has handed out goes no further."""
        if self.drop_listener is not None:
            self.drop_listener(packet.pkt_id, reason, packet.device_ifindex)
        self.datapath.discard(packet, reason)

    def packet_dropped(self, pkt_id: int, reason: DropReason, ifindex: int = 0, detail: str = "") -> None:
        """A packet that had left the engine for good goes no further; ``detail`` says in a few words what decided."""
        self.datapath.drop_count(reason)
        if self.drop_listener is not None:
            self.drop_listener(pkt_id, reason, ifindex)
        if self.explainer is not None:
            self.explainer.dropped(self, pkt_id, reason, detail)

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
        return 0

    @property
    def in_softirq(self) -> bool:
        """Whether what is sent now is sent by a packet that came, not by a process."""
        return self._softirq > 0

    def send_failed(self, error: int) -> None:
        """The sender of the packet that is on its way gets ``error``."""
        self._send_error = error

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
                    self.packet_dropped(event[1], DropReason.NO_CARRIER, event[2])
                    continue
                if capture is not None:
                    capture.record(self, event[2], "out", event[3], event[1])
                # only devices that something can be plugged into have anything to carry a frame away
                if device is not None and device.carry is not None:
                    self.leaving = event[1]
                    device.carry(event[3])
            elif kind == _UPCALL:
                reason = event[2]
                if reason == Upcall.NEIGHBOUR_USED:
                    self._neighbour_used(event[4], event[5])
                    continue
                handler = self._handlers.get(reason)
                if handler is None:
                    raise UnsupportedFeature(f"packets handed out for {Upcall(reason).name}", place=self.name)
                if self.datapath.continuing:
                    handler(event[3], event[4], event[5], event[6])
                    continue
                # what handlers give back to the engine is bounded together with what it has done already
                self.datapath.continuing = True
                try:
                    handler(event[3], event[4], event[5], event[6])
                finally:
                    self.datapath.continuing = False
            elif self.drop_listener is not None:
                self.drop_listener(event[1], DropReason(event[2]), event[3])

    # ---------------------------------------------------------------------------------------------------------- upcalls

    def _on_arp(self, packet: Packet, ifindex: int, _b: Any, _c: Any) -> None:
        reason = self.arp.receive(ifindex, packet.data, packet.pkt_type, pkt_id=packet.pkt_id)
        if reason is not None:
            self.discard(packet, reason)

    def _on_other_l2(self, packet: Packet, _a: Any, _b: Any, _c: Any) -> None:
        self.discard(packet, DropReason.NO_PROTOCOL)

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
            self.discard(packet, DropReason.NO_CARRIER)
        else:
            reason = tunnel(packet.frame, packet.mark)
            if reason is not None:
                self.discard(packet, reason)

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
            else:
                self.icmp.withheld(about.pkt_id, icmp_type, code, "net.ipv4.route.redirect_load")
            self.process(self.datapath.resume(packet, self.clock.now_ns))
            return
        no_route = icmp_type == IcmpType.DEST_UNREACH and code != Unreach.FRAG_NEEDED
        if no_route and not self.icmp.route_error_allowed(about.packet[12:16]):
            self.icmp.withheld(about.pkt_id, icmp_type, code, "net.ipv4.route.error_cost")
        else:
            self.icmp.error(about, icmp_type, code, info)

    def _on_reject(self, packet: Packet, reject_with: int, hook: int, _c: Any) -> None:
        if self._refusals == _MOST_REFUSALS:
            raise UnsupportedFeature(
                "a refusal that is refused itself, without end", mend="let the reset of a reset pass OUTPUT"
            )
        self._refusals += 1
        try:
            reject(self, packet, reject_with, hook)
        finally:
            self._refusals -= 1
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
        if protocol == IPPROTO_UDP and self.encapsulated(packet, data, header_length):
            return
        # TCP looks at the frame's address as well; for others the route counts, and NAT may have made it a unicast one
        to_many = packet.route_type in (RouteType.BROADCAST, RouteType.MULTICAST) or data[16] >> 4 == 14
        many = broadcast if protocol == IPPROTO_TCP else to_many
        reply_mark = mark if mark and self.sysctls.number("net.ipv4.fwmark_reflect") else 0
        pkt_id = packet.pkt_id
        reason = self.sockets.deliver(data, ifindex=ifindex, broadcast=many, reply_mark=reply_mark, pkt_id=pkt_id)
        if protocol == IPPROTO_ICMP:
            full = reason if reason is DropReason.SOCKET_RCVBUFF else None
            taken = reason is not DropReason.NO_SOCKET
            reason = (
                self.icmp.receive(data, ifindex=ifindex, broadcast=to_many, mark=mark, pkt_id=pkt_id, taken=taken)
                or full
            )
        if reason is None or protocol == IPPROTO_IGMP:
            return
        if protocol == IPPROTO_PIM:
            self.pim(pkt_id)
            return
        if reason is DropReason.NO_SOCKET and protocol not in (IPPROTO_TCP, IPPROTO_ICMP):
            about = replace(About.of(packet), route_type=RouteType.LOCAL, unicast=not broadcast)
            if protocol not in (IPPROTO_UDP, IPPROTO_UDPLITE):
                self.icmp.error(about, IcmpType.DEST_UNREACH, Unreach.PROTOCOL)
            elif not (to_many and protocol == IPPROTO_UDP):
                # a protocol that there is has had its connection taken off (nf_reset_ct)
                self.icmp.error(replace(about, related=None), IcmpType.DEST_UNREACH, Unreach.PORT)
        self.discard(packet, reason)

    def pim(self, pkt_id: int) -> None:
        """``pim_rcv``, ``pim6_rcv``: the kernel has the protocol, and does nothing with it without multicast routes."""
        self.remark(pkt_id, "is taken, and tells this host nothing: it routes no multicasts")

    def encapsulated(self, packet: Packet, data: bytes, offset: int) -> bool:
        """``encap_rcv``: whether a tunnel has taken a UDP packet, whose UDP header is at ``offset`` of ``data``."""
        if not self.udp_encapsulations:
            return False
        taker = self.udp_encapsulations.get(int.from_bytes(data[offset + 2 : offset + 4], "big"))
        if taker is None:
            return False
        reason = taker(data, packet.in_ifindex)
        if reason is not None:
            self.discard(packet, reason)
        return True

    def sockets_icmp_error(self, packet: bytes, ifindex: int, pkt_id: int = 0) -> None:
        """Hand an ICMP error to the sockets."""
        if not self.sockets.icmp_error(packet, ifindex=ifindex):
            self.remark(pkt_id, "tells nobody here anything: no socket of this host has sent what it quotes")

    def remark(self, pkt_id: int, text: str) -> None:
        """Say in the trace what became of a packet that was taken, where nothing else tells."""
        if self.explainer is not None and pkt_id:
            self.explainer.remark(self, pkt_id, text)

    def icmp_unreachable(self, packet: bytes, ifindex: int, code: int) -> None:
        """Answer a packet that no socket wants with a destination unreachable."""
        self.icmp.error(About(packet, ifindex, RouteType.LOCAL, options_read=True), IcmpType.DEST_UNREACH, code)

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

    def options_of_answer(self, header: bytes, saddr: bytes) -> bytes | None:
        """The IPv4 options of an answer from ``saddr`` to a packet with this header; ``None`` if there can be none."""
        echoed = self.ip_options.echo(header)
        return None if echoed is None else echoed.build(saddr)

    def holds_segment(self, seq: int) -> bool:
        """Whether a TCP segment of a local socket waits for a neighbour. NAT and tunnels leave its number as it is."""
        wanted = seq.to_bytes(4, "big")
        waiting = (packet for table in (self.arp_table, self.nd_table) for entry in table for packet, _ in entry.queue)
        return any(_segment_number(packet) == wanted for packet in waiting if not packet.in_ifindex)

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


def _segment_number(packet: Packet) -> bytes:
    """The sequence number of a TCP segment, be it in a tunnel; empty if it is none."""
    at = packet.transport_offset
    if packet.protocol == IPPROTO_TCP:
        return packet.data[at + 4 : at + 8]
    inner = FrameView(packet.data, link=False).inner if packet.protocol == IPPROTO_UDP else None
    return inner.tcp_seq.to_bytes(4, "big") if inner is not None and inner.protocol == IPPROTO_TCP else b""
