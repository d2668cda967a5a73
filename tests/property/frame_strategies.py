"""Frames, addresses and captures for hypothesis (rules are in ``strategies``)."""

from __future__ import annotations

from hypothesis import strategies as st

from pktsim.wire.capture import Capture, CapturedFrame, CaptureInterface, Direction, LinkType
from pktsim.wire.frame import (
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    ethernet,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    tcp,
    tcp_options,
    udp,
)

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
macs = st.binary(min_size=6, max_size=6)
ipv4_addresses = st.binary(min_size=4, max_size=4)
ipv6_addresses = st.binary(min_size=16, max_size=16)
payloads = st.binary(max_size=200)


@st.composite
def tcp_option_bytes(draw: st.DrawFn) -> bytes:
    """Options as a SYN or a data segment has them."""
    if draw(st.booleans()):
        return tcp_options(
            mss=draw(u16),
            sack_permitted=draw(st.booleans()),
            timestamps=draw(st.none() | st.tuples(u32, u32)),
            window_scale=draw(st.none() | st.integers(0, 14)),
        )
    return tcp_options(
        timestamps=draw(st.none() | st.tuples(u32, u32)),
        sack_blocks=tuple(draw(st.lists(st.tuples(u32, u32), max_size=3))),
    )


@st.composite
def segments(draw: st.DrawFn, saddr: bytes, daddr: bytes) -> tuple[int, bytes]:
    """A protocol number and a transport segment between two addresses."""
    payload = draw(payloads)
    match draw(st.sampled_from(("tcp", "udp", "icmp", "other"))):
        case "tcp":
            return IPPROTO_TCP, tcp(
                *(saddr, daddr, draw(u16), draw(u16), payload),
                seq=draw(u32),
                ack=draw(u32),
                flags=draw(st.integers(0, 0x1FF)),
                window=draw(u16),
                urgent=draw(u16),
                options=draw(tcp_option_bytes()),
            )
        case "udp":
            with_checksum = len(saddr) == 16 or draw(st.booleans())
            return IPPROTO_UDP, udp(saddr, daddr, draw(u16), draw(u16), payload, with_checksum=with_checksum)
        case "icmp" if len(saddr) == 4:
            return IPPROTO_ICMP, icmp(draw(u8), draw(u8), draw(u32), payload)
        case "icmp":
            return IPPROTO_ICMPV6, icmpv6(saddr, daddr, draw(u8), draw(u8), draw(u32), payload)
        case _:
            return 253, payload  # for experiments (RFC 3692)


@st.composite
def ipv4_packets(
    draw: st.DrawFn,
    sources: st.SearchStrategy[bytes] = ipv4_addresses,
    destinations: st.SearchStrategy[bytes] = ipv4_addresses,
) -> bytes:
    """A whole IPv4 packet with right checksums."""
    saddr, daddr = draw(sources), draw(destinations)
    protocol, segment = draw(segments(saddr, daddr))
    return ipv4(
        *(saddr, daddr, protocol, segment),
        ttl=draw(u8),
        tos=draw(u8),
        identification=draw(u16),
        dont_fragment=draw(st.booleans()),
        options=b"\x01" * 4 * draw(st.integers(0, 3)),
    )


@st.composite
def ipv6_packets(
    draw: st.DrawFn,
    sources: st.SearchStrategy[bytes] = ipv6_addresses,
    destinations: st.SearchStrategy[bytes] = ipv6_addresses,
) -> bytes:
    """A whole IPv6 packet with right checksums, sometimes with an extension header."""
    saddr, daddr = draw(sources), draw(destinations)
    protocol, segment = draw(segments(saddr, daddr))
    if draw(st.booleans()):
        protocol, segment = 60, bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) + segment
    flow_label = draw(st.integers(0, 0xFFFFF))
    return ipv6(*(saddr, daddr, protocol, segment), hop_limit=draw(u8), traffic_class=draw(u8), flow_label=flow_label)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """An Ethernet frame with a valid IP packet in it."""
    if draw(st.booleans()):
        return ethernet(draw(macs), draw(macs), ETH_P_IP, draw(ipv4_packets()))
    return ethernet(draw(macs), draw(macs), ETH_P_IPV6, draw(ipv6_packets()))


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid frame with a few bytes changed, and perhaps cut off or with bytes behind it."""
    frame = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 5))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(u8)
    if draw(st.booleans()):
        del frame[draw(st.integers(0, len(frame))) :]
    return bytes(frame) + draw(st.binary(max_size=20))


#: Names that devices and hosts have; no control characters.
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"), min_size=1, max_size=20)
comments = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)


@st.composite
def captures(draw: st.DrawFn) -> Capture:
    """A capture with every kind of thing in it."""
    names = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    interfaces = [
        CaptureInterface(f"node/{name}", draw(st.just("") | words), LinkType.ETHERNET, draw(st.none() | macs))
        for name in names
    ]
    captured = [
        CapturedFrame(
            draw(st.integers(0, len(interfaces) - 1)),
            draw(st.integers(0, (1 << 63) - 1)),
            frame,
            draw(st.sampled_from(Direction)),
            tuple(draw(st.lists(comments, max_size=3))),
            draw(st.just(0) | st.integers(len(frame) + 1, 70_000)),
        )
        for frame in draw(st.lists(frames() | st.binary(max_size=40), max_size=6))
    ]
    resolved = draw(
        st.dictionaries(ipv4_addresses | ipv6_addresses, st.lists(words, min_size=1, max_size=2).map(tuple), max_size=4)
    )
    return Capture(interfaces, captured, resolved, draw(st.just("") | comments))
