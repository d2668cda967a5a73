"""Hypothesis strategies for cases: a node with random rules, and a sequence of packets that mean something to it.

A step may answer what an earlier one has led to, so each case is run on pktsim while it is drawn: the result is the
case together with that run. Steps are decided by bytes, as rules are (:mod:`tests.live.case_rules`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import strategies as st

from pktsim.errors import ObjectError, PktsimError
from pktsim.kernel.case import CaseRun, read_field
from pktsim.wire.addr import ip_from_text, ip_to_text, mac_from_text
from pktsim.wire.frame import (
    ETH_P_IP,
    ETH_P_IPV6,
    FrameView,
    TcpFlag,
    ethernet,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    ipv6_fragment,
    tcp,
    tcp_options,
    udp,
)
from pktsim.wire.summary import summary
from tests.live.case_rules import Dice, rules_text, without_copies
from tests.live.case_worlds import (
    BRIDGE_MAC,
    BRIDGED4,
    BRIDGED6,
    MACS,
    ROUTED4,
    ROUTED6,
    WORLD4,
    WORLD6,
    World,
    node_of,
)
from tests.live.nft_strategies import nft_text


@dataclass
class Flow:
    """A conversation: who began it, and where its numbers stand."""

    protocol: int
    source: str
    destination: str
    sport: int
    dport: int
    seq: int = 1000
    ack: int = 5001


@dataclass
class Story:
    """A case that is being drawn."""

    world: World
    case: dict[str, Any]
    run: CaseRun
    flows: list[Flow] = field(default_factory=list)
    identification: int = 0x100
    #: Whether packets are cut into fragments now and then.
    fragments: bool = False
    #: (step, frame) of what has left and could be answered.
    left: list[tuple[int, int]] = field(default_factory=list)

    def next_id(self) -> int:
        self.identification += 1
        return self.identification

    def take(self, step: dict[str, Any]) -> None:
        """Add a step and take it."""
        index = len(self.case["steps"])
        self.case["steps"].append(step)
        result = self.run.take(step)
        self.left += [(index, number) for number in range(len(result.emitted))]


_SYN, _SYNACK, _ACK = TcpFlag.SYN, TcpFlag.SYN | TcpFlag.ACK, TcpFlag.ACK
_PSHACK, _FINACK, _RST, _RSTACK = (
    TcpFlag.PSH | TcpFlag.ACK,
    TcpFlag.FIN | TcpFlag.ACK,
    TcpFlag.RST,
    TcpFlag.RST | TcpFlag.ACK,
)
_PAYLOADS: Final = (b"", b"hello", b"GET / x", b"x" * 80, b"b")
_ETHERNET_HEADER: Final = 14
_OPTIONS: Final = (
    b"",
    tcp_options(mss=1460),
    tcp_options(mss=1460, window_scale=7, sack_permitted=True),
    tcp_options(mss=536, window_scale=2),
)
_SCTP_INIT: Final = bytes.fromhex("0100001400001111 0000ffff0001000100000001".replace(" ", ""))


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _sctp(sport: int, dport: int, chunk: bytes, tag: int = 0) -> bytes:
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + tag.to_bytes(4, "big")
    return head + _crc32c(head + bytes(4) + chunk).to_bytes(4, "little") + chunk


_PADN: Final = bytes((1, 4, 0, 0, 0, 0))
#: Extension headers: kind, and what follows the next header's number.
_EXTENSIONS: Final[tuple[tuple[int, bytes], ...]] = (
    (60, b"\0" + _PADN),
    (0, b"\0" + _PADN),
    (0, bytes((0, 5, 2, 0, 0, 1, 0))),  # a router alert
    (43, bytes((0, 4, 0)) + bytes(4)),  # a routing header with nothing left
    (60, b"\x01" + bytes((1, 12)) + bytes(12)),
    (51, bytes((4,)) + bytes(22)),
)


def _transport(dice: Dice, world: World, flow: Flow, *, reply: bool) -> bytes:
    source, destination = ip_from_text(flow.source), ip_from_text(flow.destination)
    if flow.protocol == 6:
        flags = dice.pick((_SYN, _ACK, _PSHACK, _FINACK, _RST, _SYNACK, _RSTACK, TcpFlag.SYN | TcpFlag.FIN, TcpFlag(0)))
        if dice.one_in(12):
            flags |= TcpFlag.ECE | TcpFlag.CWR
        payload = dice.pick(_PAYLOADS) if flags & TcpFlag.PSH else b""
        seq = flow.seq if flags & _SYN else flow.seq + 1
        seq += dice.pick((0, 0, 0, 1, 5, 100, 100000, -1))
        return tcp(
            source,
            destination,
            flow.sport,
            flow.dport,
            payload,
            seq=seq & 0xFFFFFFFF,
            ack=(flow.ack + dice.pick((0, 0, 0, 1, 6, 100))) & 0xFFFFFFFF if flags & _ACK else 0,
            flags=flags,
            window=dice.pick((64240, 64240, 500, 0)),
            options=dice.pick(_OPTIONS) if flags & _SYN else b"",
        )
    if flow.protocol == 17:
        return udp(source, destination, flow.sport, flow.dport, dice.pick(_PAYLOADS))
    if flow.protocol == 1:
        kind = dice.pick((0, 0, 8)) if reply else dice.pick((8, 8, 8, 0, 13, 17))
        return icmp(kind, 0, flow.sport % 3 << 16 | 1, b"abcdefgh")
    if flow.protocol == 58:
        kind = dice.pick((129, 129, 128)) if reply else dice.pick((128, 128, 128, 129, 139, 200))
        return icmpv6(source, destination, kind, 0, flow.sport % 3 << 16 | 1, b"abcdefgh")
    if flow.protocol == 132:
        return _sctp(flow.sport, flow.dport, _SCTP_INIT)
    return dice.pick((b"", b"\0\0\0\0", b"payload!"))


def _packet(dice: Dice, story: Story, flow: Flow, *, reply: bool) -> bytes:
    world = story.world
    transport = _transport(dice, world, flow, reply=reply)
    ends = ip_from_text(flow.source), ip_from_text(flow.destination)
    ttl = dice.pick((64, 64, 64, 63, 2, 1))
    tos = dice.pick((0, 0, 0, 0x10, 0xB8, 0x01))
    if world.version == 6:
        header, protocol = 40, flow.protocol
        for _ in range(dice.pick((0, 0, 0, 0, 0, 0, 1, 2))):
            kind, content = dice.pick(_EXTENSIONS)
            transport, protocol = bytes((protocol,)) + content + transport, kind
        packet = ipv6(*ends, protocol, transport, hop_limit=ttl, traffic_class=tos)
    else:
        header = 20
        packet = ipv4(
            *ends,
            flow.protocol,
            transport,
            ttl=ttl,
            tos=tos,
            identification=story.next_id(),
            dont_fragment=dice.pick((True, False)),
        )
    if dice.one_in(20):
        at = header + dice.below(len(packet) - header) if len(packet) > header else 0
        if at:
            packet = packet[:at] + bytes([packet[at] ^ 0x55]) + packet[at + 1 :]
    return packet


_SPORTS: Final = (4000, 40000, 500, 53)
_DPORTS: Final = (80, 53, 443, 8080, 30080)


def _a_flow(dice: Dice, story: Story) -> Flow:
    if story.flows and not dice.one_in(3):
        return dice.pick(story.flows)
    world = story.world
    addresses = dice.pick(world.addresses), dice.pick(world.addresses)
    echo = world.icmp[1]
    protocol = dice.pick((6, 17, 6, 17, 6, 17, echo, echo, 132, 47, 50, 99))
    flow = Flow(protocol, *addresses, dice.pick(_SPORTS), dice.pick(_DPORTS))
    story.flows.append(flow)
    return flow


def _ethertype(packet: bytes) -> int:
    return ETH_P_IPV6 if packet[0] >> 4 == 6 else ETH_P_IP


def _receive(interface: str, mac: str, packet: bytes, *, to: str = "") -> dict[str, Any]:
    frame = ethernet(mac_from_text(to or MACS[interface]), mac_from_text(mac), _ethertype(packet), packet)
    return {"receive": {"interface": interface, "frame": frame.hex(), "text": _text(frame)}}


def _text(frame: bytes) -> str:
    try:
        return summary(frame)
    except PktsimError:  # broken on purpose
        return frame.hex()


def _cut(dice: Dice, story: Story, packet: bytes) -> list[bytes]:
    """A packet in fragments: in order or not, with one missing, or with one that does not fit the others."""
    size = dice.pick((8, 16, 24))
    if packet[0] >> 4 == 6:
        body, ends, identification = packet[40:], (packet[8:24], packet[24:40]), story.next_id()
        pieces = [
            ipv6(
                *ends,
                44,
                ipv6_fragment(
                    packet[6],
                    body[at : at + size],
                    identification=identification,
                    offset=at,
                    more=at + size < len(body),
                ),
                hop_limit=packet[7],
            )
            for at in range(0, len(body), size)
        ]
    else:
        body, ends = packet[20:], (packet[12:16], packet[16:20])
        pieces = [
            ipv4(
                *ends,
                packet[9],
                body[at : at + size],
                ttl=packet[8],
                tos=packet[1],
                identification=int.from_bytes(packet[4:6], "big"),
                more_fragments=at + size < len(body),
                fragment_offset=at,
            )
            for at in range(0, len(body), size)
        ]
    if not 1 < len(pieces) <= 6:
        return [packet]
    how = dice.below(5)
    if how == 1:
        pieces.reverse()
    elif how == 2:
        del pieces[dice.below(len(pieces))]
    elif how == 3:
        pieces.insert(1, pieces[0])
    return pieces


def _send(dice: Dice, packet: bytes) -> dict[str, Any]:
    """A process of the node sends a packet."""
    step: dict[str, Any] = {"packet": packet.hex(), "text": _text(bytes(12) + _ethertype(packet).to_bytes(2) + packet)}
    if dice.one_in(6):
        step["uid"] = dice.pick((1000, 1500))
    if dice.one_in(4):
        step["mark"] = dice.pick((0x1, 0x4000))
    return {"send_local": step}


def _new_packet(dice: Dice, story: Story) -> None:
    flow = _a_flow(dice, story)
    packet = _packet(dice, story, flow, reply=False)
    if flow.source == story.world.node and not dice.one_in(10):
        story.take(_send(dice, packet))
        return
    interface, mac = story.world.towards(flow.source)
    if dice.one_in(20):
        interface = dice.pick(("eth0", "pod0", "pod1"))
    pieces = _cut(dice, story, packet) if story.fragments and dice.one_in(2) else [packet]
    to = ""
    if "master" in str(story.case["interfaces"]) and interface != "eth0":
        # to the gateway, straight to the other pod, or to somebody who is not there
        direct = story.world.macs.get(flow.destination, BRIDGE_MAC)
        to = dice.pick((BRIDGE_MAC, direct, BRIDGE_MAC, "02:00:00:00:99:99"))
    elif dice.one_in(40):
        to = dice.pick(("ff:ff:ff:ff:ff:ff", "02:00:00:00:99:99"))
    for piece in pieces:
        story.take(_receive(interface, mac, piece, to=to))


def _to_many(dice: Dice, story: Story) -> None:
    """Broadcast and multicast, to a listener or to nobody."""
    world = story.world
    if world.version == 6:
        source, group = dice.pick((world.near, world.far[0])), dice.pick(("ff02::1", "ff02::2", "ff02::fb", "ff05::1"))
    else:
        source = dice.pick((world.near, world.pods[0], world.far[0]))
        group = dice.pick(("10.0.0.255", "255.255.255.255", "224.0.0.1", "224.0.0.251", "10.244.1.255"))
    flow = Flow(dice.pick((17, world.icmp[1])), source, group, dice.pick(_SPORTS), dice.pick(_DPORTS))
    interface, mac = world.towards(source)
    last = ip_from_text(group)[-4:]
    multicast = b"\x33\x33" + last if world.version == 6 else b"\1\0\x5e" + bytes((last[1] & 0x7F,)) + last[2:]
    to = multicast if group.startswith(("ff", "224")) else b"\xff" * 6
    packet = _packet(dice, story, flow, reply=False)
    story.take(_receive(interface, mac, packet, to=":".join(f"{byte:02x}" for byte in to)))


def port_fields(packet: bytes, view: FrameView) -> tuple[str, ...]:
    """The fields of a whole packet that NAT may have drawn."""
    if view.is_fragment:
        return ()
    if view.protocol in (6, 17) and view.has_ports:
        name = "tcp" if view.protocol == 6 else "udp"
        return f"{name}.sport", f"{name}.dport"
    if view.protocol == 1 and view.transport >= 0 and view.icmp_type in (0, 8):
        return ("icmp.ident",)
    if view.protocol == 58 and view.transport >= 0 and view.icmp_type in (128, 129):
        return ("icmpv6.echo.identifier",)
    return ()


def _take(field: str, step: int, number: int, source: str, add: int = 0) -> dict[str, Any]:
    taken: dict[str, Any] = {"field": field, "from": {"step": step, "frame": number, "field": source}}
    return taken | ({"add": add} if add else {})


def _with_takes(story: Story, step: dict[str, Any], takes: list[dict[str, Any]]) -> dict[str, Any]:
    """Take fields from what was emitted, unless a frame is too broken to have them."""
    frame = bytes.fromhex(step["receive"]["frame"])
    try:
        for take in takes:
            read_field(frame, take["field"])
            source = take["from"]
            read_field(story.run.steps[source["step"]].emitted[source["frame"]][1], source["field"])
    except ObjectError:
        return step
    if takes:
        step["receive"]["take"] = takes
    return step


def _error_about(dice: Dice, story: Story, packet: bytes, source: bytes, destination: bytes) -> bytes:
    """What a router, or the receiver, says of a packet."""
    speaker = dice.pick((destination, ip_from_text(story.world.router)))
    if story.world.version == 6:
        kind, code = dice.pick(((1, 0), (1, 4), (3, 0), (2, 0), (4, 1)))
        quote = packet[: dice.pick((48, 48, 60, 200))]
        error = icmpv6(speaker, source, kind, code, 1400 if kind == 2 else 0, quote)
        return ipv6(speaker, source, 58, error)
    kind, code = dice.pick(((3, 1), (3, 3), (3, 0), (11, 0), (3, 4)))
    quote = packet[: dice.pick((28, 28, 60, 200))]
    error = icmp(kind, code, 1400 if (kind, code) == (3, 4) else 0, quote)
    return ipv4(speaker, source, 1, error, tos=0xC0, identification=story.next_id())


def _answer(dice: Dice, story: Story) -> None:
    """What the receiver of an emitted packet would send back, or a router an error about it."""
    step, number = dice.pick(story.left[-6:])
    interface, frame = story.run.steps[step].emitted[number]
    view = FrameView(frame)
    packet = frame[_ETHERNET_HEADER:]
    if view.version != story.world.version or view.is_fragment or view.transport < 0 or view.daddr[0] in (0xFF, 224):
        return
    mac, back = (":".join(f"{byte:02x}" for byte in frame[at : at + 6]) for at in (0, 6))
    protocol = view.protocol
    if dice.one_in(4):
        made = _receive(interface, mac, _error_about(dice, story, packet, view.saddr, view.daddr), to=back)
        # what is quoted has the ports that were drawn
        quoted = [_take(f"inner.{field}", step, number, field) for field in port_fields(packet, view)]
        story.take(_with_takes(story, made, quoted))
        return
    takes: list[dict[str, Any]] = []
    flow = Flow(protocol, ip_to_text(view.daddr), ip_to_text(view.saddr), 0, 0)
    if protocol in (6, 17) and view.has_ports:
        flow.sport, flow.dport = view.dport, view.sport
        sport, dport = port_fields(packet, view) or ("", "")
        takes = [_take(dport, step, number, sport), _take(sport, step, number, dport)] if sport else []
    if protocol == 6:
        flow.seq, flow.ack = 5000, (view.tcp_seq + 1) & 0xFFFFFFFF
        if view.tcp_flags & _ACK:
            flow.seq = (view.tcp_ack - 1) & 0xFFFFFFFF
            flow.ack = (view.tcp_seq + len(view.payload)) & 0xFFFFFFFF
    if protocol in (1, 58) and port_fields(packet, view):
        field = port_fields(packet, view)[0]
        takes = [_take(field, step, number, field)]
        kind = dice.pick((story.world.icmp[3], story.world.icmp[3], story.world.icmp[2]))
        if protocol == 1:
            echo = icmp(kind, 0, view.icmp_rest, view.payload)
            answer_packet = ipv4(view.daddr, view.saddr, 1, echo, identification=story.next_id())
        else:
            echo = icmpv6(view.daddr, view.saddr, kind, 0, view.icmp_rest, view.payload)
            answer_packet = ipv6(view.daddr, view.saddr, 58, echo)
    else:
        answer_packet = _packet(dice, story, flow, reply=True)
    made = _receive(interface, mac, answer_packet, to=back)
    story.take(_with_takes(story, made, takes))


def _again(dice: Dice, story: Story) -> None:
    """An earlier packet once more."""
    earlier: Sequence[dict[str, Any]] = [
        step for step in story.case["steps"] if "take" not in str(step) and "advance" not in step
    ]
    if earlier:
        story.take(dice.pick(earlier))


def _from_socket(dice: Dice, story: Story) -> None:
    """A listener writes to somebody."""
    names = [one["name"] for one in story.case.get("listeners", ()) if one["proto"] == "udp"]
    if not names:
        _new_packet(dice, story)
        return
    to = dice.pick((*story.world.far, *story.world.pods, *story.world.services, story.world.near, story.world.node))
    data = dice.pick(_PAYLOADS[1:])
    story.take({"send_socket": {"listener": dice.pick(names), "dst": [to, dice.pick(_DPORTS)], "data": data.hex()}})


def _advance(dice: Dice, story: Story) -> None:
    """Time passes: just so much that a short time-out runs out."""
    if dice.one_in(8):
        story.take({"advance": 1.2})
    else:
        _new_packet(dice, story)


_KINDS: Final[tuple[Callable[[Dice, Story], None], ...]] = (
    *(_new_packet,) * 11, *(_answer,) * 14, *(_again,) * 4, _to_many, _from_socket, _advance,
)  # fmt: skip


def _listeners(dice: Dice, world: World) -> list[dict[str, Any]]:
    """A few UDP sockets, on the node's own address or on all."""
    anywhere = "::" if world.version == 6 else "0.0.0.0"
    return [
        {
            "proto": "udp",
            "name": f"u{number}",
            "address": dice.pick((world.node, anywhere)),
            "port": port,
        }
        for number, port in enumerate(_DPORTS[1:])
        if dice.one_in(2)
    ]


