"""Are two runs of one action the same? All must be equal but what is random by nature, and that must correspond.

The recorded frame gets our run's random values written in their places (initial sequence numbers, time stamps, IP
ids, ports that nobody fixed, DNS and masqueraded ICMP ids, SOA serials), every checksum that covers them is mended, and
the result must be our frame byte for byte. A random value must map to one value throughout the action, on all
interfaces, in the connection tracking tables and in what servers printed, and no two may map to the same one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pktsim.cluster.bulk import Condensed, compare_streams, condense, slack_of, within
from pktsim.cluster.comparison_types import Difference, Seen
from pktsim.wire.addr import ip_to_text
from pktsim.wire.fields import Dissection, Field, FieldWriter, dissect
from pktsim.wire.summary import summary

#: Linux's default net.ipv4.ip_local_port_range starts here; a port from here on that no command fixed is random.
FIRST_EPHEMERAL_PORT = 32768
#: MASQUERADE --random-fully takes any port from here on (nf_nat_l4proto_unique_tuple, net/netfilter/nf_nat_core.c).
FIRST_MASQUERADE_PORT = 1024
#: No action moves as many bytes in one connection; a number within this reach of an ISN belongs to it.
_SEQUENCE_REACH = 1 << 26
_U32 = 0xFFFF_FFFF
_PSH = 8

#: Whether a recorded number may stand for one of ours: (recorded, ours, field, recorded frame, random values).
_Rule = Callable[[int, int, Field, Dissection, "RandomValues"], bool]


class Bijection:
    """A one-to-one mapping that grows as pairs are met."""

    __slots__ = ("_backward", "_forward")

    def __init__(self) -> None:
        self._forward: dict[int, int] = {}
        self._backward: dict[int, int] = {}

    def bind(self, recorded: int, ours: int) -> bool:
        """Whether the pair fits all earlier ones."""
        return (
            self._forward.setdefault(recorded, ours) == ours and self._backward.setdefault(ours, recorded) == recorded
        )

    def get(self, recorded: int) -> int | None:
        """What ``recorded`` corresponds to, if it was met."""
        return self._forward.get(recorded)

    def items(self) -> Iterable[tuple[int, int]]:
        return self._forward.items()


@dataclass(frozen=True, slots=True)
class Fixed:
    """What would be random but for a command that fixes it, and what a masquerading node may have drawn.

    Attributes:
        ports: Ports named by the commands and servers.
        icmp_idents: Echo identifiers that the commands use.
        masqueraded: Ports below the ephemeral ones that a node of the recording drew, by ``MASQUERADE --random-fully``.
    """

    ports: frozenset[int] = frozenset()
    icmp_idents: frozenset[int] = frozenset()
    masqueraded: frozenset[int] = frozenset()


@dataclass(slots=True)
class RandomValues:
    """What corresponds to what in one action; ``slack``: packets that each space's counters may differ by."""

    fixed: Fixed
    recorded_isns: frozenset[int]
    our_isns: frozenset[int]
    isns: Bijection = field(default_factory=Bijection)
    ports: Bijection = field(default_factory=Bijection)
    dns_ids: Bijection = field(default_factory=Bijection)
    icmp_idents: Bijection = field(default_factory=Bijection)
    flow_labels: dict[tuple[bytes, int], int] = field(default_factory=dict)
    tcp_ids: dict[int, int] = field(default_factory=dict)
    ip_ids: dict[tuple[int, int, int], int] = field(default_factory=dict)
    tunnel_ports: dict[tuple[bytes, ...], tuple[int, int]] = field(default_factory=dict)
    slack: dict[str, int] = field(default_factory=dict)

    def port(self, recorded: int, ours: int) -> bool:
        """Whether the two ports may stand for each other."""
        if recorded in self.fixed.ports or ours in self.fixed.ports:
            return recorded == ours
        if recorded < FIRST_EPHEMERAL_PORT and recorded not in self.fixed.masqueraded:
            return recorded == ours
        return ours >= FIRST_MASQUERADE_PORT and self.ports.bind(recorded, ours)

    def sequence(self, recorded: int, ours: int) -> bool:
        """Whether the two sequence numbers lie equally far from initial ones that correspond."""
        if not recorded and not ours:  # no acknowledgement, or a RST that answers a SYN
            return True
        base, our_base = _nearest(recorded, self.recorded_isns), _nearest(ours, self.our_isns)
        if base is None or our_base is None:
            return recorded == ours
        return (recorded - base) & _U32 == (ours - our_base) & _U32 and self.isns.bind(base, our_base)


