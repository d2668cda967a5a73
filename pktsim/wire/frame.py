"""A frame as bytes: a read-only view by offsets, and builders of headers with right checksums.

Used wherever Python makes or looks at a packet: sockets, ARP, ICMP errors, traces, tests. On its way through a node a
packet is not looked at here but in the engine. Addresses are network-order bytes, ports and the like plain numbers.

    ethernet(mac_b, mac_a, ETH_P_IP, ipv4(a, b, IPPROTO_TCP, tcp(a, b, 40000, 80, seq=1, flags=TcpFlag.SYN)))
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

from pktsim.errors import FrameError
from pktsim.wire.addr import ETH_ALEN, IPV4_LEN, IPV6_LEN
from pktsim.wire.checksum import checksum, partial_sum, pseudo_header_sum, transport_checksum

# Ethertypes (include/uapi/linux/if_ether.h)
ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_8021Q: Final = 0x8100
ETH_P_IPV6: Final = 0x86DD
ETH_P_8021AD: Final = 0x88A8
ETH_HLEN: Final = 14

# Protocols (include/uapi/linux/in.h, in6.h)
IPPROTO_HOPOPTS: Final = 0
IPPROTO_ICMP: Final = 1
IPPROTO_IGMP: Final = 2
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_DCCP: Final = 33
IPPROTO_ROUTING: Final = 43
IPPROTO_FRAGMENT: Final = 44
IPPROTO_GRE: Final = 47
IPPROTO_ESP: Final = 50
IPPROTO_AH: Final = 51
IPPROTO_ICMPV6: Final = 58
IPPROTO_NONE: Final = 59
IPPROTO_DSTOPTS: Final = 60
IPPROTO_PIM: Final = 103
IPPROTO_SCTP: Final = 132
IPPROTO_UDPLITE: Final = 136

# ICMP types (RFC 792; RFC 4443 and 4861 for version 6)
ICMP_ECHO_REPLY: Final = 0
ICMP_DEST_UNREACH: Final = 3
ICMP_SOURCE_QUENCH: Final = 4
ICMP_REDIRECT: Final = 5
ICMP_ECHO: Final = 8
ICMP_TIME_EXCEEDED: Final = 11
ICMP_PARAMETER_PROBLEM: Final = 12
ICMP_TIMESTAMP: Final = 13
ICMP_TIMESTAMP_REPLY: Final = 14
ICMPV6_DEST_UNREACH: Final = 1
ICMPV6_PACKET_TOO_BIG: Final = 2
ICMPV6_TIME_EXCEEDED: Final = 3
ICMPV6_PARAMETER_PROBLEM: Final = 4
ICMPV6_ECHO: Final = 128
ICMPV6_ECHO_REPLY: Final = 129
ICMPV6_ROUTER_SOLICITATION: Final = 133
ICMPV6_ROUTER_ADVERTISEMENT: Final = 134
ICMPV6_NEIGHBOUR_SOLICITATION: Final = 135
ICMPV6_NEIGHBOUR_ADVERTISEMENT: Final = 136

ARP_REQUEST: Final = 1
ARP_REPLY: Final = 2

#: VXLAN's port by IANA (RFC 7348) and the one that Linux and flannel use by default.
VXLAN_PORTS: Final = (4789, 8472)

_ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
_ICMPV6_ERRORS = frozenset((1, 2, 3, 4))
#: Extension headers with an 8-byte unit length field (RFC 8200 section 4.1).
#: IPv6's extension headers, each of which another header follows (RFC 8200 section 4; ``ipv6_ext_hdr``).
IPV6_EXTENSIONS: Final = frozenset((IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_AH, IPPROTO_DSTOPTS))
_PORTS = frozenset((IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_UDPLITE))
#: Fixed header length of what we can look into.
_TRANSPORT_LEN = {
    IPPROTO_TCP: 20,
    IPPROTO_UDP: 8,
    IPPROTO_UDPLITE: 8,
    IPPROTO_SCTP: 12,
    IPPROTO_ICMP: 8,
    IPPROTO_ICMPV6: 4,
}


class TcpFlag(enum.IntFlag):
    """TCP's control bits (RFC 9293 section 3.1); AE is the accurate ECN bit of RFC 9768."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80
    AE = 0x100


