"""Short scripts of what a node is sent and what must come of it, as cases that can run on a real kernel too.

A :class:`Script` builds a case in the format of :mod:`pktsim.kernel.case`, step by step, and beside each step notes
what is expected; :func:`run` runs the case and looks. Frames are summed up in a line each (:func:`summary`), the same
that expectations are written in; ``*`` stands for what a kernel draws.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pktsim.kernel.case import CaseRun
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, ip_to_text, mac_from_text
from pktsim.wire.frame import FrameView, TcpFlag

NODE_MAC: Final = {"in": "02:00:00:00:00:01", "out": "02:00:00:00:00:02", "in2": "02:00:00:00:00:03"}
PEER_MAC: Final = {"in": "02:00:00:00:01:01", "out": "02:00:00:00:02:01", "in2": "02:00:00:00:03:01"}
CLIENT, SERVER = "10.1.0.9", "10.2.0.9"
CLIENT6, SERVER6 = "fd01::9", "fd02::9"
#: What SYNs of the client carry; without time stamps, so that nothing depends on when.
SYN_OPTIONS: Final = build.tcp_options(mss=1460, sack_permitted=True, window_scale=8)
MSS_ONLY: Final = build.tcp_options(mss=1460)

_LETTERS: Final = {
    "F": TcpFlag.FIN, "S": TcpFlag.SYN, "R": TcpFlag.RST, "P": TcpFlag.PSH, ".": TcpFlag.ACK, "U": TcpFlag.URG,
}  # fmt: skip
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
#: By the first four bits of what is in the frame.
_ETHERTYPES: Final = {0: 0x0806, 4: 0x0800, 6: 0x86DD}
IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6 = 1, 6, 17, 58


def summary(interface: str, frame: bytes) -> str:
    """``out 10.1.0.9:1000 > 10.2.0.9:80 tcp S.``, ``in 10.2.0.1 > 10.1.0.9 icmp 3/4``; of later fragments no more.

    ARP: ``in arp 2 10.1.0.1 > 10.1.0.9``, the operation and both IP addresses.
    """
    if frame[12:14] == _ETHERTYPES[0].to_bytes(2, "big"):
        return f"{interface} arp {frame[21]} {ip_to_text(frame[28:32])} > {ip_to_text(frame[38:42])}"
    view = FrameView(frame)
    source, destination = ip_to_text(view.saddr), ip_to_text(view.daddr)
    name = _PROTOCOLS.get(view.protocol, str(view.protocol))
    if view.has_ports:
        text = f"{interface} {source}:{view.sport} > {destination}:{view.dport} {name}"
        if name == "tcp":
            text += " " + "".join(letter for letter, flag in _LETTERS.items() if view.tcp_flags & flag)
        return text
    if view.transport < 0 or name.isdigit():
        return f"{interface} {source} > {destination} {name}"
    return f"{interface} {source} > {destination} {name} {view.icmp_type}/{view.icmp_code}"


def put_on_bridge(case: dict[str, Any], bridge: str, mac: str, ports: Sequence[str]) -> None:
    """Make interfaces of a case ports of a new bridge, which takes over their addresses, neighbours and routes."""
    made: dict[str, Any] = {"name": bridge, "kind": "bridge", "mac": mac, "addresses": []}
    for interface in case["interfaces"]:
        if interface["name"] in ports:
            interface["master"] = bridge
            made["addresses"] += interface.pop("addresses")
    case["interfaces"].insert(0, made)
    for entry in case["neighbours"]:
        entry["interface"] = bridge if entry["interface"] in ports else entry["interface"]
    for route in case.get("routes", ()):
        route["dev"] = bridge if route["dev"] in ports else route["dev"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What one step must lead to. What is not said is not looked at.

    Attributes:
        out: The frames that leave, in lines of :func:`summary`.
        state: The state of the only connection tracking entry.
        has: Status flags that it has.
        lacks: Status flags that it does not have.
        entries: How many entries there are.
        rules: Packets counted by rules (``table/CHAIN/n``) in this step.
        datagrams: Who sent what the node's sockets received (``address:port``).
        bad_checksums: Headers of frames that leave whose checksum is wrong.
    """

    out: tuple[str, ...] | None = None
    state: str = ""
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    entries: int | None = None
    rules: Mapping[str, int] = field(default_factory=dict)
    datagrams: tuple[str, ...] | None = None
    bad_checksums: frozenset[str] = frozenset()