def _nearest(number: int, isns: frozenset[int]) -> int | None:
    """The initial sequence number that ``number`` counts from: the one shortest below it, or just above it.

    Just above, because the acknowledgement number of a keep-alive, or of a probe, is one less than the next byte.
    """
    best = min(isns, key=lambda isn: ((number - isn + 1) & _U32, isn), default=None)
    return best if best is not None and (number - best + 1) & _U32 < _SEQUENCE_REACH else None


def initial_sequence_numbers(frames: Iterable[Seen]) -> frozenset[int]:
    """Those of every SYN in ``frames``, also of SYNs inside tunnels and ICMP errors."""
    found = set()
    for seen in frames:
        dissection = dissect(seen.frame)
        paths = {part.path: part for part in dissection.named("tcp.hdr_len/flags")}
        for number in dissection.named("tcp.seq"):
            flags = paths.get(number.path)
            if flags is not None and dissection.value(flags) & 2:
                found.add(dissection.value(number))
    return frozenset(found)


def compare_frames(
    recorded: Sequence[Seen], ours: Sequence[Seen], fixed: Fixed = Fixed()
) -> tuple[Difference | None, RandomValues]:
    """Compare interface by interface, in order.

    Returns:
        Of all interfaces' first differences the one that the recording has first (causes come before effects), and
        what corresponds to what.
    """
    random = RandomValues(fixed, initial_sequence_numbers(recorded), initial_sequence_numbers(ours))
    theirs_by, ours_by = condense(recorded), condense(ours)
    random.slack = slack_of(theirs_by, ours_by)
    start_s = recorded[0].at_s if recorded else 0.0
    our_start_s = ours[0].at_s if ours else 0.0
    first: tuple[float, Difference] | None = None
    for where in sorted(theirs_by.keys() | ours_by.keys()):
        theirs, mine = theirs_by.get(where, Condensed()), ours_by.get(where, Condensed())
        for index in range(max(len(theirs.frames), len(mine.frames))):
            real, bulk = theirs.frames[index] if index < len(theirs.frames) else (None, False)
            own, own_bulk = mine.frames[index] if index < len(mine.frames) else (None, False)
            what = _frame_difference(real, own, random, _BULK_RULES if bulk and own_bulk else _RULES)
            if what is not None:
                at_s = real.at_s - start_s if real is not None else own.at_s - our_start_s if own is not None else 0.0
                difference = Difference(
                    f"{where}, frame {index + 1} of {len(theirs.frames)}",
                    what,
                    _line(real, start_s),
                    _line(own, our_start_s),
                )
                if first is None or at_s < first[0]:
                    first = (at_s, difference)
                break
        else:
            stream = compare_streams(where, theirs.streams, mine.streams)
            if stream is not None and first is None:
                first = (float("inf"), stream)
    return (first[1] if first else None), random


def _line(seen: Seen | None, start_s: float) -> str:
    return "" if seen is None else f"{seen.at_s - start_s:.6f} {seen.direction} {summary(seen.frame)}"


def _frame_difference(
    recorded: Seen | None, ours: Seen | None, random: RandomValues, rules: Mapping[str, _Rule]
) -> str | None:
    if ours is None:
        return "missing"
    if recorded is None:
        return "one too many"
    if recorded.direction != ours.direction:
        return f"direction {recorded.direction} recorded, {ours.direction} here"
    theirs, mine = dissect(recorded.frame), dissect(ours.frame)
    writer = FieldWriter(theirs)
    # Equal values can be wrong too: if one of them stood for another value before.
    unfit = [part for part in theirs.fields if not _write_random(part, theirs, mine, writer, random, rules)]
    projected = bytes(writer.data)
    differing: list[int] = []
    for at in range(max(len(projected), len(ours.frame))):
        if at < len(projected) and at < len(ours.frame):
            if projected[at] == ours.frame[at]:
                continue
            word = next((start for start in (at, at - 1) if start in writer.mended), None)
            if word is not None and _both_zero(projected[word : word + 2], ours.frame[word : word + 2]):
                continue
        differing.append(at)
    if not differing:
        return (
            f"{_name_difference(unfit[0].start, theirs, mine)}, but another one corresponded before" if unfit else None
        )
    # A checksum that differs because of what it covers explains nothing.
    sums = {at for checksum in theirs.checksums for at in (checksum.start, checksum.start + 1)}
    return _name_difference(next((at for at in differing if at not in sums), differing[0]), theirs, mine)


