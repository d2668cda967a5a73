"""ICMP (RFC 792, RFC 1122 section 3.2.2) as Linux answers: net/ipv4/icmp.c of Linux 6.18.

Errors about packets, answers to echo and timestamp requests, what an arriving error tells, and the rate limits, all
on the simulated clock.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from pktsim._fastpath import Packet
from pktsim.clock import HZ, NS_PER_MS
from pktsim.kernel.checksum_partial import with_partial_checksum
from pktsim.kernel.icmp_limit import GLOBAL_LIMIT
from pktsim.kernel.ip import IP_OFFSET_MASK
from pktsim.kernel.netdev import Scope
from pktsim.kernel.timer_wheel import ms_to_jiffies
from pktsim.kernel.transport import build_ip
from pktsim.netfilter.opcodes import NO_FILE, DropReason, RouteType
from pktsim.wire.checksum import checksum
from pktsim.wire.frame import IPPROTO_ICMP, IPPROTO_TCP

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns


class IcmpType(enum.IntEnum):
    """ICMP types (include/uapi/linux/icmp.h)."""

    ECHOREPLY = 0
    DEST_UNREACH = 3
    SOURCE_QUENCH = 4
    REDIRECT = 5
    ECHO = 8
    TIME_EXCEEDED = 11
    PARAMETERPROB = 12
    TIMESTAMP = 13
    TIMESTAMPREPLY = 14
    INFO_REQUEST = 15
    INFO_REPLY = 16
    ADDRESS = 17
    ADDRESSREPLY = 18


NR_ICMP_TYPES: Final = 18
NR_ICMP_UNREACH: Final = 15


class Unreach(enum.IntEnum):
    """Codes of DEST_UNREACH."""

    NET = 0
    HOST = 1
    PROTOCOL = 2
    PORT = 3
    FRAG_NEEDED = 4
    NET_ANO = 9
    HOST_ANO = 10
    PKT_FILTERED = 13


EXC_TTL: Final = 0
EXC_FRAGTIME: Final = 1

#: ``icmp_pointers[type].error``: messages that quote a packet.
ERROR_TYPES: Final = frozenset(
    (
        IcmpType.DEST_UNREACH,
        IcmpType.SOURCE_QUENCH,
        IcmpType.REDIRECT,
        IcmpType.TIME_EXCEEDED,
        IcmpType.PARAMETERPROB,
    )
)

_WITHOUT_OPTIONS: Final = b"\x45"
#: About these no error is sent: errors, and types that nothing has, or had in IPv4, which count as such.
_NEVER_ANSWERED: Final = ERROR_TYPES | {1, 2, 6, 7, 9, 10}
#: RFC 1812 section 4.3.2.3: as much as fits 576 bytes in all.
_ERROR_MAX: Final = 576
_IP_HEADER: Final = 20
_ICMP_HEADER: Final = 8
#: ``RT_TOS`` and ``IPTOS_PREC_INTERNETCONTROL``.
_TOS_MASK: Final = 0x1E
_PREC_INTERNETCONTROL: Final = 0xC0
#: RFC 7600 section 4.8: what a router without any IPv4 address calls itself.
_INADDR_DUMMY: Final = b"\xc0\x00\x00\x08"

_ROUTE_ERROR_COST: Final = HZ  # ip_rt_error_cost
_ROUTE_ERROR_BURST: Final = 5 * HZ  # ip_rt_error_burst
_REDIRECT_LOAD: Final = HZ // 50  # ip_rt_redirect_load
REDIRECT_NUMBER: Final = 9  # ip_rt_redirect_number
_REDIRECT_SILENCE: Final = _REDIRECT_LOAD << (REDIRECT_NUMBER + 1)  # ip_rt_redirect_silence

PACKET_HOST: Final = 0

#: Why a packet is not answered, as the trace says it.
TO_MANY: Final = "it was sent to many"
ABOUT_AN_ERROR: Final = "no error is sent about an error"
WHILE_SENDING: Final = "it is met while another message of the kind is being sent"
NO_WAY_BACK: Final = "there is no way to its sender"


@dataclass(frozen=True, slots=True)
class About:
    """What must be known of a packet to send an error about it.

    Attributes:
        packet: From its IP header on.
        in_ifindex: Where it came in, 0 if it is our own.
        route_type: ``RouteType`` of its route, 0 if it has none.
        unicast: Neither a link-layer nor a network broadcast.
        mark: Its mark.
        related: The packet in the engine, whose connection the error belongs to.
        pkt_id: Its number there, 0 if it has none.
        options_read: The stack has looked at its IPv4 options, so that the answer gets them too.
        input_route: Its route is one for what comes in (``rt_is_input_route``): not before routing, nor on a bridge.
    """

    packet: bytes
    in_ifindex: int = 0
    route_type: int = 0
    unicast: bool = True
    mark: int = 0
    related: Packet | None = None
    pkt_id: int = 0
    options_read: bool = False
    input_route: bool = True

    @classmethod
    def of(cls, packet: Packet, data: bytes | None = None) -> About:
        """About a packet that left the engine."""
        unicast = packet.pkt_type == PACKET_HOST and packet.route_type not in (RouteType.BROADCAST, RouteType.MULTICAST)
        if data is None:
            data = packet.data
        if packet.checksum_partial:
            data = with_partial_checksum(data)
        return cls(
            data,
            packet.in_ifindex,
            packet.route_type,
            unicast,
            packet.mark,
            packet,
            packet.pkt_id,
            packet.options_read,
            not packet.bridged,
        )


class Icmp:
    """ICMP of one namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._redirected: set[bytes] = set()
        #: How many redirects there were.
        self.redirects_sent = 0
        #: How many redirects a host that has not been sent any yet was sent before the simulation began, until so long
        #: ago that the next one may be sent.
        self.redirects_before = 0
        #: The CPU's ICMP socket is in use: what OUTPUT does to a message of ours cannot make another (icmp_xmit_lock).
        self._sending = False
        self._global_credit = 0
        self._global_stamp = -HZ

    # ------------------------------------------------------------------------------------------------------ rate limits

    def _limited_type(self, icmp_type: int, code: int) -> bool:
        """``icmpv4_mask_allow``, inverted."""
        if icmp_type > NR_ICMP_TYPES or (icmp_type == IcmpType.DEST_UNREACH and code == Unreach.FRAG_NEEDED):
            return False
        return bool(self._netns.sysctls.number("net.ipv4.icmp_ratemask") & 1 << icmp_type)

    def unanswered(self, pkt_id: int, icmp_type: int, code: int, why: str) -> bool:
        """Say why a packet is not answered with a message. Returns False: that none was sent."""
        if self._netns.explainer is not None and pkt_id:
            self._netns.explainer.unanswered(self._netns, pkt_id, f"ICMP type {icmp_type} code {code}", why)
        return False

    def withheld(self, pkt_id: int, icmp_type: int, code: int, setting: str) -> bool:
        """Say that there were too many messages for this one, by which setting. Returns False: that none was sent."""
        return self.unanswered(pkt_id, icmp_type, code, f"the rate limit withholds it ({setting})")

    def _peer_allow(self, destination: bytes, *, loopback: bool) -> bool:
        """``icmpv4_xrlim_allow`` of a limited message: one per icmp_ratelimit and address, six at once."""
        limits = self._netns.icmp_limits
        if not loopback:
            timeout = ms_to_jiffies(self._netns.sysctls.number("net.ipv4.icmp_ratelimit"))
            if not limits.peer_allow(destination, timeout):
                return False
        limits.global_consume()
        return True

    def route_error_allowed(self, source: bytes) -> bool:
        """``ip_error``: errors about packets that have no route have a limit of their own, which no setting lifts."""
        peer = self._netns.icmp_limits.peer(source)
        now = self._netns.wheel.jiffies
        peer.rate_tokens = min(peer.rate_tokens + now - peer.rate_last, _ROUTE_ERROR_BURST)
        peer.rate_last = now
        if peer.rate_tokens < _ROUTE_ERROR_COST:
            return False
        peer.rate_tokens -= _ROUTE_ERROR_COST
        return True

    def redirect_allowed(self, source: bytes) -> bool:
        """``ip_rt_send_redirect``: ever more seldom to those who do not listen, and not at all after nine."""
        peer = self._netns.icmp_limits.peer(source)
        now = self._netns.wheel.jiffies
        if source not in self._redirected:
            self._redirected.add(source)
            if self.redirects_before:
                peer.n_redirects = self.redirects_before
                peer.rate_last = now - (_REDIRECT_LOAD << peer.n_redirects) - 1
        if now > peer.rate_last + _REDIRECT_SILENCE:
            peer.rate_tokens = peer.n_redirects = 0
        if peer.n_redirects >= REDIRECT_NUMBER:
            peer.rate_last = now
            return False
        if peer.n_redirects and now <= peer.rate_last + (_REDIRECT_LOAD << peer.n_redirects):
            return False
        peer.rate_last = now
        peer.n_redirects += 1
        self.redirects_sent += 1
        return True

    # ----------------------------------------------------------------------------------------------------------- errors

    def error(self, about: About, icmp_type: int, code: int, info: int = 0, *, options_end: int = 0) -> bool:
        """``__icmp_send``: tell a packet's sender.

        Args:
            about: The packet.
            icmp_type: Of the message.
            code: Of the message.
            info: The header's last four bytes: an MTU, a gateway, a pointer.
            options_end: The byte of the packet's IP header that is wrong; the options before it are sent back.

        Returns:
            Whether a message was sent.
        """
        netns = self._netns
        packet = about.packet
        unanswered = partial(self.unanswered, about.pkt_id, icmp_type, code)
        if len(packet) < _IP_HEADER or not about.unicast:
            return unanswered(TO_MANY)
        header_length = (packet[0] & 15) * 4
        if int.from_bytes(packet[6:8], "big") & IP_OFFSET_MASK:
            return unanswered("it is a later fragment")
        if icmp_type in ERROR_TYPES and packet[9] == IPPROTO_ICMP:
            quoted_type = packet[header_length] if len(packet) > header_length else NR_ICMP_TYPES + 1
            if quoted_type > NR_ICMP_TYPES or quoted_type in _NEVER_ANSWERED:
                return unanswered(ABOUT_AN_ERROR)
        in_device = netns.devices.find(about.in_ifindex)
        limited = False
        if self._limited_type(icmp_type, code) and not (in_device is not None and in_device.loopback):
            if not self._netns.icmp_limits.global_allow():
                return self.withheld(about.pkt_id, icmp_type, code, GLOBAL_LIMIT)
            limited = True
        if self._sending and not about.in_ifindex:
            return unanswered(WHILE_SENDING)
        saddr, daddr = packet[16:20], packet[12:16]
        if about.route_type != RouteType.LOCAL:
            by_route = in_device is not None and about.input_route
            inbound = by_route and netns.sysctls.number("net.ipv4.icmp_errors_use_inbound_ifaddr")
            saddr = netns.select_address(in_device, daddr, Scope.LINK) if inbound else b""
        tos = packet[1]
        if icmp_type in ERROR_TYPES:
            tos = tos & _TOS_MASK | _PREC_INTERNETCONTROL
        mark = about.mark if netns.sysctls.number("net.ipv4.fwmark_reflect") else 0
        received = packet if about.options_read else _WITHOUT_OPTIONS
        echoed = netns.ip_options.echo(received, options_end)
        if echoed is None:
            return unanswered("its options leave no room for an address")
        daddr = echoed.via or daddr
        try:
            route = netns.route_output(daddr, saddr=saddr, mark=mark)
        except OSError:
            return unanswered(NO_WAY_BACK)
        if limited and not self._peer_allow(daddr, loopback=route.local):
            return self.withheld(about.pkt_id, icmp_type, code, "net.ipv4.icmp_ratelimit")
        room = min(route.mtu, _ERROR_MAX) - _IP_HEADER - len(echoed.options) - _ICMP_HEADER
        if room <= _IP_HEADER:
            return unanswered(f"an MTU of {route.mtu} leaves no room for it")
        message = struct.pack("!BBHI", icmp_type, code, 0, info) + packet[:room]
        source = route.saddr or _INADDR_DUMMY
        if not any(daddr):
            daddr = source  # which is where 0.0.0.0 leads
        self._send(source, daddr, message, tos=tos, mark=mark, options=echoed.build(source), related=about.related)
        return True

    def _send(
        self,
        saddr: bytes,
        daddr: bytes,
        message: bytes,
        *,
        tos: int,
        mark: int,
        options: bytes = b"",
        related: Packet | None = None,
    ) -> None:
        """``icmp_push_reply``: the checksum, an IP header without DF, and off it goes."""
        # csum_partial_copy_nocheck begins with all ones, so that a message of zeros has a checksum of zero
        message = message[:2] + (checksum(message) % 0xFFFF).to_bytes(2, "big") + message[4:]
        netns = self._netns
        packet = build_ip(
            saddr,
            daddr,
            IPPROTO_ICMP,
            message,
            ttl=netns.sysctls.number("net.ipv4.ip_default_ttl"),
            tos=tos,
            ip_id=netns.next_ip_id(saddr, daddr, IPPROTO_ICMP),
            df=False,
            options=options,
        )
        outer, self._sending = self._sending, True
        try:
            netns.local_out(packet, mark=mark, uid=NO_FILE, related=related)
        finally:
            self._sending = outer

    # ---------------------------------------------------------------------------------------------------------- receive

    def receive(
        self, packet: bytes, *, ifindex: int, broadcast: bool, mark: int = 0, pkt_id: int = 0, taken: bool = True
    ) -> DropReason | None:
        """``icmp_rcv``: a packet for us, whose header has been checked.

        Args:
            packet: From its IP header on.
            ifindex: Where it came in.
            broadcast: It was sent to many.
            mark: Its mark.
            pkt_id: Its number in the engine, for the trace.
            taken: A socket has it.

        Returns:
            Why it is dropped, if it is.
        """
        netns = self._netns
        header_length = (packet[0] & 15) * 4
        message = packet[header_length : int.from_bytes(packet[2:4], "big")]
        if len(message) < _ICMP_HEADER:
            return DropReason.TRANSPORT_HEADER
        if checksum(message):
            return DropReason.TRANSPORT_CHECKSUM
        icmp_type, code = message[0], message[1]
        if icmp_type == IcmpType.ECHOREPLY:
            return None if taken else DropReason.NO_SOCKET  # ping_rcv
        if icmp_type > NR_ICMP_TYPES:
            return None if taken else DropReason.UNHANDLED_PROTO
        if broadcast:
            # RFC 1122 3.2.2.6 and 3.2.2.8: an echo to a broadcast may be ignored; RFC 1812 4.3.3.9 for the mask
            requests = {IcmpType.ECHO: IcmpType.ECHOREPLY, IcmpType.TIMESTAMP: IcmpType.TIMESTAMPREPLY}
            if icmp_type in requests and netns.sysctls.number("net.ipv4.icmp_echo_ignore_broadcasts"):
                self.unanswered(pkt_id, requests[IcmpType(icmp_type)], 0, "net.ipv4.icmp_echo_ignore_broadcasts is set")
                return DropReason.INVALID_PROTO
            if icmp_type not in (*requests, IcmpType.ADDRESS, IcmpType.ADDRESSREPLY):
                return DropReason.INVALID_PROTO
        if icmp_type == IcmpType.ECHO:
            if netns.sysctls.number("net.ipv4.icmp_echo_ignore_all"):
                self.unanswered(pkt_id, IcmpType.ECHOREPLY, 0, "net.ipv4.icmp_echo_ignore_all is set")
                return None
            answer = bytes([IcmpType.ECHOREPLY, code, 0, 0]) + message[4:]
            self._reply(packet, answer, ifindex, broadcast, mark, pkt_id)
        elif icmp_type == IcmpType.TIMESTAMP:
            self._timestamp(packet, message, ifindex, broadcast, mark, pkt_id)
        elif icmp_type in ERROR_TYPES:
            return self._error_received(packet, message, icmp_type, code, ifindex, pkt_id)
        return None

    def _timestamp(self, packet: bytes, message: bytes, ifindex: int, broadcast: bool, mark: int, pkt_id: int) -> None:
        """``icmp_timestamp``: milliseconds since midnight, received and sent being the same."""
        if len(message) < _ICMP_HEADER + 4:
            self.unanswered(pkt_id, IcmpType.TIMESTAMPREPLY, 0, "it is cut short")
            return
        now = (self._netns.clock.now_ns // NS_PER_MS % 86_400_000).to_bytes(4, "big")
        answer = bytes([IcmpType.TIMESTAMPREPLY, 0, 0, 0]) + message[4:12] + now + now
        self._reply(packet, answer, ifindex, broadcast, mark, pkt_id)

    def _reply(self, request: bytes, message: bytes, ifindex: int, broadcast: bool, mark: int, pkt_id: int) -> None:
        """``icmp_reply``: from the address that was asked."""
        netns = self._netns
        daddr = request[12:16]
        saddr = netns.specific_destination(request[16:20], daddr, ifindex) if broadcast else request[16:20]
        reply_mark = mark if netns.sysctls.number("net.ipv4.fwmark_reflect") else 0
        try:
            route = netns.route_output(daddr, saddr=saddr, mark=reply_mark)
        except OSError:
            self.unanswered(pkt_id, message[0], message[1], NO_WAY_BACK)
            return
        if self._limited_type(message[0], message[1]):
            if not self._netns.icmp_limits.global_allow():
                self.withheld(pkt_id, message[0], message[1], GLOBAL_LIMIT)
                return
            if not self._peer_allow(daddr, loopback=route.local):
                self.withheld(pkt_id, message[0], message[1], "net.ipv4.icmp_ratelimit")
                return
        echoed = netns.ip_options.echo(request)
        if echoed is None:
            self.unanswered(pkt_id, message[0], message[1], "its options leave no room for an address")
            return
        saddr = route.saddr  # who has asked 0.0.0.0 is not answered from there
        self._send(saddr, daddr, message, tos=request[1], mark=reply_mark, options=echoed.build(saddr))

    def _error_received(
        self, packet: bytes, message: bytes, icmp_type: int, code: int, ifindex: int, pkt_id: int
    ) -> DropReason | None:
        """``icmp_unreach``, ``icmp_redirect``: tell the socket that the quoted packet came from.

        Returns:
            Why it is dropped, if it is.
        """
        netns = self._netns
        quoted = message[_ICMP_HEADER:]
        if len(quoted) < _IP_HEADER or (quoted[0] & 15) < 5:
            return DropReason.TRANSPORT_HEADER
        unheeded = ""
        if icmp_type == IcmpType.DEST_UNREACH:
            if code > NR_ICMP_UNREACH:
                unheeded = f"there is no code {code}"
            if code == Unreach.FRAG_NEEDED:
                mode = netns.sysctls.number("net.ipv4.ip_no_pmtu_disc")
                # 3: of those only that look at the sequence numbers in what is quoted (icmp_tag_validation)
                if mode == 2 or (mode == 3 and quoted[9] != IPPROTO_TCP):
                    unheeded = f"net.ipv4.ip_no_pmtu_disc is {mode}"
        elif icmp_type == IcmpType.TIME_EXCEEDED and code == EXC_FRAGTIME:
            unheeded = "what fragments are lost is no socket's business"
        if not unheeded and (
            icmp_type != IcmpType.REDIRECT
            and not netns.sysctls.number("net.ipv4.icmp_ignore_bogus_error_responses")
            and netns.datapath.address_type(quoted[16:20]) == RouteType.BROADCAST
        ):
            unheeded = "it quotes a broadcast (net.ipv4.icmp_ignore_bogus_error_responses)"
        elif not unheeded and len(quoted) < (quoted[0] & 15) * 4 + 8:
            unheeded = "it quotes too little to find a socket by"  # icmp_socket_deliver
        if unheeded:
            netns.remark(pkt_id, f"the ICMP error is not heeded: {unheeded}")
            return None
        if icmp_type == IcmpType.REDIRECT:
            netns.redirected(quoted[16:20], message[4:8], router=packet[12:16], ifindex=ifindex)
        netns.sockets_icmp_error(packet, ifindex, pkt_id)
        return None