class Script:
    """A case under construction: a node between a client (interface ``in``) and a server (``out``).

    Args:
        name: Of the case.
        proves: What it shows, in a sentence.
        rules: ``iptables-restore`` text.
        rules6: The same for IPv6, which turns it on.
        addresses: Of the interfaces, instead of 10.1.0.1/24 and 10.2.0.1/24 (and fd01::1/64, fd02::1/64).
        neighbours: (interface, address) beside client and server.
        case: Other keys of the case.
    """

    def __init__(
        self,
        name: str,
        proves: str,
        rules: str = "",
        *,
        rules6: str = "",
        addresses: Mapping[str, Sequence[str]] | None = None,
        mtus: Mapping[str, int] | None = None,
        neighbours: Sequence[tuple[str, str]] = (),
        **case: Any,
    ) -> None:
        self.name = name
        self.proves = proves
        self.expected: list[Expected] = []
        self.final_rules: dict[str, int] = {}
        held = addresses or {"in": ("10.1.0.1/24", "fd01::1/64"), "out": ("10.2.0.1/24", "fd02::1/64")}
        peers = [("in", CLIENT), ("out", SERVER), *((("in", CLIENT6), ("out", SERVER6)) if rules6 else ())]
        if addresses is not None:
            peers = []
        self.case: dict[str, Any] = {
            "name": name,
            "interfaces": [
                {
                    "name": interface,
                    "mac": NODE_MAC[interface],
                    "addresses": [text for text in texts if rules6 or ":" not in text],
                    **({"mtu": mtus[interface]} if mtus and interface in mtus else {}),
                }
                for interface, texts in held.items()
            ],
            "neighbours": [
                {"interface": interface, "address": address, "mac": PEER_MAC[interface]}
                for interface, address in (*peers, *neighbours)
            ],
            **({"iptables": rules} if rules else {}),
            **({"ip6tables": rules6, "ipv6": True} if rules6 else {}),
            **case,
            "steps": [],
        }

    # steps

    def _add(self, step: dict[str, Any], expected: Expected) -> None:
        self.case["steps"].append(step)
        self.expected.append(expected)

    def receive(
        self, interface: str, packet: bytes, *, to: str = "", take: Sequence[Mapping[str, Any]] = (), **expected: Any
    ) -> None:
        """An IP or ARP packet arrives, for the MAC address ``to`` if not for the node's.

        Fields of ``take`` come from frames that left before, as the format says.
        """
        ethertype = _ETHERTYPES[packet[0] >> 4]
        frame = build.ethernet(
            mac_from_text(to or NODE_MAC[interface]), mac_from_text(PEER_MAC[interface]), ethertype, packet
        )
        body: dict[str, Any] = {"interface": interface, "frame": frame.hex(), "text": summary(interface, frame)}
        if take:
            body["take"] = list(take)
        self._add({"receive": body}, _expected(expected))

    def passes(self, interface: str, packet: bytes, **expected: Any) -> None:
        """A packet arrives and leaves on the other side as it came."""
        other = "out" if interface == "in" else "in"
        self.receive(
            interface,
            packet,
            out=[summary(other, bytes(12) + _ETHERTYPES[packet[0] >> 4].to_bytes(2, "big") + packet)],
            **expected,
        )

    def dropped(self, interface: str, packet: bytes, **expected: Any) -> None:
        """A packet arrives, and nothing leaves."""
        self.receive(interface, packet, out=[], **expected)

    def send_local(self, packet: bytes, **expected: Any) -> None:
        """A process of the node sends an IP packet by a raw socket."""
        self._add({"send_local": {"packet": packet.hex()}}, _expected(expected))

    def answer(self, listener: str, address: str, port: int, data: bytes, **expected: Any) -> None:
        """A UDP socket of the node sends."""
        body = {"listener": listener, "dst": [address, port], "data": data.hex()}
        self._add({"send_socket": body}, _expected(expected))

    def advance(self, seconds: float, **expected: Any) -> None:
        """Time passes."""
        self._add({"advance": seconds}, _expected(expected))

    def load(self, rules: str) -> None:
        """Tables are replaced."""
        self._add({"iptables": rules}, Expected())

    def counted(self, **packets: int) -> None:
        """How many packets rules have counted in the end: ``filter_FORWARD_1=0``."""
        self.final_rules |= {name.replace("_", "/"): count for name, count in packets.items()}