def _both_zero(one: bytes, other: bytes) -> bool:
    """Whether they are 0x0000 and 0xffff: one number in one's complement, and mending a sum may give either."""
    return {one, other} == {b"\0\0", b"\xff\xff"}


def _name_difference(at: int, theirs: Dissection, mine: Dissection) -> str:
    part = theirs.at(at) or mine.at(at)
    if part is None:
        return f"byte {at}"
    own = next((other for other in mine.fields if (other.path, other.name) == (part.path, part.name)), None)
    values = [
        "none" if which is None else _show(dissection.frame[which.start : which.end])
        for which, dissection in ((part if at < len(theirs.frame) else None, theirs), (own, mine))
    ]
    return f"{part.label}: {values[0]} recorded, {values[1]} here"


def _show(data: bytes) -> str:
    if len(data) <= 4:
        return f"{int.from_bytes(data, 'big')} (0x{data.hex()})"
    if data.isascii() and sum(byte >= 32 or byte in (9, 10, 13) for byte in data) == len(data):
        text = repr(data.decode("ascii"))
        return text if len(text) <= 160 else f"{text[:160]}… ({len(data)} bytes)"
    return data.hex() if len(data) <= 48 else f"{data[:48].hex()}… ({len(data)} bytes)"


def _write_random(
    part: Field,
    theirs: Dissection,
    mine: Dissection,
    writer: FieldWriter,
    random: RandomValues,
    rules: Mapping[str, _Rule],
) -> bool:
    """Put our value of one random field into the recorded frame, if the two may stand for each other.

    Returns:
        Whether they may; also true if the field is not random or our frame has none.
    """
    corresponds = rules.get(part.name)
    if corresponds is None:
        return True
    own = next(mine.named(part.name, part.path), None) if part.name not in _REPEATED else _same_place(part, mine)
    if own is None or (own.start, own.end) != (part.start, part.end):
        return True
    if not corresponds(theirs.value(part), mine.value(own), part, theirs, random):
        return False
    writer.write(part.start, mine.frame[own.start : own.end])
    if part.name in ("tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"):
        _write_printed_port(theirs.value(part), mine.value(own), part.path, theirs, writer)
    return True


_REPEATED = frozenset(("tcp.options.sack_le", "tcp.options.sack_re", "dns.soa.serial_number"))


def _same_place(part: Field, mine: Dissection) -> Field | None:
    return next((own for own in mine.fields if (own.name, own.start) == (part.name, part.start)), None)


def _write_printed_port(recorded: int, ours: int, path: str, theirs: Dissection, writer: FieldWriter) -> None:
    """Servers print their peer's port (``web-1 saw 10.1.1.2:40001``)."""
    old, new = f":{recorded}".encode(), f":{ours}".encode()
    if recorded == ours or len(old) != len(new):
        return
    for payload in theirs.fields:
        if payload.path == path and payload.name in ("tcp.payload", "udp.payload"):
            text = theirs.frame[payload.start : payload.end]
            for found in re.finditer(re.escape(old) + rb"(?!\d)", text):
                writer.write(payload.start + found.start(), new)