class TcpOption(enum.IntEnum):
    """TCP option kinds that Linux sends or reads (include/net/tcp.h)."""

    EOL = 0
    NOP = 1
    MSS = 2
    WINDOW = 3
    SACK_PERM = 4
    SACK = 5
    TIMESTAMP = 8


# --- builders -------------------------------------------------------------------------------------------------------


def _u16(value: int, field: str) -> int:
    return _limited(value, 0xFFFF, field)


def _limited(value: int, limit: int, field: str) -> int:
    if not 0 <= value <= limit:
        raise FrameError(f"{value} does not fit", field=field, mend=f"0 to {limit}")
    return value


def _mac(mac: bytes, field: str) -> bytes:
    if len(mac) != ETH_ALEN:
        raise FrameError(f"{len(mac)} bytes are no MAC address", field=field, mend="6 bytes")
    return mac


def _ip(address: bytes, length: int, field: str) -> bytes:
    if len(address) != length:
        raise FrameError(f"{len(address)} bytes are no address of this family", field=field, mend=f"{length} bytes")
    return address


def ethernet(dst: bytes, src: bytes, ethertype: int, payload: bytes = b"") -> bytes:
    """An Ethernet II frame, without padding (veth adds none) and frame check sequence."""
    return _mac(dst, "eth.dst") + _mac(src, "eth.src") + _u16(ethertype, "eth.type").to_bytes(2, "big") + payload


def arp(operation: int, sender_mac: bytes, sender_ip: bytes, target_mac: bytes, target_ip: bytes) -> bytes:
    """An ARP packet for IPv4 on Ethernet (RFC 826), without the Ethernet header."""
    return (
        b"\x00\x01\x08\x00\x06\x04"
        + _u16(operation, "arp.opcode").to_bytes(2, "big")
        + _mac(sender_mac, "arp.src.hw_mac")
        + _ip(sender_ip, IPV4_LEN, "arp.src.proto_ipv4")
        + _mac(target_mac, "arp.dst.hw_mac")
        + _ip(target_ip, IPV4_LEN, "arp.dst.proto_ipv4")
    )