def _expected(given: Mapping[str, Any]) -> Expected:
    found = dict(given)
    for key in ("out", "datagrams"):
        if found.get(key) is not None:
            found[key] = tuple(found[key])
    for key in ("has", "lacks", "bad_checksums"):
        if key in found:
            found[key] = frozenset(found[key].split())
    return Expected(**found)


# ------------------------------------------------------------------------------------------------------------- packets


@dataclass(frozen=True, slots=True)
class Conversation:
    """The two ends of a TCP connection, whose segments are written as ``flags, seq, ack, length``."""

    client: str = CLIENT
    server: str = SERVER
    sport: int = 1000
    dport: int = 8080

    def c(
        self, flags: str, seq: int, ack: int = 0, length: int = 0, *, window: int = 65535, options: bytes = b""
    ) -> bytes:
        """From the client."""
        return segment(self.client, self.server, self.sport, self.dport, flags, seq, ack, length, window, options)

    def s(
        self, flags: str, seq: int, ack: int = 0, length: int = 0, *, window: int = 65535, options: bytes = b""
    ) -> bytes:
        """From the server."""
        return segment(self.server, self.client, self.dport, self.sport, flags, seq, ack, length, window, options)


def segment(
    source: str,
    destination: str,
    sport: int,
    dport: int,
    flags: str,
    seq: int,
    ack: int = 0,
    length: int = 0,
    window: int = 65535,
    options: bytes = b"",
) -> bytes:
    """A packet with a TCP segment."""
    saddr, daddr = ip_from_text(source), ip_from_text(destination)
    bits = 0
    for letter in flags:
        bits |= _LETTERS[letter]
    payload = build.tcp(
        saddr, daddr, sport, dport, bytes(length), seq=seq, ack=ack, flags=bits, window=window, options=options
    )
    if len(saddr) == 16:
        return build.ipv6(saddr, daddr, IPPROTO_TCP, payload)
    return build.ipv4(saddr, daddr, IPPROTO_TCP, payload, dont_fragment=True, identification=0x1234)


def datagram(source: str, destination: str, sport: int, dport: int, data: bytes = b"data") -> bytes:
    """An IPv4 packet with a UDP datagram."""
    saddr, daddr = ip_from_text(source), ip_from_text(destination)
    payload = build.udp(saddr, daddr, sport, dport, data)
    return build.ipv4(saddr, daddr, IPPROTO_UDP, payload, identification=0x1234)


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260 appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def echo(source: str, destination: str, *, size: int = 56, reply: bool = False, identifier: int = 77) -> bytes:
    """A ping or its answer, of either family; IPv4's cannot be fragmented."""
    saddr, daddr = ip_from_text(source), ip_from_text(destination)
    rest, data = identifier << 16 | 1, bytes(size)
    if len(saddr) == 16:
        message = build.icmpv6(saddr, daddr, 129 if reply else 128, 0, rest, data)
        return build.ipv6(saddr, daddr, IPPROTO_ICMPV6, message)
    message = build.icmp(0 if reply else 8, 0, rest, data)
    return build.ipv4(saddr, daddr, IPPROTO_ICMP, message, dont_fragment=True, identification=0x1234)


