"""Random ICMP errors about flows that a node translates: about either direction, true or not, whole or cut short.

The node makes some of them itself, where a packet's time to live is over, its port closed or a rule rejects it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pktsim.kernel.case import StepResult
from pktsim.wire.addr import ip_from_text, ip_to_text
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    TcpFlag,
    icmp,
    icmpv6,
    tcp,
    udp,
)
from tests.live.case_rules import Dice
from tests.live.flow_cases import PLACES, Story, begin
from tests.netfilter.case_script import crc32c

_ETHERNET: Final = 14
#: (type, code) of errors, and of what looks like one.
_ERRORS4: Final = (
    (3, 3), (3, 1), (3, 4), (11, 0), (3, 0), (12, 0), (4, 0), (5, 1), (3, 13), (11, 1), (5, 0), (3, 2), (19, 0), (6, 0),
    (0, 0), (8, 0), (13, 0), (14, 0), (18, 0), (40, 0),
)  # fmt: skip
_ERRORS6: Final = (
    (1, 4), (2, 0), (1, 0), (3, 0), (4, 0), (1, 1), (3, 1), (4, 1), (1, 3), (137, 0), (100, 0), (127, 0), (0, 0),
    (128, 0), (129, 0), (139, 0), (140, 0), (130, 0), (135, 0), (143, 0), (5, 0), (200, 0),
)  # fmt: skip
_REJECTS4: Final = ("icmp-port-unreachable", "icmp-host-prohibited", "icmp-admin-prohibited", "icmp-net-unreachable")
_REJECTS6: Final = ("icmp6-port-unreachable", "icmp6-adm-prohibited", "icmp6-no-route", "icmp6-addr-unreachable")
_PROTOCOLS: Final = (IPPROTO_UDP, IPPROTO_TCP, IPPROTO_ICMP, IPPROTO_UDP, IPPROTO_TCP, IPPROTO_GRE, IPPROTO_SCTP, 99,
                     IPPROTO_UDPLITE)  # fmt: skip
_NAMES: Final = {IPPROTO_UDP: "udp", IPPROTO_TCP: "tcp", IPPROTO_SCTP: "sctp", IPPROTO_UDPLITE: "udplite"}
_SYSCTLS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"net.netfilter.nf_conntrack_acct": "1"},
    {"net.netfilter.nf_conntrack_checksum": "0"},
)


def _message(dice: Dice, protocol: int, ends: tuple[bytes, bytes], sport: int, dport: int, *, reply: bool) -> bytes:
    """What the protocol carries first, or in answer."""
    data = bytes(dice.pick((8, 0, 60, 600, 1300)))
    if protocol == IPPROTO_UDP:
        return udp(*ends, sport, dport, data)
    if protocol == IPPROTO_TCP:
        flags = TcpFlag.SYN | (TcpFlag.ACK if reply else TcpFlag(0))
        return tcp(*ends, sport, dport, b"", seq=1000, ack=1001 if reply else 0, flags=flags, window=64240)
    if protocol == IPPROTO_ICMP:
        return icmp(0 if reply else 8, 0, 0x4D0001, data)
    if protocol == IPPROTO_ICMPV6:
        return icmpv6(*ends, 129 if reply else 128, 0, 0x4D0001, data)
    if protocol == IPPROTO_GRE:
        return bytes.fromhex("2000080000000007") + data
    if protocol == IPPROTO_SCTP:
        chunk = struct.pack("!BBHIIHHI", 2 if reply else 1, 0, 20, 0x11111111, 0xFFFF, 1, 1, 1)
        head = struct.pack("!HHI", sport, dport, 0x11111111 if reply else 0)
        return head + crc32c(head + bytes(4) + chunk).to_bytes(4, "little") + chunk
    if protocol == IPPROTO_UDPLITE:
        head = struct.pack("!HHHH", sport, dport, 0, 0)
        # connection tracking wants UDP's number in the pseudo-header
        return head[:6] + transport_checksum(*ends, IPPROTO_UDP, head + data).to_bytes(2, "big") + data
    return data


@dataclass(frozen=True, slots=True)
class _Seen:
    """A packet as its receiver saw it, and the interface by which an error about it would come.

    Where the node has sent it, (step, frame) say so: the kernel may have drawn its ports.
    """

    interface: str
    packet: bytes
    sent: tuple[int, int] | None = None


class _Errors:
    def __init__(self, story: Story, place: str) -> None:
        self.story = story
        self.virtual = place in ("dnat", "both", "redirect")
        self.place = place
        #: What errors may be about.
        self.seen: list[_Seen] = []

    def talk(self, dice: Dice) -> None:
        """A packet of one of the flows, either way."""
        story, who = self.story, self.story.who
        protocol = dice.pick(_PROTOCOLS)
        if protocol == IPPROTO_ICMP and story.family == 6:
            protocol = IPPROTO_ICMPV6
        sport = dice.pick((4000, 4001))
        reply = dice.one_in(3)
        destination, dport = (who.virtual, 80) if self.virtual and protocol in _NAMES else (who.server, 8080)
        if self.place == "local":
            destination = who.near
        source = who.client
        if reply:
            towards = {"both": who.far, "masquerade": who.far, "snat": who.pool}.get(self.place, who.client)
            source, destination, sport, dport = who.server, towards, 8080, sport
        ends = ip_from_text(source), ip_from_text(destination)
        payload = _message(dice, protocol, ends, sport, dport, reply=reply)
        limit = dice.pick((64, 64, 64, 1, 2))
        options: dict[str, Any] = (
            {"hop_limit": limit} if story.family == 6 else {"ttl": limit, "dont_fragment": not dice.one_in(3)}
        )
        if story.family == 4 and dice.one_in(8):
            options["options"] = bytes((1, 1, 1, 0))
        packet = story.packet(source, destination, protocol, payload, **options)
        interface = "out" if reply else "in"
        result = story.arrives(interface, packet)
        self.seen.append(_Seen(interface, packet))  # nobody on the way has translated it
        self.seen += self._sent(result) * 2

    def _sent(self, result: StepResult) -> list[_Seen]:
        step = len(self.story.case["steps"]) - 1
        return [_Seen(name, frame[_ETHERNET:], (step, number)) for number, (name, frame) in enumerate(result.emitted)]

    def complain(self, dice: Dice) -> None:
        """An error about one of the packets seen."""
        story, who = self.story, self.story.who
        seen = self.seen[-1 - dice.below(min(6, len(self.seen)))]
        interface, about = seen.interface, seen.packet
        header = 40 if story.family == 6 else (about[0] & 15) * 4
        at = (8, 24, 16) if story.family == 6 else (12, 16, 4)
        culprit, target = about[at[0] : at[0] + at[2]], about[at[1] : at[1] + at[2]]
        size = dice.pick((len(about), len(about), header + 8, header + 8, header + 20, header, header + 1, 8))
        quote = about[:size]
        if dice.one_in(12) and len(quote) > 24:
            place = dice.below(len(quote))
            quote = quote[:place] + bytes([quote[place] ^ (1 << dice.below(8))]) + quote[place + 1 :]
        speaker = dice.pick(
            (
                target,
                ip_from_text(who.stranger),
                ip_from_text(who.server if interface == "out" else who.client),
                culprit,
            )
        )
        hearer = (
            culprit if not dice.one_in(10) else ip_from_text(dice.pick((who.client, who.far, who.server, who.pool)))
        )
        kind, code = dice.pick(_ERRORS6 if story.family == 6 else _ERRORS4)
        rest = dice.pick((0, 1280, 68, 0x01000000, 0x05000000))
        if story.family == 6:
            message = icmpv6(speaker, hearer, kind, code, rest, quote)
            protocol = IPPROTO_ICMPV6
        else:
            if dice.one_in(8):
                # RFC 4884: what is quoted is padded, its length is said, and an extension follows
                quote = quote[:128].ljust(128, b"\0")
                rest |= 32 << 16
                quote += bytes.fromhex("2000dfff00080101ffffffff")
            message = icmp(kind, code, rest, quote)
            protocol = IPPROTO_ICMP
        if dice.one_in(16):
            where = dice.below(min(8, len(message)))
            message = message[:where] + bytes([message[where] ^ 1]) + message[where + 1 :]
        if dice.one_in(24):
            message = message[: dice.below(12)]
        if dice.one_in(10):
            interface = "in" if interface == "out" else "out"
        hops: dict[str, Any] = {"hop_limit": 255 if kind >= 130 else 64} if story.family == 6 else {"ttl": 64}
        addresses = (ip_to_text(speaker), ip_to_text(hearer))
        takes = _drawn(about, seen.sent) if seen.sent is not None else []
        result = story.arrives(interface, story.packet(*addresses, protocol, message, **hops), takes)
        if dice.one_in(3):
            self.seen += self._sent(result)  # errors about errors


def _drawn(about: bytes, sent: tuple[int, int]) -> list[dict[str, Any]]:
    """The quoted fields to take from the frame that was sent."""
    protocol = about[6] if about[0] >> 4 == 6 else about[9]
    name = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp"}.get(protocol)
    if name is None:
        return []
    source = {"step": sent[0], "frame": sent[1]}
    fields = (f"{name}.sport", f"{name}.dport")
    return [{"field": f"inner.{one}", "from": {**source, "field": one}} for one in fields]


def icmp_conversation(settings: bytes, steps: Sequence[bytes]) -> Story:
    """The case that these bytes decide."""
    dice = Dice(settings)
    place = dice.pick(PLACES)
    family = dice.pick((4, 6))
    more: dict[str, Sequence[str]] = {}
    if dice.one_in(4):
        kind = dice.pick(_REJECTS6 if family == 6 else _REJECTS4)
        chain = dice.pick(("FORWARD", "INPUT"))
        more["filter"] = [f"-A {chain} -p udp -m udp --dport 8080 -j REJECT --reject-with {kind}"]
    story = begin(dice, family, place, ("tcp", "udp", "sctp", "udplite"), dict(dice.pick(_SYSCTLS)), more)
    errors = _Errors(story, place)
    for data in steps:
        dice = Dice(data)
        if dice.below(5) < 2 or not errors.seen:
            errors.talk(dice)
        else:
            errors.complain(dice)
    return story