def ipv4(
    saddr: bytes,
    daddr: bytes,
    protocol: int,
    payload: bytes = b"",
    *,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 0,
    dont_fragment: bool = False,
    more_fragments: bool = False,
    fragment_offset: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet (RFC 791).

    Args:
        saddr: Source address, 4 bytes.
        daddr: Destination address, 4 bytes.
        protocol: Protocol number of ``payload``.
        payload: What follows the header.
        ttl: Time to live.
        tos: DSCP and ECN.
        identification: For reassembly.
        dont_fragment: The DF bit.
        more_fragments: The MF bit.
        fragment_offset: In bytes, a multiple of 8.
        options: Options, padded to a multiple of 4 bytes, at most 40.
    """
    if len(options) % 4 or len(options) > 40:
        raise FrameError(f"{len(options)} bytes of options", field="ip.options", mend="a multiple of 4, at most 40")
    if fragment_offset % 8:
        raise FrameError(f"{fragment_offset} is not a multiple of 8", field="ip.frag_offset")
    header_length = 20 + len(options)
    header = bytearray(
        struct.pack(
            "!BBHHHBBH",
            0x40 | header_length // 4,
            _limited(tos, 0xFF, "ip.dsfield"),
            _u16(header_length + len(payload), "ip.len"),
            _u16(identification, "ip.id"),
            dont_fragment << 14 | more_fragments << 13 | _limited(fragment_offset // 8, 0x1FFF, "ip.frag_offset"),
            _limited(ttl, 0xFF, "ip.ttl"),
            _limited(protocol, 0xFF, "ip.proto"),
            0,
        )
    )
    header += _ip(saddr, IPV4_LEN, "ip.src") + _ip(daddr, IPV4_LEN, "ip.dst") + options
    header[10:12] = checksum(header).to_bytes(2, "big")
    return bytes(header) + payload


def ipv6(
    saddr: bytes,
    daddr: bytes,
    next_header: int,
    payload: bytes = b"",
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> bytes:
    """An IPv6 packet (RFC 8200); extension headers are part of ``payload``."""
    first = 6 << 28 | _limited(traffic_class, 0xFF, "ipv6.tclass") << 20 | _limited(flow_label, 0xFFFFF, "ipv6.flow")
    return (
        struct.pack(
            "!IHBB",
            first,
            _u16(len(payload), "ipv6.plen"),
            _limited(next_header, 0xFF, "ipv6.nxt"),
            _limited(hop_limit, 0xFF, "ipv6.hlim"),
        )
        + _ip(saddr, IPV6_LEN, "ipv6.src")
        + _ip(daddr, IPV6_LEN, "ipv6.dst")
        + payload
    )


def ipv6_fragment(next_header: int, payload: bytes, *, identification: int, offset: int, more: bool) -> bytes:
    """A fragment extension header (RFC 8200 section 4.5) with ``payload`` behind it; ``offset`` in bytes."""
    if offset % 8:
        raise FrameError(f"{offset} is not a multiple of 8", field="ipv6.fraghdr.offset")
    return (
        struct.pack(
            "!BBHI",
            _limited(next_header, 0xFF, "ipv6.fraghdr.nxt"),
            0,
            _u16(offset, "ipv6.fraghdr.offset") | more,
            _limited(identification, 0xFFFFFFFF, "ipv6.fraghdr.ident"),
        )
        + payload
    )


def ip_addresses(packet: bytes) -> tuple[bytes, bytes]:
    """Source and destination of an IP packet of either version, from its network header on."""
    return (packet[12:16], packet[16:20]) if packet[0] >> 4 == 4 else (packet[8:24], packet[24:40])


def ipv6_extension_size(kind: int, length: int) -> int:
    """The bytes of one of IPV6_EXTENSIONS, by the length field that is its second byte (RFC 8200; RFC 4302 for AH)."""
    if kind == IPPROTO_FRAGMENT:
        return 8
    return (length + 2) * 4 if kind == IPPROTO_AH else (length + 1) * 8


def udp(
    saddr: bytes, daddr: bytes, sport: int, dport: int, payload: bytes = b"", *, with_checksum: bool = True
) -> bytes:
    """A UDP datagram (RFC 768). The addresses, of either family, only enter the checksum.

    Args:
        saddr: Source address of the packet it will be in.
        daddr: Destination address of that packet.
        sport: Source port.
        dport: Destination port.
        payload: The data.
        with_checksum: If false the field is 0, "none", which IPv6 forbids but for tunnels (RFC 6935).
    """
    header = struct.pack(
        "!HHHH", _u16(sport, "udp.srcport"), _u16(dport, "udp.dstport"), _u16(8 + len(payload), "udp.length"), 0
    )
    if not with_checksum:
        return header + payload
    value = transport_checksum(saddr, daddr, IPPROTO_UDP, header + payload)
    return header[:6] + value.to_bytes(2, "big") + payload


def tcp(
    saddr: bytes,
    daddr: bytes,
    sport: int,
    dport: int,
    payload: bytes = b"",
    *,
    seq: int,
    ack: int = 0,
    flags: int,
    window: int = 0,
    urgent: int = 0,
    options: bytes = b"",
) -> bytes:
    """A TCP segment (RFC 9293). The addresses, of either family, only enter the checksum.

    Args:
        saddr: Source address of the packet it will be in.
        daddr: Destination address of that packet.
        sport: Source port.
        dport: Destination port.
        payload: The data.
        seq: Sequence number, 32 bits.
        ack: Acknowledgement number, 32 bits.
        flags: ``TcpFlag``.
        window: As it stands in the header, before scaling.
        urgent: Urgent pointer.
        options: Options, padded to a multiple of 4 bytes, at most 40 (see :func:`tcp_options`).
    """
    if len(options) % 4 or len(options) > 40:
        raise FrameError(f"{len(options)} bytes of options", field="tcp.options", mend="a multiple of 4, at most 40")
    offset_flags = (5 + len(options) // 4) << 12 | _limited(flags, 0x1FF, "tcp.flags")
    head = struct.pack(
        "!HHIIHH",
        _u16(sport, "tcp.srcport"),
        _u16(dport, "tcp.dstport"),
        _limited(seq, 0xFFFFFFFF, "tcp.seq"),
        _limited(ack, 0xFFFFFFFF, "tcp.ack"),
        offset_flags,
        _u16(window, "tcp.window_size_value"),
    )
    tail = _u16(urgent, "tcp.urgent_pointer").to_bytes(2, "big") + options + payload
    value = transport_checksum(saddr, daddr, IPPROTO_TCP, head + b"\0\0" + tail)
    return head + value.to_bytes(2, "big") + tail


def tcp_options(
    *,
    mss: int | None = None,
    sack_permitted: bool = False,
    timestamps: tuple[int, int] | None = None,
    window_scale: int | None = None,
    sack_blocks: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """Options in the order and with the padding that Linux sends them (``tcp_options_write``, net/ipv4/tcp_output.c).

    A time stamp is put behind SACK-permitted in the place of two NOPs where both are sent.

    Args:
        mss: Maximum segment size.
        sack_permitted: SYNs only.
        timestamps: TSval and TSecr.
        window_scale: Shift count, SYNs only.
        sack_blocks: Left and right edges.
    """
    out = bytearray()
    if mss is not None:
        out += struct.pack("!BBH", TcpOption.MSS, 4, _u16(mss, "tcp.options.mss_val"))
    if timestamps is not None:
        out += b"\x04\x02" if sack_permitted else b"\x01\x01"
        value, echo = (_limited(stamp, 0xFFFFFFFF, "tcp.options.timestamp") for stamp in timestamps)
        out += struct.pack("!BBII", TcpOption.TIMESTAMP, 10, value, echo)
    elif sack_permitted:
        out += b"\x01\x01\x04\x02"
    if window_scale is not None:
        out += bytes((TcpOption.NOP, TcpOption.WINDOW, 3, _limited(window_scale, 14, "tcp.options.wscale")))
    if sack_blocks:
        out += bytes((TcpOption.NOP, TcpOption.NOP, TcpOption.SACK, 2 + 8 * len(sack_blocks) & 0xFF))
        for edge in (edge for block in sack_blocks for edge in block):
            out += _limited(edge, 0xFFFFFFFF, "tcp.options.sack").to_bytes(4, "big")
    if len(out) > 40:
        raise FrameError(f"{len(out)} bytes of options", field="tcp.options", mend="at most 40")
    return bytes(out)


def icmp(type_: int, code: int = 0, rest: int = 0, payload: bytes = b"") -> bytes:
    """An ICMP message (RFC 792).

    Args:
        type_: ICMP type.
        code: ICMP code.
        rest: The second word: for echoes ``identifier << 16 | sequence``, for "fragmentation needed" the MTU.
        payload: Echo data or the quoted packet.
    """
    head = bytes((_limited(type_, 0xFF, "icmp.type"), _limited(code, 0xFF, "icmp.code")))
    tail = _limited(rest, 0xFFFFFFFF, "icmp rest").to_bytes(4, "big") + payload
    return head + checksum(head + b"\0\0" + tail).to_bytes(2, "big") + tail


def icmpv6(saddr: bytes, daddr: bytes, type_: int, code: int = 0, rest: int = 0, payload: bytes = b"") -> bytes:
    """An ICMPv6 message (RFC 4443); unlike ICMP its checksum covers the addresses."""
    head = bytes((_limited(type_, 0xFF, "icmpv6.type"), _limited(code, 0xFF, "icmpv6.code")))
    tail = _limited(rest, 0xFFFFFFFF, "icmpv6 rest").to_bytes(4, "big") + payload
    value = transport_checksum(saddr, daddr, IPPROTO_ICMPV6, head + b"\0\0" + tail)
    return head + value.to_bytes(2, "big") + tail


def vxlan(vni: int, frame: bytes) -> bytes:
    """A VXLAN header (RFC 7348 section 5) with the inner frame behind it."""
    return struct.pack("!II", 0x08000000, _limited(vni, 0xFFFFFF, "vxlan.vni") << 8) + frame


# --- view -----------------------------------------------------------------------------------------------------------


class FrameView:
    """Where the headers of a frame start, and their fields; a frame that ends early has fewer of them.

    Offsets are into ``frame`` and -1 where there is no such header. A transport header is only looked for where it
    can be: not behind a later fragment's header, not where it is cut off.

    Attributes:
        frame: The bytes looked at.
        link: Offset of the Ethernet header, -1 for a packet without one.
        ethertype: Of the innermost VLAN tag, -1 if cut off.
        network: Offset of the network header (also of ARP and unknown ethertypes).
        version: 4 or 6, or 0 if it is no (whole) IP header.
        protocol: Protocol behind extension headers, -1 without IP.
        transport: Offset behind the IP header and its extensions, -1 if it is not at hand.
        end: End of the packet by its IP length, never beyond the frame; the rest is padding.
        fragment: Offset of IPv6's fragment header, else -1.
    """

    __slots__ = ("end", "ethertype", "fragment", "frame", "link", "network", "protocol", "transport", "version")

    def __init__(self, frame: bytes, *, link: bool = True) -> None:
        """Look at an Ethernet frame, or at an IP packet if ``link`` is false."""
        self.frame = frame
        self.link = 0 if link else -1
        self.version = 0
        self.protocol = -1
        self.transport = -1
        self.fragment = -1
        self.end = len(frame)
        at = 0
        ethertype = -1
        if link:
            at = ETH_HLEN
            if len(frame) >= ETH_HLEN:
                ethertype = frame[12] << 8 | frame[13]
                while ethertype in (ETH_P_8021Q, ETH_P_8021AD) and len(frame) >= at + 4:
                    ethertype = frame[at + 2] << 8 | frame[at + 3]
                    at += 4
        elif frame:
            ethertype = {4: ETH_P_IP, 6: ETH_P_IPV6}.get(frame[0] >> 4, -1)
        self.ethertype = ethertype
        self.network = at if ethertype >= 0 else -1
        if ethertype == ETH_P_IP:
            self._walk_ipv4(at)
        elif ethertype == ETH_P_IPV6:
            self._walk_ipv6(at)

    def _walk_ipv4(self, at: int) -> None:
        frame = self.frame
        if len(frame) < at + 20 or frame[at] >> 4 != 4:
            return
        header_length = (frame[at] & 0x0F) * 4
        total_length = frame[at + 2] << 8 | frame[at + 3]
        if header_length < 20 or total_length < header_length or len(frame) < at + header_length:
            return
        self.version = 4
        self.protocol = frame[at + 9]
        self.end = min(len(frame), at + total_length)
        self._set_transport(at + header_length, self.fragment_offset)

    def _walk_ipv6(self, at: int) -> None:
        frame = self.frame
        if len(frame) < at + 40 or frame[at] >> 4 != 6:
            return
        self.version = 6
        self.end = min(len(frame), at + 40 + (frame[at + 4] << 8 | frame[at + 5]))
        self.protocol = frame[at + 6]
        at += 40
        while self.protocol in IPV6_EXTENSIONS:
            if at + 2 > self.end:
                return
            length = ipv6_extension_size(self.protocol, frame[at + 1])
            if at + length > self.end:
                return
            if self.protocol == IPPROTO_FRAGMENT:
                self.fragment = at
            self.protocol = frame[at]
            at += length
            if self.fragment >= 0 and self.fragment_offset:
                break  # what follows is the middle of something
        self._set_transport(at, self.fragment_offset)

    def _set_transport(self, at: int, fragment_offset: int) -> None:
        if not fragment_offset and self.end >= at + _TRANSPORT_LEN.get(self.protocol, 0):
            self.transport = at

    def _need(self, at: int, what: str) -> int:
        if at < 0:
            raise FrameError(f"the frame has no {what}")
        return at

    def _u16(self, at: int) -> int:
        return self.frame[at] << 8 | self.frame[at + 1]

    def _u32(self, at: int) -> int:
        return int.from_bytes(self.frame[at : at + 4], "big")

    def _ip_at(self, offset4: int, offset6: int) -> int:
        if not self.version:
            raise FrameError("the frame has no IP header")
        return self.network + (offset4 if self.version == 4 else offset6)

    def _transport_of(self, *protocols: int) -> int:
        if self.transport < 0 or self.protocol not in protocols:
            raise FrameError("the frame has no such transport header")
        return self.transport

    # link layer

    @property
    def dst_mac(self) -> bytes:
        """Destination MAC."""
        return self.frame[self._need(self.link, "Ethernet header") :][:6]

    @property
    def src_mac(self) -> bytes:
        """Source MAC."""
        return self.frame[self._need(self.link, "Ethernet header") + 6 :][:6]

    @property
    def data(self) -> bytes:
        """From the network header to the packet's end, without Ethernet padding."""
        return self.frame[self._need(self.network, "network header") : self.end]

    # network layer

    @property
    def saddr(self) -> bytes:
        """Source IP address."""
        at = self._ip_at(12, 8)
        return self.frame[at : at + (4 if self.version == 4 else 16)]

    @property
    def daddr(self) -> bytes:
        """Destination IP address."""
        at = self._ip_at(16, 24)
        return self.frame[at : at + (4 if self.version == 4 else 16)]

    @property
    def ttl(self) -> int:
        """TTL or hop limit."""
        return self.frame[self._ip_at(8, 7)]

    @property
    def tos(self) -> int:
        """DSCP and ECN: IPv4's TOS, IPv6's traffic class."""
        at = self._ip_at(1, 0)
        return self.frame[at] if self.version == 4 else self._u16(at) >> 4 & 0xFF

    @property
    def identification(self) -> int:
        """IPv4's identification, or that of IPv6's fragment header."""
        if self._ip_at(4, 0) and self.version == 4:
            return self._u16(self.network + 4)
        return self._u32(self._need(self.fragment, "fragment header") + 4)

    @property
    def dont_fragment(self) -> bool:
        """Whether routers may not fragment it (in IPv6 they never may)."""
        return self.version == 6 or bool(self.frame[self._ip_at(6, 0)] & 0x40)

    @property
    def more_fragments(self) -> bool:
        """Whether it is a fragment that others follow."""
        if self.version == 6:
            return self.fragment >= 0 and bool(self.frame[self.fragment + 3] & 1)
        return bool(self.frame[self._ip_at(6, 0)] & 0x20)

    @property
    def fragment_offset(self) -> int:
        """In bytes; 0 for a whole packet too."""
        if self.version == 6:
            return self._u16(self.fragment + 2) & 0xFFF8 if self.fragment >= 0 else 0
        return (self._u16(self._ip_at(6, 0)) & 0x1FFF) * 8

    @property
    def is_fragment(self) -> bool:
        """Whether it is a part of a packet."""
        return self.version != 0 and (self.more_fragments or self.fragment_offset > 0)

    # transport layer

    @property
    def sport(self) -> int:
        """Source port."""
        return self._u16(self._transport_of(*_PORTS))

    @property
    def dport(self) -> int:
        """Destination port."""
        return self._u16(self._transport_of(*_PORTS) + 2)

    @property
    def has_ports(self) -> bool:
        """Whether ``sport`` and ``dport`` can be asked for."""
        return self.transport >= 0 and self.protocol in _PORTS

    @property
    def tcp_seq(self) -> int:
        """Sequence number."""
        return self._u32(self._transport_of(IPPROTO_TCP) + 4)

    @property
    def tcp_ack(self) -> int:
        """Acknowledgement number."""
        return self._u32(self._transport_of(IPPROTO_TCP) + 8)

    @property
    def tcp_flags(self) -> TcpFlag:
        """Control bits."""
        return TcpFlag(self._u16(self._transport_of(IPPROTO_TCP) + 12) & 0x1FF)

    @property
    def tcp_window(self) -> int:
        """As it stands in the header, before scaling."""
        return self._u16(self._transport_of(IPPROTO_TCP) + 14)

    @property
    def tcp_header_length(self) -> int:
        """In bytes, as the header claims."""
        return (self.frame[self._transport_of(IPPROTO_TCP) + 12] >> 4) * 4

    @property
    def tcp_options(self) -> bytes:
        """The options with their padding, as far as they are there."""
        at = self._transport_of(IPPROTO_TCP)
        return self.frame[at + 20 : max(at + 20, min(at + self.tcp_header_length, self.end))]

    @property
    def icmp_type(self) -> int:
        """ICMP or ICMPv6 type."""
        return self.frame[self._transport_of(IPPROTO_ICMP, IPPROTO_ICMPV6)]

    @property
    def icmp_code(self) -> int:
        """ICMP or ICMPv6 code."""
        return self.frame[self._transport_of(IPPROTO_ICMP, IPPROTO_ICMPV6) + 1]

    @property
    def icmp_rest(self) -> int:
        """The word behind the checksum: identifier and sequence of an echo, or an MTU."""
        return self._u32(self._transport_of(IPPROTO_ICMP, IPPROTO_ICMPV6) + 4)

    @property
    def payload(self) -> bytes:
        """What is behind the transport header (behind the IP header, for a protocol that is not looked into)."""
        at = self._need(self.transport, "transport header")
        if self.protocol == IPPROTO_TCP:
            at += max(20, self.tcp_header_length)
        elif self.protocol == IPPROTO_ICMPV6:
            at += 8
        else:
            at += _TRANSPORT_LEN.get(self.protocol, 0)
        return self.frame[at : self.end]

    @property
    def quoted(self) -> FrameView | None:
        """The packet that an ICMP error is about, as far as it is quoted."""
        if self.transport < 0:
            return None
        errors = {IPPROTO_ICMP: _ICMP_ERRORS, IPPROTO_ICMPV6: _ICMPV6_ERRORS}.get(self.protocol)
        if errors is None or self.frame[self.transport] not in errors:
            return None
        quoted = FrameView(self.frame[self.transport + 8 : self.end], link=False)
        return quoted if quoted.version else None

    @property
    def inner(self) -> FrameView | None:
        """The frame inside a VXLAN packet."""
        if self.transport < 0 or self.protocol != IPPROTO_UDP or self.dport not in VXLAN_PORTS:
            return None
        payload = self.payload
        if len(payload) < 8 + ETH_HLEN or not payload[0] & 0x08:
            return None
        return FrameView(payload[8:])

    def bad_checksums(self) -> tuple[str, ...]:
        """Which of its checksums are wrong, outermost first: ``ip``, ``tcp``, ``udp``, ``icmp``, ``icmpv6``.

        Those of fragments and cut-off packets cannot be judged, nor can those of what an ICMP error quotes.
        """
        bad: list[str] = []
        frame = self.frame
        if self.version == 4:
            header = frame[self.network : self.network + (frame[self.network] & 0x0F) * 4]
            if partial_sum(header) != 0xFFFF:
                bad.append("ip")
        if self.transport < 0 or self.is_fragment or self._is_cut_off():
            return tuple(bad)
        segment = frame[self.transport : self.end]
        if self.protocol == IPPROTO_ICMP:
            if self.version == 4 and partial_sum(segment) != 0xFFFF:
                bad.append("icmp")
            return tuple(bad)
        name = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_ICMPV6: "icmpv6"}.get(self.protocol)
        if name is None:
            return tuple(bad)
        if name == "udp":
            segment = segment[: self._u16(self.transport + 4)]
            if frame[self.transport + 6 : self.transport + 8] == b"\0\0":
                if self.version == 6 and self.inner is None:
                    bad.append("udp")  # RFC 8200 section 8.1; RFC 6935 lets tunnels do without
                segment = b""
        if segment:
            pseudo = pseudo_header_sum(self.saddr, self.daddr, self.protocol, len(segment))
            if partial_sum(segment, pseudo) != 0xFFFF:
                bad.append(name)
        inner = self.inner
        return tuple(bad) if inner is None else (*bad, *inner.bad_checksums())

    def _is_cut_off(self) -> bool:
        claimed = self._u16(self.network + 2) if self.version == 4 else 40 + self._u16(self.network + 4)
        return self.network + claimed > len(self.frame)


def iter_tcp_options(options: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each TCP option, up to the end-of-options mark or the first one that is malformed.

    NOPs are included, with an empty value, since their place tells who sent a segment.
    """
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == TcpOption.EOL:
            return
        if kind == TcpOption.NOP:
            yield kind, b""
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            return
        yield kind, options[at + 2 : at + length]
        at += length