def _topology(dice: Dice) -> tuple[World, dict[str, Any]]:
    kind = dice.below(24)
    if kind == 6:
        node = node_of(BRIDGED6)
        node["sysctls"] = {"net.bridge.bridge-nf-call-ip6tables": dice.pick(("1", "1", "1", "0"))}
        return WORLD6, node
    if kind == 5:
        return WORLD6, node_of(ROUTED6)
    if kind < 7 and kind:
        return WORLD6, node_of(WORLD6.topology)
    if kind < 10 and kind:
        return WORLD4, node_of(ROUTED4)
    if kind < 12 and kind:
        node = node_of(BRIDGED4)
        node["sysctls"] = {"net.bridge.bridge-nf-call-iptables": dice.pick(("1", "1", "1", "0"))}
        return WORLD4, node
    return WORLD4, node_of(WORLD4.topology)


def tell(settings: bytes, rules: Sequence[bytes], steps: Sequence[bytes], nft: Sequence[bytes] | None = None) -> Story:
    """The case that these bytes decide, and pktsim's run of it.

    Args:
        settings: The node.
        rules: iptables' rules.
        steps: What happens.
        nft: nft's rules; none for a case without nft.
    """
    dice = Dice(settings)
    world, node = _topology(dice)
    tables = "iptables" if world.version == 4 else "ip6tables"
    case: dict[str, Any] = {
        "name": "generated",
        **node,
        "sysctls": {**node.get("sysctls", {}), **dice.pick(world.sysctls)},
        tables: rules_text(world, rules, (dice.below(40) - 1) % 40),
        "steps": [],
    }
    text = case[tables]
    fragments = dice.one_in(12)
    if "--match-set" in text or "-j SET" in text:
        case["ipsets"] = world.sets.format(dice.pick(world.addresses[:4]), dice.pick(world.addresses[4:]))
    if nft is not None:
        case["nft"] = nft_text(nft, version=world.version)
        if " reject" in case["nft"]:
            case[tables] = without_copies(text)
    if dice.one_in(6) and (listeners := _listeners(dice, world)):
        case["listeners"] = listeners
    story = Story(world, case, CaseRun(case), fragments=fragments)
    for data in steps:
        dice = Dice(data)
        kind = dice.pick(_KINDS)
        if kind is _answer and not story.left:
            kind = _new_packet
        kind(dice, story)
    return story


def _some(size: int, lists: int) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Hypothesis' lists are short; several of them together are long enough to matter and shrink as well."""
    one = st.lists(st.binary(min_size=size, max_size=size), max_size=12)
    return st.tuples(*[one] * lists).map(lambda several: tuple(itertools.chain(*several)))


#: What decides a case, for :func:`tell`.
decisions = st.tuples(st.binary(min_size=12, max_size=12), _some(24, 3), _some(16, 2))
#: ... and one with nft rules, most of them without any of iptables.
nft_decisions = st.tuples(st.binary(min_size=12, max_size=12), _some(24, 1), _some(16, 2), _some(24, 3))
