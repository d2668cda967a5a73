"""Random packets of all kinds that a node of random settings may meet: who is taken, answered, told, or not.

Beside the conversations, in which packets belong together, these are from anybody and for anybody: martians, groups,
broadcasts, questions for addresses, options of IPv4, errors, and what a process sends by a raw socket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import (
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    arp,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from tests.live.case_rules import Dice
from tests.live.flow_cases import BRIDGE_MAC, FOUR, SIX, Story
from tests.netfilter.case_script import NODE_MAC, PEER_MAC

_OTHER: Final = 99
_EVERYONE: Final = "ff:ff:ff:ff:ff:ff"
_STRANGER_MAC: Final = "02:00:00:00:00:99"

#: Redirects are left out: how often they are sent goes by the clock.
_CONF4: Final[Mapping[str, Sequence[str]]] = {
    "accept_local": "01", "accept_source_route": "0", "arp_accept": "012", "arp_announce": "012", "arp_filter": "01",
    "arp_ignore": "01238", "drop_gratuitous_arp": "01", "forwarding": "01", "proxy_arp": "01", "proxy_arp_pvlan": "01",
    "route_localnet": "01", "rp_filter": "012", "src_valid_mark": "01",
}  # fmt: skip
_PLAIN4: Final[Mapping[str, Sequence[str]]] = {
    "net.ipv4.fwmark_reflect": "01",
    "net.ipv4.icmp_echo_ignore_all": "001",
    "net.ipv4.icmp_echo_ignore_broadcasts": "01",
    "net.ipv4.icmp_errors_use_inbound_ifaddr": "01",
    "net.ipv4.ip_default_ttl": ("64", "1", "200"),
    "net.ipv4.ip_forward": "1110",
}
_CONF6: Final[Mapping[str, Sequence[str]]] = {
    "accept_redirects": "0", "accept_untracked_na": "012", "drop_unsolicited_na": "01", "force_forwarding": "01",
    "force_tllao": "01", "hop_limit": ("64", "33"), "ndisc_tclass": ("0", "96"), "proxy_ndp": "01",
    "use_oif_addrs_only": "01",
}  # fmt: skip
_PLAIN6: Final[Mapping[str, Sequence[str]]] = {
    "net.ipv6.anycast_src_echo_reply": "01",
    "net.ipv6.auto_flowlabels": "10",
    "net.ipv6.flowlabel_reflect": "04",
    "net.ipv6.fwmark_reflect": "01",
    "net.ipv6.icmp.echo_ignore_all": "001",
    "net.ipv6.icmp.echo_ignore_anycast": "01",
    "net.ipv6.icmp.echo_ignore_multicast": "01",
    "net.ipv6.icmp.error_anycast_as_unicast": "01",
}
_RULES: Final[tuple[Mapping[str, Sequence[str]], ...]] = (
    {},
    {"filter": ("-A FORWARD -p udp -j REJECT", "-A INPUT -p udp -j REJECT")},
    {"filter": ("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset", "-A FORWARD -j REJECT")},
    {"nat": ("-A PREROUTING -p tcp -j REDIRECT", "-A POSTROUTING -o out -j MASQUERADE")},
    {"mangle": ("-A PREROUTING -j MARK --set-mark 1",)},
    {"raw": ("-A PREROUTING -p udp -j CT --notrack",)},
)
_NEAR, _MANY, _NOBODY = ("near", "far"), ("many", "all", "routers"), ("none", "martian", "loopback")
_ADDRESSES4: Final[Mapping[str, str]] = {
    "near": FOUR.near, "far": FOUR.far, "client": FOUR.client, "server": FOUR.server, "stranger": FOUR.stranger,
    "neighbour": "10.1.0.77", "many": "10.1.0.255", "all": "255.255.255.255", "routers": "224.0.0.1", "none": "0.0.0.0",
    "martian": "240.0.0.1", "loopback": "127.0.0.1", "network": "10.1.0.0",
}  # fmt: skip
_ADDRESSES6: Final[Mapping[str, str]] = {
    "near": SIX.near, "far": SIX.far, "client": SIX.client, "server": SIX.server, "stranger": SIX.stranger,
    "neighbour": "fd01::77", "many": "ff02::1", "all": "ff01::1", "routers": "ff02::2", "none": "::",
    "martian": "ff02::5", "loopback": "::1", "network": "fd01::",
}  # fmt: skip
_SOURCES: Final = ("client", "client", "client", "server", "stranger", "neighbour", "near", "far", "many", *_NOBODY)
_TARGETS: Final = (
    "server", "server", "client", "near", "near", "far", "stranger", "neighbour", "network", *_MANY, *_NOBODY
)  # fmt: skip
_TYPES4: Final = ((8, 0), (8, 0), (0, 0), (3, 1), (3, 3), (11, 0), (12, 0), (4, 0), (15, 0), (17, 0), (42, 0), (7, 0))
_TYPES6: Final = ((128, 0), (128, 0), (129, 0), (1, 0), (1, 4), (3, 0), (4, 0), (4, 1), (100, 0), (130, 0), (160, 0))
#: Timestamps are left out: no two runs have the same.
_OPTIONS: Final = (
    b"", b"", b"", b"\1\1\1\0", b"\7\x07\4" + bytes(4) + b"\1", b"\7\x07\x08" + bytes(4) + b"\1", b"\x94\4\0\0",
    b"\x94\3\0\0", b"\x83\7\4" + ip_from_text(FOUR.far) + b"\1", b"\x88\4\0\1", b"\x88\1\0\0", b"\x86\x08" + bytes(6),
    b"\0\1\2\3",
)  # fmt: skip


def _settings(dice: Dice, family: int) -> dict[str, str]:
    conf, plain = (_CONF6, _PLAIN6) if family == 6 else (_CONF4, _PLAIN4)
    prefix = f"net.ipv{family}"
    found = {f"{prefix}.neigh.{name}.proxy_delay": "0" for name in ("in", "out")}
    for scope in ("all", "in", "out"):
        for _ in range(dice.below(3)):
            key = dice.pick(sorted(conf))
            found[f"{prefix}.conf.{scope}.{key}"] = dice.pick(conf[key])
    for _ in range(dice.below(3)):
        key = dice.pick(sorted(plain))
        found[key] = dice.pick(plain[key])
    return found


def _payload(dice: Dice, family: int, protocol: int, ends: tuple[bytes, bytes]) -> bytes:
    if protocol == IPPROTO_UDP:
        return udp(*ends, 4000, dice.pick((53, 9)), bytes(dice.pick((0, 4, 20))))
    if protocol == IPPROTO_TCP:
        return tcp(*ends, 4000, 80, seq=1000, ack=1, flags=dice.pick((0x02, 0x10, 0x04)), window=100)
    quoted = bytes(8)
    if dice.one_in(3):
        back = ends[1], ends[0]
        build = ipv6 if family == 6 else ipv4
        quoted = build(*back, IPPROTO_UDP, udp(*back, 53, 4000, bytes(8)))
    if protocol == IPPROTO_ICMP:
        return icmp(*dice.pick(_TYPES4), dice.pick((0, 1, 0x0A010001)), quoted)
    if protocol == IPPROTO_ICMPV6:
        return icmpv6(*ends, *dice.pick(_TYPES6), dice.pick((0, 1, 1280)), quoted)
    return bytes(8)


def _mac_towards(dice: Dice, story: Story, interface: str, destination: bytes) -> str:
    """The link-layer address that a frame is meant for; empty for who is next on the way."""
    if dice.one_in(12):
        return dice.pick((_EVERYONE, _STRANGER_MAC, BRIDGE_MAC))
    if story.family == 6 and destination[0] == 0xFF:
        return "33:33:" + destination[12:].hex(":")
    if story.family == 4 and destination[0] == 224:
        return "01:00:5e:" + destination[1:].hex(":")
    return _EVERYONE if story.family == 4 and destination[3] == 255 else ""


def _question(dice: Dice, story: Story, interface: str, ends: tuple[bytes, bytes]) -> None:
    """An ARP packet, or a neighbour solicitation or advertisement."""
    sender = mac_from_text(PEER_MAC[interface])
    to = NODE_MAC[interface] if interface not in story.ports else BRIDGE_MAC
    if story.family == 4:
        target = mac_from_text(to) if dice.one_in(2) else bytes(6)
        packet = arp(dice.pick((1, 1, 1, 2, 3)), sender, ends[0], target, dice.pick((ends[1], ends[1], ends[0])))
        story.arrives(interface, packet, to=dice.pick((_EVERYONE, to)))
        return
    source, target = ends
    if dice.one_in(3):
        flags = dice.pick((0, 0x20, 0x60, 0xA0)) << 24
        destination = ip_from_text("ff02::1") if dice.one_in(2) else target
        message = icmpv6(source, destination, 136, 0, flags, source + b"\2\1" + sender)
    else:
        solicited = ip_from_text("ff02::1:ff00:0")[:13] + target[13:]
        destination = dice.pick((solicited, solicited, target))
        option = dice.pick((b"\1\1" + sender, b""))
        message = icmpv6(source, destination, 135, dice.pick((0, 0, 0, 1)), 0, target + option)
    packet = ipv6(source, destination, IPPROTO_ICMPV6, message, hop_limit=dice.pick((255, 255, 255, 254)))
    group = "33:33:" + destination[12:].hex(":") if destination[0] == 0xFF else to
    story.arrives(interface, packet, to=group)


def stray_packets(settings: bytes, steps: Sequence[bytes]) -> Story:
    """The case that these bytes decide."""
    dice = Dice(settings)
    family = dice.pick((4, 6))
    ports = dice.pick(((), (), (), ("in",), ("in", "out")))
    rules = dice.pick(_RULES)
    story = Story(family, rules, _settings(dice, family), ports=ports)
    addresses = _ADDRESSES6 if family == 6 else _ADDRESSES4
    for data in steps:
        dice = Dice(data)
        interface = dice.pick(("in", "in", "out"))
        source, target = (addresses[dice.pick(names)] for names in (_SOURCES, _TARGETS))
        ends = ip_from_text(source), ip_from_text(target)
        if dice.one_in(6):
            _question(dice, story, interface, ends)
            continue
        protocol = dice.pick((IPPROTO_UDP, IPPROTO_UDP, IPPROTO_TCP, IPPROTO_ICMP, IPPROTO_ICMP, _OTHER))
        if protocol == IPPROTO_ICMP and family == 6:
            protocol = IPPROTO_ICMPV6
        payload = _payload(dice, family, protocol, ends)
        limit = dice.pick((64, 64, 64, 2, 1, 0))
        header: dict[str, Any] = {"ttl": limit, "options": dice.pick(_OPTIONS)} if family == 4 else {"hop_limit": limit}
        packet = story.packet(source, target, protocol, payload, **header)
        # what a process sends to many, the host answers before it leaves, which is not modelled; nor is which
        # device that is, nor that a reset to ::1 goes by the device of the address that was asked
        unlike = (*_MANY, "martian") if family == 4 else (*_MANY, *_NOBODY)
        if dice.one_in(7) and not {source, target} & {addresses[name] for name in unlike}:
            story.take({"send_local": {"packet": packet.hex()}})
            continue
        story.arrives(interface, packet, to=_mac_towards(dice, story, interface, ends[1]))
    return story
