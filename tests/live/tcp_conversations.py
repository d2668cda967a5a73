"""Random TCP conversations through a node: mostly what two hosts would say, and now and then something else.

Flags, numbers, windows and options are drawn near the edges that connection tracking compares them with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import IPPROTO_TCP, TcpFlag, tcp, tcp_options
from tests.live.case_rules import Dice
from tests.live.flow_cases import PLACES, Story, begin

_FIN, _SYN, _RST, _PSH, _ACK, _URG = (
    TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.PSH, TcpFlag.ACK, TcpFlag.URG,
)  # fmt: skip
_FLAGS: Final = (
    _ACK, _SYN, _SYN | _ACK, _FIN | _ACK, _RST, _RST | _ACK, _PSH | _ACK, _ACK, _SYN, _RST, _SYN | _ACK, _FIN | _ACK,
    _FIN, TcpFlag(0), _SYN | _FIN, _SYN | _RST, _FIN | _ACK | _URG, _ACK | _URG, _SYN | _URG, _PSH, _URG,
    _SYN | _ACK | _URG, _FIN | _PSH | _URG, _RST | _FIN, _SYN | TcpFlag.ECE | TcpFlag.CWR, _ACK | TcpFlag.ECE,
)  # fmt: skip
_LENGTHS: Final = (0, 0, 1, 100, 1000)
_WINDOWS: Final = (64240, 64240, 65535, 0, 1, 500, 29200)
_OFFSETS: Final = (
    0, 0, 0, 1, -1, 2, -2, 100, -100, 500, -500, 1460, 64239, 64240, 64241, -64240, 65535, -65535, 66000, -66000, 66001,
    -66001, 1 << 20, -(1 << 20), 1 << 31, (1 << 31) - 1,
)  # fmt: skip
_SYN_OPTIONS: Final = (
    tcp_options(mss=1460, sack_permitted=True, window_scale=7),
    b"",
    tcp_options(mss=1460),
    tcp_options(mss=1460, sack_permitted=True),
    tcp_options(mss=1460, window_scale=2),
    bytes((3, 3, 15, 0)),  # more than allowed
    bytes((3, 4, 7, 0)),  # a wrong length
    bytes((1, 1, 1, 3)),  # cut off
    bytes((4, 2, 4, 2)),
    bytes((2, 0, 0, 0)),  # a length that leads nowhere
    bytes((2, 4, 5, 180, 1, 3, 3, 14, 0, 9, 9, 9)),
)
_TIMEOUTS: Final = {
    "syn_sent": 33, "syn_recv": 37, "established": 3600, "fin_wait": 41, "close_wait": 45, "last_ack": 49,
    "time_wait": 53, "close": 10, "max_retrans": 57, "unacknowledged": 61,
}  # fmt: skip
_PREFIX: Final = "net.netfilter.nf_conntrack_tcp_"
_SYSCTLS: Final[tuple[dict[str, str], ...]] = (
    {},
    {f"{_PREFIX}timeout_{name}": str(seconds) for name, seconds in _TIMEOUTS.items()},
    {f"{_PREFIX}be_liberal": "1"},
    {f"{_PREFIX}loose": "0"},
    {f"{_PREFIX}ignore_invalid_rst": "1"},
    {f"{_PREFIX}max_retrans": "1"},
    {f"{_PREFIX}timeout_{name}": str(seconds) for name, seconds in _TIMEOUTS.items() if name != "established"},
    {"net.netfilter.nf_conntrack_checksum": "0"},
    {"net.netfilter.nf_conntrack_acct": "1"},
)


@dataclass
class _End:
    """One host's numbers."""

    first: int
    next: int
    acknowledged: int = 0  # what the other one has acknowledged
    scale: int = 0


