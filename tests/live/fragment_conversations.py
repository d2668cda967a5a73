"""Random fragments through a node that tracks connections, or to it: in any order, twice, overlapping, or not all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import (
    IPPROTO_FRAGMENT,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TcpFlag,
    icmp,
    icmpv6,
    ipv6_fragment,
    tcp,
    udp,
)
from tests.live.case_rules import Dice
from tests.live.flow_cases import BRIDGE_MAC, PLACES, Story, begin

_SIZES: Final = (40, 8, 24, 100, 600, 1400, 2900)
_CUTS: Final = (16, 8, 24, 56, 512, 1208, 1400, 1480)
_SYSCTLS: Final[tuple[dict[str, str], ...]] = ({}, {}, {"net.netfilter.nf_conntrack_checksum": "0"})
_RULES4: Final = ("-A FORWARD -f", "-A INPUT -f", "-A FORWARD ! -f -p udp -m udp --dport 8080")
_RULES6: Final = (
    "-A FORWARD -m frag --fragfirst",
    "-A FORWARD -p udp -m udp --dport 8080",
    "-A INPUT -m frag --fragmore",
)


def _payload(dice: Dice, protocol: int, ends: tuple[bytes, bytes], ports: tuple[int, int], *, reply: bool) -> bytes:
    data = bytes(at & 0xFF for at in range(dice.pick(_SIZES)))
    if protocol == IPPROTO_UDP:
        return udp(*ends, *ports, data)
    if protocol == IPPROTO_TCP:
        flags = TcpFlag.SYN | TcpFlag.ACK if reply else TcpFlag.SYN
        return tcp(*ends, *ports, data, seq=1000, ack=1001 if reply else 0, flags=flags, window=64240)
    if protocol == IPPROTO_ICMP:
        return icmp(0 if reply else 8, 0, 0x4D0001, data)
    if protocol == IPPROTO_ICMPV6:
        return icmpv6(*ends, 129 if reply else 128, 0, 0x4D0001, data)
    return data


def _pieces(dice: Dice, payload: bytes) -> list[tuple[int, bytes, bool]]:
    """(offset, data, more): what a sender would send, or not quite."""
    size = dice.pick(_CUTS)
    found: list[tuple[int, bytes, bool]] = []
    at = 0
    while at < len(payload) and len(found) < 7:
        end = at + size
        if len(found) == 6:
            end = len(payload)
        found.append((at, payload[at:end], end < len(payload)))
        at = end
    how = dice.below(12)
    place = dice.below(len(found))
    if how == 1:
        found.reverse()
    elif how == 2:
        del found[place]
    elif how == 3:
        found.insert(dice.below(len(found) + 1), found[place])
    elif how == 4:
        offset, data, more = found[place]
        found.insert(dice.below(len(found) + 1), (max(offset - 8, 0), data, more))
    elif how == 5:
        offset, data, more = found[place]
        found[place] = (offset, data[: len(data) - dice.pick((1, 3, 8))], more)
    elif how == 6:
        offset, data, more = found[place]
        found[place] = (offset, data, not more)
    elif how == 7:
        offset, data, more = found[place]
        found[place] = (offset + 8 * dice.pick((1, 2, 8000)), data, more)
    elif how == 8:
        found.append((found[-1][0] + 8, b"behind the end!!", False))
    elif how == 9:
        found[place], found[0] = found[0], found[place]
    return found


def fragment_conversation(settings: bytes, steps: Sequence[bytes]) -> Story:
    """The case that these bytes decide."""
    dice = Dice(settings)
    place = dice.pick(PLACES)
    family = dice.pick((4, 6))
    more: dict[str, Sequence[str]] = {"filter": _RULES6 if family == 6 else _RULES4}
    if dice.one_in(5):
        more["raw"] = ["-A PREROUTING -j CT --notrack", "-A OUTPUT -j CT --notrack"]
    mtu = dice.pick((1500, 1500, 1500, 1400, 1280, 600)) if family == 4 else dice.pick((1500, 1500, 1400, 1280))
    story = begin(dice, family, place, ("tcp", "udp"), dict(dice.pick(_SYSCTLS)), more, mtus={"out": mtu})
    who = story.who
    for number, data in enumerate(steps):
        dice = Dice(data)
        reply = dice.one_in(3)
        protocol = dice.pick((IPPROTO_UDP, IPPROTO_UDP, IPPROTO_TCP, IPPROTO_ICMP, 99))
        if protocol == IPPROTO_ICMP and family == 6:
            protocol = IPPROTO_ICMPV6
        source, destination, sport, dport = who.client, who.server, 4000, 8080
        if place in ("dnat", "both", "redirect") and protocol in (IPPROTO_UDP, IPPROTO_TCP):
            destination, dport = who.virtual, 80
        if place == "local":
            destination = who.near
        if reply:
            back = {"both": who.far, "masquerade": who.far, "snat": who.pool}.get(place, who.client)
            source, destination, sport, dport = who.server, back, 8080, 4000
        ends = ip_from_text(source), ip_from_text(destination)
        payload = _payload(dice, protocol, ends, (sport, dport), reply=reply)
        interface = "out" if reply else "in"
        to = BRIDGE_MAC if interface in story.ports and dice.one_in(4) else ""
        limit = dice.pick((64, 64, 64, 1))
        tos = dice.pick((0, 0, 1, 2, 3, 0xB8))
        for offset, piece, more_follow in _pieces(dice, payload):
            if dice.one_in(12):
                tos = dice.pick((0, 1, 2, 3))
            if family == 6:
                made = ipv6_fragment(protocol, piece, identification=number, offset=offset & 0xFFF8, more=more_follow)
                packet = story.packet(source, destination, IPPROTO_FRAGMENT, made, hop_limit=limit, traffic_class=tos)
            else:
                packet = story.packet(
                    source, destination, protocol, piece, identification=number + 1, fragment_offset=offset & 0xFFF8,
                    more_fragments=more_follow, ttl=limit, tos=tos, dont_fragment=dice.one_in(4),
                )  # fmt: skip
            story.arrives(interface, packet, to=to)
    return story