def _sequence(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    return random.sequence(recorded, ours)


def _time_stamp(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    # Its clock is the machine's; but an echo of nothing is 0 (RFC 7323, 3.2).
    return (recorded == 0) == (ours == 0)


def _port(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    inner = [other for other in theirs.fields if other.path == f"{part.path} vxlan".strip() and other.name in _FLOW]
    if inner and part.name == "udp.srcport":
        # The hash of the inner flow (udp_flow_src_port, include/net/udp.h): one port for one flow.
        flow = (theirs.frame[26:30], *(theirs.frame[other.start : other.end] for other in inner))
        return ours >= FIRST_EPHEMERAL_PORT and random.tunnel_ports.setdefault(flow, (recorded, ours)) == (
            recorded,
            ours,
        )
    return random.port(recorded, ours)


_FLOW = frozenset(
    ("ip.src", "ip.dst", "ip.proto", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport")
)


def _ip_id(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    """Random at the start of a TCP connection and counting from there; else only the same packet everywhere."""
    if not recorded and not ours:
        return True
    flags = next(theirs.named("tcp.hdr_len/flags", part.path), None)
    seq = next(theirs.named("tcp.seq", part.path), None)
    if flags is not None and seq is not None:
        if theirs.value(flags) & 0x12 == 0x12 or not recorded:
            # Sent without a socket of its own (SYN-ACK, RST, TIME_WAIT): no counter, id 0 with DF.
            return recorded == ours
        base = _nearest(theirs.value(seq), random.recorded_isns)
        if base is not None:
            return random.tcp_ids.setdefault(base, (ours - recorded) & 0xFFFF) == (ours - recorded) & 0xFFFF
    length = next(theirs.named("ip.len", part.path), None)
    protocol = next(theirs.named("ip.proto", part.path), None)
    if length is None or protocol is None:
        return False
    key = (recorded, theirs.value(length), theirs.value(protocol))
    return (recorded == 0) == (ours == 0) and random.ip_ids.setdefault(key, ours) == ours


def _dns_id(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    return random.dns_ids.bind(recorded, ours)


def _icmp_ident(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    if recorded in random.fixed.icmp_idents:
        return recorded == ours
    return random.icmp_idents.bind(recorded, ours)


_LOCALHOST = bytes(15) + b"\1"


def _flow_label(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    """The low 20 bits of the first word of the IPv6 header; version and traffic class must agree."""
    if recorded >> 20 != ours >> 20 or (recorded & 0xFFFFF == 0) != (ours & 0xFFFFF == 0):
        return False
    source = theirs.frame[part.start + 8 : part.start + 24]
    if source == _LOCALHOST:
        return True  # every host's: recorded on one machine, with one secret, they have one label for one flow
    return random.flow_labels.setdefault((source, recorded & 0xFFFFF), ours & 0xFFFFF) == ours & 0xFFFFF


def _both_or_none(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    return (recorded == 0) == (ours == 0)


def _but_for_push(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    return recorded | _PSH == ours | _PSH


def _anything(recorded: int, ours: int, part: Field, theirs: Dissection, random: RandomValues) -> bool:
    return True


_RULES: dict[str, _Rule] = {
    "tcp.seq": _sequence,
    "tcp.ack": _sequence,
    "tcp.options.sack_le": _sequence,
    "tcp.options.sack_re": _sequence,
    "tcp.options.timestamp.tsval": _time_stamp,
    "tcp.options.timestamp.tsecr": _time_stamp,
    "tcp.srcport": _port,
    "tcp.dstport": _port,
    "udp.srcport": _port,
    "udp.dstport": _port,
    "ip.id": _ip_id,
    "ipv6.fraghdr.ident": _anything,
    "ipv6.version/tclass/flow": _flow_label,
    "dns.id": _dns_id,
    "dns.soa.serial_number": _anything,
    "icmp.ident": _icmp_ident,
    "icmpv6.echo.identifier": _icmp_ident,
}
#: How far a bulk transfer has come when a segment is sent depends on its pace, and so does who is told to hurry.
_BULK_RULES: dict[str, _Rule] = {
    **_RULES,
    "ip.id": _both_or_none,
    "tcp.ack": _both_or_none,
    "tcp.window_size_value": _anything,
    "tcp.hdr_len/flags": _but_for_push,
}


# Connection tracking tables, counters and what was printed


def compare_conntrack(
    recorded: Mapping[str, Sequence[str]], ours: Mapping[str, Sequence[str]], random: RandomValues
) -> Difference | None:
    """Compare ``conntrack -L -o extended`` lines of each node as sets, but for the remaining seconds."""
    for node in sorted(recorded.keys() | ours.keys()):
        _bind_unseen_idents(recorded.get(node, ()), ours.get(node, ()), random)
        theirs = Counter(_entry(line, random) for line in recorded.get(node, ()))
        mine = Counter(_entry(line, None) for line in ours.get(node, ()))
        missing, extra = sorted((theirs - mine).elements()), sorted((mine - theirs).elements())
        if missing or extra:
            what = "an entry is missing" if not extra else "an entry too many" if not missing else "entries differ"
            return Difference(f"conntrack of {node}", what, missing[0] if missing else "", extra[0] if extra else "")
    return None


_REPLY_IDENT = re.compile(r"(?<=code=0 id=)\d+(?= mark)")


def _bind_unseen_idents(recorded: Sequence[str], ours: Sequence[str], random: RandomValues) -> None:
    """Masqueraded ICMP ids correspond by their entries where no frame has them: its neighbour was not found."""
    waiting: dict[str, list[int]] = {}
    for line in ours:
        for ident in _REPLY_IDENT.findall(line):
            waiting.setdefault(_REPLY_IDENT.sub("-", _entry(line, None)), []).append(int(ident))
    for line in recorded:
        for ident in map(int, _REPLY_IDENT.findall(line)):
            alike = waiting.get(_REPLY_IDENT.sub("-", _entry(line, random)))
            taken = {own for _, own in random.icmp_idents.items()} | random.fixed.icmp_idents
            free = [own for own in alike or () if own not in taken]
            if free and ident not in random.fixed.icmp_idents and random.icmp_idents.get(ident) is None:
                random.icmp_idents.bind(ident, free[0])


def _entry(line: str, random: RandomValues | None) -> str:
    """The line without remaining seconds, its random ports (if ``random`` is given) replaced by ours."""
    words = line.split()
    if len(words) > 4 and words[4].isdigit():
        words[4] = "-"
    if random is not None:
        tunnels = {(ip_to_text(flow[0]), real): own for flow, (real, own) in random.tunnel_ports.items()}
        address = {"sport": "", "dport": ""}
        for index, word in enumerate(words):
            key, equals, value = word.partition("=")
            if key in ("src", "dst"):
                address[f"{key[0]}port"] = value
            elif equals and key in ("sport", "dport", "id") and value.isdigit():
                mapped = (random.icmp_idents if key == "id" else random.ports).get(int(value))
                if mapped is None and key != "id":
                    mapped = tunnels.get((address[key], int(value)))
                words[index] = f"{key}={value if mapped is None else mapped}"
    return " ".join(words)


#: (table/CHAIN/n or table/CHAIN/policy) -> (packets, bytes), of one node; what is 0 may be left out.
NodeCounters = Mapping[str, tuple[int, int]]


def compare_counters(
    recorded: Mapping[str, NodeCounters], ours: Mapping[str, NodeCounters], random: RandomValues | None = None
) -> Difference | None:
    """Every counter must be equal, but for what the pace of bulk transfers decides.

    Multicast listener reports are not counted either: recordings leave them out of the frames.
    """
    slack = random.slack if random is not None else {}
    for node in sorted(recorded.keys() | ours.keys()):
        theirs, mine = recorded.get(node, {}), ours.get(node, {})
        for rule in sorted(theirs.keys() | mine.keys()):
            real, own = theirs.get(rule, (0, 0)), mine.get(rule, (0, 0))
            if real != own and not within(real, own, slack.get(node, 0)) and not _listener_reports(rule, real, own):
                return Difference(f"counters of {node}", rule, *(f"{p} packets, {b} bytes" for p, b in (real, own)))
    return None


#: A report of IPv6 multicast listeners (RFC 3810 section 5.2): headers with the router alert option, then one record of
#: 20 bytes for each group. When a host sends it is chance.
_LISTENER_REPORT_BYTES = 56
_LISTENER_RECORD_BYTES = 20
_REPORTED_CHAIN = re.compile(r"(mangle|filter|raw)/(PREROUTING|OUTPUT|POSTROUTING)/")


def _listener_reports(rule: str, real: tuple[int, int], own: tuple[int, int]) -> bool:
    """Whether multicast listener reports are all that a rule has counted more in the recording."""
    packets = real[0] - own[0]
    records, rest = divmod(real[1] - own[1] - packets * _LISTENER_REPORT_BYTES, _LISTENER_RECORD_BYTES)
    return packets > 0 and rest == 0 and records >= packets and _REPORTED_CHAIN.match(rule) is not None


#: What depends on how long things took on the recording machine.
_TIMES = re.compile(r"after \d+ (?:milliseconds|ms)|Query time: \d+ msec|;; WHEN: .*|\bid: \d+")
#: The serial number of a printed SOA record, which is a time too.
_SERIAL = re.compile(r"(?<=\sSOA\s)(\S+ \S+) \d+")


def compare_output(run: str, recorded: str, ours: str, random: RandomValues) -> Difference | None:
    """Compare what a client printed; times and DNS ids aside."""
    theirs = _SERIAL.sub(r"\1 -", _TIMES.sub("-", recorded))
    for real, own in random.ports.items():
        theirs = re.sub(rf":{real}(?!\d)", f":{own}", theirs)
    mine = _SERIAL.sub(r"\1 -", _TIMES.sub("-", ours))
    if theirs == mine:
        return None
    return Difference(run, "printed something else", repr(recorded.strip()), repr(ours.strip()))