def icmp_error(source: str, destination: str, kind: int, code: int, rest: int, about: bytes) -> bytes:
    """An ICMP or ICMPv6 error that quotes a packet."""
    saddr, daddr = ip_from_text(source), ip_from_text(destination)
    if len(saddr) == 16:
        message = build.icmpv6(saddr, daddr, kind, code, rest, about[: 1280 - 48])
        return build.ipv6(saddr, daddr, IPPROTO_ICMPV6, message)
    message = build.icmp(kind, code, rest, about[: 576 - 28])
    return build.ipv4(saddr, daddr, IPPROTO_ICMP, message, identification=0x1234)


# -------------------------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step has led to, here or on a real kernel, in the words of the case format."""

    emitted: Sequence[tuple[str, bytes]]
    sockets: Sequence[Mapping[str, Any]]
    rules: Mapping[str, int]  # packets
    entries: Sequence[Mapping[str, Any]]


def last_outcome(case: CaseRun) -> Outcome:
    """Of a run's last step."""
    result = case.steps[-1]
    rules = {name: pair[0] for name, pair in result.rules.items()}
    return Outcome(result.emitted, result.sockets, rules, list(case.entries().values()))


def run(script: Script) -> CaseRun:
    """Run a script's case, and look at what is expected after each step.

    Raises:
        AssertionError: Something else came of it.
    """
    case = CaseRun(script.case)
    for number, step in enumerate(script.case["steps"]):
        case.take(step)
        check_step(script, number, last_outcome(case))
    check_counters(script, {name: pair[0] for name, pair in case.rule_counters().items()})
    return case


def check_step(script: Script, number: int, outcome: Outcome) -> None:
    """Look at what a step has led to.

    Raises:
        AssertionError: It is not what is expected.
    """
    problem = problem_of(outcome, script.expected[number])
    verb, body = next(iter(script.case["steps"][number].items()))
    text = body.get("text", verb) if isinstance(body, dict) else verb
    assert not problem, f"{script.name}, step {number} ({text}): {problem}"


def check_counters(script: Script, counters: Mapping[str, int]) -> None:
    """Look at what rules have counted in the end.

    Raises:
        AssertionError: It is not what is expected.
    """
    for rule, packets in script.final_rules.items():
        assert counters[rule] == packets, f"{script.name}: {rule} counted {counters[rule]} packets, not {packets}"


def problem_of(outcome: Outcome, expected: Expected) -> str:
    """How an outcome differs from what is expected; nothing if it does not."""
    if expected.out is not None:
        seen = [summary(interface, frame) for interface, frame in outcome.emitted]
        if not _all_match(seen, expected.out):
            return f"left: {seen}, expected: {list(expected.out)}"
        bad = {name for _, frame in outcome.emitted for name in FrameView(frame).bad_checksums()}
        if bad != expected.bad_checksums:
            return f"bad checksums: {sorted(bad)}, expected: {sorted(expected.bad_checksums)}"
    if expected.datagrams is not None:
        senders = [f"{one['from'][0]}:{one['from'][1]}" for one in outcome.sockets]
        if not _all_match(senders, expected.datagrams):
            return f"sockets heard {senders}, expected: {list(expected.datagrams)}"
    for rule, packets in expected.rules.items():
        if outcome.rules.get(rule, 0) != packets:
            return f"{rule} counted {outcome.rules.get(rule, 0)} packets, not {packets}"
    return _problem_of_entries(outcome.entries, expected)


def _all_match(seen: Sequence[str], patterns: Sequence[str]) -> bool:
    return len(seen) == len(patterns) and all(map(fnmatch.fnmatchcase, seen, patterns))


def _problem_of_entries(entries: Sequence[Mapping[str, Any]], expected: Expected) -> str:
    if expected.entries is not None and len(entries) != expected.entries:
        return f"{len(entries)} entries, not {expected.entries}"
    if expected.state or expected.has or expected.lacks:
        if len(entries) != 1:
            return f"{len(entries)} entries, one was expected"
        (entry,) = entries
        status = frozenset(entry["status"])
        if expected.state and entry.get("state") != expected.state:
            return f"state {entry.get('state')}, not {expected.state}"
        if not expected.has <= status or expected.lacks & status:
            return f"status {sorted(status)}: has {sorted(expected.has)}, lacks {sorted(expected.lacks)}?"
    return ""
