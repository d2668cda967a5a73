"""TCP segments: bytes to data and back.

Options are laid out as Linux lays them out, which fixes their order and padding (net/ipv4/tcp_output.c,
tcp_options_write):

    SYN, SYN-ACK   mss, (sackOK + timestamp | nop nop timestamp | nop nop sackOK), (nop wscale), as far as each is used
    all others     (nop nop timestamp), (nop nop sack ...)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

from pktsim.kernel.transport import IpPacket
from pktsim.wire.checksum import checksum, pseudo_header_sum
from pktsim.wire.frame import IPPROTO_TCP

TCP_HEADER = 20
TCPOLEN_TSTAMP_ALIGNED = 12

_HEADER = struct.Struct("!HHIIHHHH")
_OPT_NOP, _OPT_EOL, _OPT_MSS, _OPT_WSCALE, _OPT_SACK_PERM, _OPT_SACK, _OPT_TIMESTAMP = 1, 0, 2, 3, 4, 5, 8
_MAX_WSCALE = 14


class Flag(IntFlag):
    """Header flags, at their bits of the sixteen with the data offset."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80
    AE = 0x100


# Plain integers: an IntFlag operation costs a microsecond, and these run several times per segment.
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
ECE, CWR = 0x40, 0x80


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment.

    Attributes:
        seq: As on the wire, 32 bits; so is ``ack``.
        flags: Bits of :class:`Flag`.
        window: As on the wire, not scaled.
        mss: Option; 0 if absent.
        wscale: Option, -1 if absent.
        ts_val: With ``ts_ecr`` the time stamp option, ``None`` if absent.
        sack: Blocks of (left, right edge) as on the wire.
        tos: Of the packet that brought it.
        reply_mark: That packet's mark if an answer without a connection has it too (fwmark_reflect), else 0.
        answered_header: Its IPv4 header, if that has options.
    """

    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    payload: bytes = b""
    mss: int = 0
    wscale: int = -1
    sack_permitted: bool = False
    ts_val: int | None = None
    ts_ecr: int = 0
    sack: tuple[tuple[int, int], ...] = ()
    tos: int = 0
    reply_mark: int = 0
    answered_header: bytes = b""

    @property
    def length(self) -> int:
        """Sequence numbers it takes: SYN and FIN count."""
        return len(self.payload) + (self.flags & SYN > 0) + (self.flags & FIN > 0)

    def __str__(self) -> str:
        letters = "".join(
            letter for bit, letter in zip((SYN, FIN, RST, PSH), "SFRP", strict=True) if self.flags & bit
        ) + ("." if self.flags & ACK else "")
        return f"{self.sport} > {self.dport} [{letters}] seq {self.seq} ack {self.ack} len {len(self.payload)}"


def options_length(*, timestamp: bool, sack_blocks: int = 0) -> int:
    """Bytes of options on a segment that is no SYN."""
    return (TCPOLEN_TSTAMP_ALIGNED if timestamp else 0) + (4 + 8 * sack_blocks if sack_blocks else 0)


def _options(segment: Segment) -> bytes:
    parts: list[bytes] = []
    if segment.mss:
        parts.append(struct.pack("!BBH", _OPT_MSS, 4, segment.mss))
    if segment.ts_val is not None:
        # On a SYN the two bytes of padding in front of the time stamp carry sackOK.
        lead = (_OPT_SACK_PERM, 2) if segment.sack_permitted else (_OPT_NOP, _OPT_NOP)
        parts.append(struct.pack("!BBBBII", *lead, _OPT_TIMESTAMP, 10, segment.ts_val, segment.ts_ecr))
    elif segment.sack_permitted:
        parts.append(bytes((_OPT_NOP, _OPT_NOP, _OPT_SACK_PERM, 2)))
    if segment.wscale >= 0:
        parts.append(bytes((_OPT_NOP, _OPT_WSCALE, 3, segment.wscale)))
    if segment.sack:
        parts.append(bytes((_OPT_NOP, _OPT_NOP, _OPT_SACK, 2 + 8 * len(segment.sack))))
        parts.extend(struct.pack("!II", left, right) for left, right in segment.sack)
    return b"".join(parts)


def build_segment(segment: Segment, saddr: bytes, daddr: bytes) -> bytes:
    """Return the segment's bytes with the right checksum."""
    options = _options(segment)
    offset = (TCP_HEADER + len(options)) // 4
    header = _HEADER.pack(
        segment.sport,
        segment.dport,
        segment.seq,
        segment.ack,
        offset << 12 | segment.flags,
        segment.window,
        0,
        0,
    )
    data = header + options + segment.payload
    value = checksum(data, pseudo_header_sum(saddr, daddr, IPPROTO_TCP, len(data)))
    return b"%b%b%b" % (data[:16], value.to_bytes(2, "big"), data[18:])


def checksum_ok(packet: IpPacket) -> bool:
    """Whether the TCP checksum of a packet is right."""
    payload = packet.payload
    return checksum(payload, pseudo_header_sum(packet.saddr, packet.daddr, IPPROTO_TCP, len(payload))) == 0


def parse_segment(data: bytes, tos: int = 0, reply_mark: int = 0, header: bytes = b"") -> Segment | None:
    """Take a segment apart; ``None`` if its lengths are impossible.

    Unknown options are passed over, and reading stops at one whose length is impossible (tcp_parse_options).
    """
    if len(data) < TCP_HEADER:
        return None
    sport, dport, seq, ack, bits, window, _, _ = _HEADER.unpack_from(data)
    offset = (bits >> 12) * 4
    if offset < TCP_HEADER or offset > len(data):
        return None
    flags = bits & 0x1FF
    mss, wscale, sack_permitted = 0, -1, False
    ts_val: int | None = None
    ts_ecr = 0
    sack: tuple[tuple[int, int], ...] = ()
    if offset == TCP_HEADER + TCPOLEN_TSTAMP_ALIGNED and data[20:24] == b"\x01\x01\x08\x0a":
        ts_val, ts_ecr = struct.unpack_from("!II", data, 24)
    else:
        at = TCP_HEADER
        while at < offset:
            kind = data[at]
            if kind == _OPT_EOL:
                break
            if kind == _OPT_NOP:
                at += 1
                continue
            if at + 1 >= offset:
                break
            size = data[at + 1]
            if size < 2 or at + size > offset:
                break
            if kind == _OPT_MSS and size == 4 and flags & SYN:
                mss = int.from_bytes(data[at + 2 : at + 4], "big")
            elif kind == _OPT_WSCALE and size == 3 and flags & SYN:
                wscale = min(data[at + 2], _MAX_WSCALE)
            elif kind == _OPT_SACK_PERM and size == 2 and flags & SYN:
                sack_permitted = True
            elif kind == _OPT_TIMESTAMP and size == 10:
                ts_val, ts_ecr = struct.unpack_from("!II", data, at + 2)
            elif kind == _OPT_SACK and size >= 10 and (size - 2) % 8 == 0:
                edges = struct.unpack_from(f"!{(size - 2) // 4}I", data, at + 2)
                sack = tuple(zip(edges[::2], edges[1::2], strict=True))
            at += size
    return Segment(
        sport,
        dport,
        seq,
        ack,
        flags,
        window,
        data[offset:],
        mss,
        wscale,
        sack_permitted,
        ts_val,
        ts_ecr,
        sack,
        tos,
        reply_mark,
        header,
    )