class _Talk:
    def __init__(self, dice: Dice, story: Story, place: str) -> None:
        who = story.who
        self.story = story
        self.ends = (self._end(dice), self._end(dice))
        self.phase = 0
        self.sport = 4000
        virtual = place in ("dnat", "both", "redirect")
        self.target = (who.virtual, 80) if virtual else (who.server, 8080) if place != "local" else (who.near, 8080)
        self.served_by = (who.server, 8080) if place not in ("local", "redirect") else self.target
        source = {"both": who.far, "snat": who.pool, "masquerade": who.far}.get(place, who.client)
        self.seen_as = source

    @staticmethod
    def _end(dice: Dice) -> _End:
        first = dice.pick((1000, 50000, (1 << 32) - 3, (1 << 32) - 700, (1 << 31) - 2, 0))
        return _End(first, first)

    def say(self, side: int, flags: int, seq: int, ack: int, *, length: int, window: int, options: bytes) -> bytes:
        if side == 0:
            source, sport, destination, dport = self.story.who.client, self.sport, *self.target
        else:
            (source, sport), (destination, dport) = self.served_by, (self.seen_as, self.sport)
        segment = tcp(
            ip_from_text(source),
            ip_from_text(destination),
            sport,
            dport,
            bytes(length),
            seq=seq & 0xFFFFFFFF,
            ack=ack & 0xFFFFFFFF,
            flags=flags,
            window=window,
            options=options,
        )
        return self.story.packet(source, destination, IPPROTO_TCP, segment)

    def natural(self, dice: Dice, side: int) -> bytes:
        """What comes next, if all goes well."""
        window = dice.pick(_WINDOWS)
        if self.phase < 3:
            phase, self.phase = self.phase, self.phase + 1
            side = phase & 1
            me, peer = self.ends[side], self.ends[1 - side]
            flags = (_SYN, _SYN | _ACK, _ACK)[phase]
            seq, ack = (me.first, me.first, me.next)[phase], 0 if phase == 0 else peer.next
            if flags & _SYN:
                me.next = me.first + 1
            options = dice.pick(_SYN_OPTIONS) if flags & _SYN else b""
            return self.say(side, flags, seq, ack, length=0, window=window, options=options)
        me, peer = self.ends[side], self.ends[1 - side]
        flags = dice.pick((_ACK, _PSH | _ACK, _ACK, _FIN | _ACK, _ACK, _PSH | _ACK, _RST, _RST | _ACK))
        length = dice.pick(_LENGTHS[2:]) if flags & _PSH else 0
        seq = me.next
        me.next += length + bool(flags & _FIN)
        peer.acknowledged = peer.next
        if flags & _RST and dice.one_in(2):
            self.phase = 0
        return self.say(side, flags, seq, peer.next, length=length, window=window, options=b"")

    def odd(self, dice: Dice, side: int) -> bytes:
        """Anything."""
        me, peer = self.ends[side], self.ends[1 - side]
        flags = dice.pick(_FLAGS)
        seq = dice.pick((me.next, me.next, me.first, me.acknowledged, peer.next, 0)) + dice.pick(_OFFSETS)
        ack = dice.pick((peer.next, peer.next, peer.first, peer.acknowledged, me.next, 0)) + dice.pick(_OFFSETS)
        if not flags & _ACK and dice.one_in(2):
            ack = 0
        options = dice.pick(_SYN_OPTIONS) if flags & _SYN else b""
        if not flags & _SYN and dice.one_in(4):
            edge = (peer.next + dice.pick(_OFFSETS)) & 0xFFFFFFFF
            options = dice.pick(
                (
                    tcp_options(sack_blocks=((peer.first & 0xFFFFFFFF, edge),)),
                    tcp_options(timestamps=(1, 1)) + tcp_options(sack_blocks=((edge, edge), (0, 5))),
                    bytes((5, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
                )
            )
        length = dice.pick(_LENGTHS)
        if dice.one_in(2):
            me.next = seq + length + bool(flags & _SYN) + bool(flags & _FIN)
            if flags & _SYN:
                me.first, self.phase = seq, 1 + side
        return self.say(side, flags, seq, ack, length=length, window=dice.pick(_WINDOWS), options=options)


def _broken(dice: Dice, packet: bytes, header: int) -> bytes:
    """A bit of the segment, or of what is left of it, is wrong."""
    how = dice.below(4)
    at = header + dice.below(max(1, len(packet) - header))
    if how < 2:
        return packet[:at] + bytes([packet[at] ^ (1 << dice.below(8))]) + packet[at + 1 :]
    size = len(packet) - header
    kept = packet[: header + dice.below(size)] if size else packet
    if header == 40:
        return kept[:4] + (len(kept) - 40).to_bytes(2, "big") + kept[6:]
    return kept  # shorter than the header says


def tcp_conversation(settings: bytes, steps: Sequence[bytes]) -> Story:
    """The case that these bytes decide."""
    dice = Dice(settings)
    place = dice.pick(PLACES)
    family = dice.pick((4, 6))
    story = begin(dice, family, place, ("tcp",), dict(dice.pick(_SYSCTLS)))
    talk = _Talk(dice, story, place)
    said: list[tuple[str, bytes]] = []
    for data in steps:
        dice = Dice(data)
        side = dice.below(2)
        how = dice.below(16)
        if how < 9:
            packet = talk.natural(dice, side)
        elif how < 14 or not said:
            packet = talk.odd(dice, side)
        else:
            story.arrives(*said[-1 - dice.below(min(4, len(said)))])
            continue
        ends_at_client = (
            packet[12:16] == ip_from_text(story.who.client)
            if family == 4
            else (packet[8:24] == ip_from_text(story.who.client))
        )
        interface = "in" if ends_at_client else "out"
        if interface == "out" and place in ("local", "redirect"):
            continue  # the node answers itself
        if dice.one_in(20):
            packet = _broken(dice, packet, 40 if family == 6 else 20)
        said.append((interface, packet))
        story.arrives(interface, packet)
    return story
