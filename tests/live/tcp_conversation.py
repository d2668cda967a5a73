"""What a hand-written peer says in a TCP connection, and what it is told, in words that do not depend on chance."""

from __future__ import annotations

from dataclasses import dataclass, field

from pktsim.kernel.tcp_segment import ACK, FIN, PSH, RST, SYN, Segment, build_segment, parse_segment
from pktsim.kernel.transport import IpPacket, build_ip
from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import IPPROTO_TCP

ME, PEER = ip_from_text("10.77.0.1"), ip_from_text("10.77.0.2")
NEAR_MAC, FAR_MAC = "02:00:00:00:77:01", "02:ff:00:00:00:01"
PEER_PORT = 40000
PEER_ISN = 1_000_000
MASK32 = 0xFFFFFFFF
ECE, CWR = 0x40, 0x80
_LETTERS = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (ACK, "."), (ECE, "E"), (CWR, "W"))

SYSCTLS: dict[str, str | int] = {
    "net.ipv4.tcp_congestion_control": "reno",
    "net.ipv4.tcp_invalid_ratelimit": 0,
    "net.ipv4.tcp_rmem": "4096 131072 33554432",
    "net.ipv4.tcp_no_metrics_save": 1,
}


@dataclass(frozen=True)
class Say:
    """A segment of the peer.

    Attributes:
        seq: Counts from the peer's SYN; ``ack`` and ``sack`` from the other side's.
        stamp: The value of its time stamp.
        echo: Its time stamp's echo: that of the n-th segment that has come (from 0, negative from the end); none if
            ``None``.
        tos: Of its IP header.
        peer: Which of several peers says it.
    """

    flags: int
    seq: int = 0
    ack: int = 0
    length: int = 0
    window: int = 1000
    sack: tuple[tuple[int, int], ...] = ()
    stamp: int = 100
    echo: int | None = None
    tos: int = 0
    peer: int = 0


@dataclass
class Options:
    """What the peer's SYN offers."""

    mss: int = 1460
    wscale: int = 7
    sack: bool = True
    timestamps: bool = True


@dataclass
class Conversation:
    """Numbers of one connection, and answers in words."""

    options: Options
    port: int
    peer_port: int = PEER_PORT
    isn: int = 0
    first_id: int | None = None
    stamps: list[int] = field(default_factory=list)

    def packet(self, say: Say) -> bytes:
        syn = say.flags & SYN
        echo = 0
        if say.echo is not None and self.stamps:
            # Where less has come than was thought, the comparison will say so.
            echo = self.stamps[min(say.echo, len(self.stamps) - 1)]
        segment = Segment(
            self.peer_port,
            self.port,
            (PEER_ISN + say.seq) & MASK32,
            (self.isn + say.ack) & MASK32 if say.flags & ACK else 0,
            say.flags,
            say.window,
            b"y" * say.length,
            self.options.mss if syn else 0,
            self.options.wscale if syn else -1,
            bool(syn) and self.options.sack,
            say.stamp if self.options.timestamps else None,
            echo,
            tuple(((self.isn + left) & MASK32, (self.isn + right) & MASK32) for left, right in say.sack),
        )
        return build_ip(PEER, ME, IPPROTO_TCP, build_segment(segment, PEER, ME), ttl=64, tos=say.tos)

    def describe(self, packet: IpPacket) -> str:
        segment = parse_segment(packet.payload)
        assert segment is not None
        if segment.flags & SYN:
            self.isn = segment.seq
            self.first_id = None
        self.stamps.append(segment.ts_val or 0)
        identification = int.from_bytes(packet.data[4:6], "big")
        if identification and self.first_id is None:
            self.first_id = identification
        step = "0" if not identification else f"+{(identification - (self.first_id or 0)) & 0xFFFF}"
        header = packet.payload[20 : (packet.payload[12] >> 4) * 4].hex()
        if segment.ts_val is not None:
            header = header.replace(f"080a{segment.ts_val:08x}", "080a........", 1)
        for left, right in segment.sack:
            header = header.replace(f"{left:08x}{right:08x}", f"<{left - PEER_ISN}-{right - PEER_ISN}>", 1)
        letters = "".join(c for bit, c in _LETTERS if segment.flags & bit)
        seq = (segment.seq - self.isn) & MASK32 if segment.seq else "zero"
        ack = f" ack {(segment.ack - PEER_ISN) & MASK32}" if segment.flags & ACK else ""
        return (
            f"{letters} {seq}+{len(segment.payload)}{ack} win {segment.window} options {header} "
            f"ttl {packet.ttl} tos {packet.tos} df {packet.data[6] >> 6 & 1} id {step}"
        )
