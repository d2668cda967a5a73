"""What the engine's trace says, in words: hook by hook, chain by chain, rule by rule.

The engine records numbers (``opcodes.TraceKind``); here they meet the source maps of the programs that ran. Nothing is
computed again: what is not in the record is not said.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from pktsim.netfilter.iptables_text import rule_text
from pktsim.netfilter.lower import Lowered, SourceRule
from pktsim.netfilter.nft_lower import LoweredNft
from pktsim.netfilter.nft_lower_expressions import NftSource
from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_ruleset import VerdictStatement
from pktsim.netfilter.opcodes import (
    CtInfo,
    DropReason,
    Hook,
    NeighbourClass,
    RouteType,
    TableId,
    TraceKind,
    Upcall,
)
from pktsim.netfilter.ruleset import Family, Jump

#: The engine's numbers for nft's tables begin here (``NFT_TABLES`` in includes/program.pxi).
_NFT_TABLES = 16
_RECORD = struct.Struct("=6i")

#: What a reader wants to know of a drop.
DROP_TEXT: dict[DropReason, str] = {
    DropReason.FRAME_TOO_SHORT: "the frame is too short",
    DropReason.OTHER_HOST: "the frame is addressed to another station",
    DropReason.NO_PROTOCOL: "nobody handles this ethertype",
    DropReason.IP_HEADER: "the IP header is malformed or longer than the packet",
    DropReason.IP_CHECKSUM: "the IP header checksum is wrong",
    DropReason.RULE: "a rule said DROP",
    DropReason.POLICY: "the chain's policy is DROP",
    DropReason.HOTDROP: "a match found the packet too broken to look at (hot drop)",
    DropReason.CONNTRACK_TABLE_FULL: "the connection tracking table is full",
    DropReason.CONNTRACK_CLASH: "another packet's entry with the same tuple was confirmed first",
    DropReason.NAT: "NAT cannot translate it: no free port, no address, or a header cut short",
    DropReason.MARTIAN_SOURCE: "martian: its source address cannot come from there",
    DropReason.MARTIAN_DESTINATION: "martian: its destination address cannot be on a wire",
    DropReason.RP_FILTER: "reverse path filter: the way back to its source is another interface",
    DropReason.NO_ROUTE: "no route to its destination",
    DropReason.ROUTE_BLACKHOLE: "a blackhole route",
    DropReason.ROUTE_UNREACHABLE: "an unreachable route",
    DropReason.ROUTE_PROHIBIT: "a prohibit route",
    DropReason.NOT_FORWARDING: "not addressed to this host, and forwarding is off",
    DropReason.TTL_EXPIRED: "its time to live ended here",
    DropReason.NEIGHBOUR_FAILED: "nobody answered for the next hop's link-layer address",
    DropReason.LINK_DOWN: "the interface is down or gone",
    DropReason.BRIDGE_NO_FORWARD: "the bridge has no port for it (back to where it came from needs hairpin mode)",
    DropReason.FRAGMENT_NEEDED: "larger than the MTU of its way, and it must not be fragmented",
    DropReason.TRANSPORT_HEADER: "the TCP, UDP or ICMP header is malformed or cut short",
    DropReason.TRANSPORT_CHECKSUM: "the TCP, UDP or ICMP checksum is wrong",
    DropReason.UNHANDLED_PROTO: "this host does not handle this type of message",
    DropReason.INVALID_PROTO: "ICMP to many that this host does not answer",
    DropReason.UNICAST_IN_L2_MULTICAST: "its frame was sent to many, and such a one is not forwarded",
    DropReason.GROUP_NOT_JOINED: "sent to a group that this host has not joined",
    DropReason.NEIGH_CREATEFAIL: "the neighbour table is full",
    DropReason.NEIGH_QUEUEFULL: "too many packets wait for its next hop's link-layer address",
    DropReason.QUEUE_PURGE: "the entry of the next hop that it waited for was deleted",
    DropReason.DUP_FRAG: "the same fragment has come before",
    DropReason.FRAG_REASM_TIMEOUT: "its other fragments did not come in time",
    DropReason.FRAG_TOO_FAR: "too many other fragments have come meanwhile (net.ipv4.ipfrag_max_dist)",
    DropReason.FRAG_MEMORY: "too many fragments wait already",
    DropReason.SOCKET_RCVBUFF: "the receive buffer of its socket is full",
    DropReason.NO_TX_TARGET: "the tunnel knows no remote host for its destination",
    DropReason.VXLAN_INVALID_HDR: "the VXLAN header or the UDP header before it is invalid",
    DropReason.VXLAN_VNI_NOT_FOUND: "no VXLAN device of its network (VNI) is up here",
    DropReason.LOCAL_MAC: "the frame in the tunnel is from this host itself",
    DropReason.IP_TUNNEL_ECN: "congestion was experienced, and the packet in the tunnel cannot carry that (RFC 6040)",
    DropReason.ARP_INVALID: "the ARP message is malformed, or about an address that no station has",
    DropReason.ARP_GRATUITOUS: "a gratuitous ARP message (drop_gratuitous_arp)",
    DropReason.IPV6_NDISC_FRAG: "neighbour discovery in fragments (suppress_frag_ndisc)",
    DropReason.IPV6_NDISC_HOP_LIMIT: "neighbour discovery with a hop limit below 255: it is not from a neighbour",
    DropReason.IPV6_NDISC_BAD_CODE: "neighbour discovery with a code other than 0",
    DropReason.IPV6_NDISC_BAD_OPTIONS: "the options of the neighbour discovery message are invalid",
    DropReason.IPV6_NDISC_NS_OTHERHOST: "it asks for the neighbour of an address that is not this host's",
    DropReason.NDISC_INVALID: "the neighbour discovery message is cut short or about no host's address",
    DropReason.NDISC_UNSOLICITED: "it advertises a neighbour that nobody here has asked for",
    DropReason.NDISC_IGNORED: "a message between hosts and routers that this one does not go by (forwarding)",
    DropReason.TCP_FLAGS: "TCP flags that its connection or listener cannot take in its state",
    DropReason.TCP_RESET: "a TCP reset that does not fit the connection exactly",
    DropReason.TCP_INVALID_SYN: "a SYN within a TCP connection",
    DropReason.TCP_LISTEN_OVERFLOW: "the queues of the listening socket are full (its backlog)",
    DropReason.TCP_OLD_SEQUENCE: "a TCP sequence number before the window: it came before",
    DropReason.TCP_INVALID_SEQUENCE: "a TCP sequence number outside of the window",
    DropReason.TCP_INVALID_END_SEQUENCE: "a TCP segment that reaches beyond the window",
    DropReason.TCP_INVALID_ACK_SEQUENCE: "it acknowledges what the TCP connection to be has not sent",
    DropReason.TCP_RFC7323_PAWS: "its TCP time stamp is older than the last (PAWS)",
    DropReason.TCP_RFC7323_TW_PAWS: "its TCP time stamp is older than the last of a connection in TIME_WAIT (PAWS)",
    DropReason.TCP_RFC7323_TSECR: "it echoes a TCP time stamp that was not sent",
    DropReason.TCP_TOO_OLD_ACK: "a TCP acknowledgement that is far too old",
    DropReason.TCP_ACK_UNSENT_DATA: "it acknowledges TCP data that were not sent",
    DropReason.TCP_ZEROWINDOW: "the TCP receive window is closed",
    DropReason.TCP_OLD_DATA: "TCP data that have come before",
    DropReason.TCP_OVERWINDOW: "TCP data beyond the receive window",
    DropReason.TCP_OFOMERGE: "TCP data that came before, and wait for what is missing before them",
    DropReason.PROTO_MEM: "the receive buffer of the TCP connection is full",
    DropReason.TCP_CLOSE: "the other side has closed the TCP connection already",
    DropReason.TCP_ABORT_ON_DATA: "TCP data for a process that has closed: the connection is reset",
    DropReason.MAC_INVALID_SOURCE: "the frame's source address is no station's",
    DropReason.MAC_IEEE_MAC_CONTROL: "the frame is for the link alone (a MAC control frame), and goes no further",
    DropReason.IP_LOCALNET: "127.0.0.0/8 is this host alone, not on a link",
    DropReason.IP_LOCAL_SOURCE: "its source is an address of this host itself",
    DropReason.QDISC_DROP: "lost on its link",
    DropReason.XDP: "the program at the interface has nowhere to send it",
    DropReason.IPV6DISABLED: "the device does without IPv6 (disable_ipv6)",
    DropReason.NO_SOCKET: "no socket of this host takes it",
    DropReason.REJECTED: "a rule said REJECT",
    DropReason.MTU: "larger than the receiving interface takes",
    DropReason.LOOP: "it goes round in this namespace without end",
    DropReason.NO_CARRIER: "the interface has no carrier",
    DropReason.FRAGMENT_BAD: "its fragments do not fit together",
    DropReason.NO_QUEUE: "queued for a program, and none listens",
    DropReason.UNSUPPORTED: "it needs something that is not modelled",
}

_HOOK_WORDS = {
    Hook.PREROUTING: "PREROUTING",
    Hook.INPUT: "INPUT",
    Hook.FORWARD: "FORWARD",
    Hook.OUTPUT: "OUTPUT",
    Hook.POSTROUTING: "POSTROUTING",
}


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One line of the story of one packet.

    Attributes:
        pkt_id: The packet's number in its namespace.
        kind: What sort of step.
        text: One line for people.
        depth: How many chains deep, for indentation.
        rule: The rule that matched, for ``RULE``.
        table: Its table.
        matched: Whether it matched, for ``RULE``.
        changed: What the packet looks like differently after this step, in a few words; empty if nothing changed.
        evaluated: How many rules the kernel looks at from the step before to this one, this one's included: also those
            that the engine's index passes over.
        refused: Whether the packet goes no further, and its sender is told.
    """

    pkt_id: int
    kind: TraceKind
    text: str
    depth: int = 0
    rule: SourceRule | NftSource | None = None
    table: str = ""
    matched: bool = False
    changed: str = ""
    evaluated: int = 0
    refused: bool = False


@dataclass(slots=True)
class _Chains:
    """Where a packet is in a table: the chains that it is in, innermost last, and the last rule looked at in each."""

    table: TableId = TableId.FILTER
    names: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    #: Rules looked at since the last step.
    evaluated: int = 0

    def enter(self, name: str) -> None:
        self.names.append(name)
        self.numbers.append(0)

    def reach(self, number: int) -> None:
        if self.numbers:
            self.evaluated += max(number - self.numbers[-1], 0)
            self.numbers[-1] = number

    def leave(self) -> None:
        if self.names:
            self.names.pop()
            self.numbers.pop()

    def take(self) -> int:
        evaluated, self.evaluated = self.evaluated, 0
        return evaluated


@dataclass(slots=True)
class TraceReader:
    """Turns one namespace's records into steps; remembers which rule set up which connection's NAT.

    Args:
        interface_name: ifindex -> name.
        lowered: The programs in force: (family, table) -> lowered table.
        nft: nft's programs in force, by their numbers.
    """

    interface_name: Callable[[int], str]
    lowered: Mapping[tuple[Family, TableId], Lowered]
    nft: Sequence[LoweredNft] = ()
    _nat_rules: dict[tuple[int, int], str] = field(default_factory=dict)
    _rule_texts: dict[tuple[int, int, int], str] = field(default_factory=dict)
    _parents: dict[int, int] = field(default_factory=dict)

    def read(self, records: bytes, aux: bytes, family: Family = Family.IPV4) -> list[TraceStep]:
        """All steps in the order in which they happened.

        Args:
            records: ``int32[n, 6]`` from ``Datapath.take_trace``.
            aux: Its auxiliary bytes.
            family: Of the packets (a trace of both families at once is told apart by the received frames).
        """
        steps: list[TraceStep] = []
        depth: dict[int, int] = {}
        last_rule: dict[int, str] = {}
        last_looked: dict[int, str] = {}
        last_chain: dict[int, str] = {}
        entry: dict[int, int] = {}
        families: dict[int, Family] = {}
        chains: dict[int, _Chains] = {}
        devices_in: dict[int, str] = {}
        for pkt_id, kind_number, a, b, c, d in _RECORD.iter_unpack(records):
            kind = TraceKind(kind_number & ~_IPV6)
            if kind_number & _IPV6:
                families[pkt_id] = Family.IPV6
            fam = families.get(pkt_id, family)
            if kind is TraceKind.CLONE:
                self._parents[pkt_id] = a
                families[pkt_id] = families.get(a, family)
                entry[pkt_id] = entry.get(a, 0)
                continue
            if kind is TraceKind.RX:
                ethertype = aux[d + 12 : d + 14]
                if ethertype in (b"\x08\x00", b"\x86\xdd"):
                    fam = families[pkt_id] = Family.IPV4 if ethertype == b"\x08\x00" else Family.IPV6
                devices_in[pkt_id] = self.interface_name(a)
                steps.append(TraceStep(pkt_id, kind, f"{self.interface_name(a)} receives it"))
            elif kind is TraceKind.HOOK:
                depth[pkt_id] = 0
                devices = " ".join(
                    f"{word}={self.interface_name(index)}" for word, index in (("in", c), ("out", d)) if index
                )
                caller = ", called by br_netfilter" if b else ""
                steps.append(TraceStep(pkt_id, kind, f"{_HOOK_WORDS[Hook(a)]} ({devices}{caller})"))
            elif kind is TraceKind.TABLE and a >= _NFT_TABLES:
                depth[pkt_id] = 0
                steps.append(self._nft_chain(pkt_id, a - _NFT_TABLES, c))
                last_chain[pkt_id] = steps[-1].text
            elif kind is TraceKind.RULE and a >= _NFT_TABLES:
                said = self._nft_source(a - _NFT_TABLES, b)
                level = depth.get(pkt_id, 0)
                steps.append(self._nft_rule(pkt_id, a - _NFT_TABLES, said, matched=c == 1, depth=level))
                if c == 1 and said is not None:
                    if d >= 0 or _jumps(said):
                        depth[pkt_id] = level + 1
                    last_rule[pkt_id] = f"{steps[-1].table} {said.chain} rule {said.number}"
            elif kind is TraceKind.RETURN and a >= _NFT_TABLES:
                depth[pkt_id] = max(depth.get(pkt_id, 0) - 1, 0)
            elif kind is TraceKind.POLICY and a >= _NFT_TABLES:
                verdict = "accept" if c else "drop"
                text = f"end of the base chain: policy {verdict}"
                steps.append(TraceStep(pkt_id, kind, text, table=self._nft_table(a - _NFT_TABLES)))
                last_rule[pkt_id] = f"policy of {last_chain.get(pkt_id, 'a chain')}"
            elif kind is TraceKind.TABLE:
                depth[pkt_id] = 0
                table = TableId(a).name.lower()
                chains[pkt_id] = _Chains(TableId(a))
                chains[pkt_id].enter(Hook(b).name)
                steps.append(TraceStep(pkt_id, kind, f"table {table}, chain {Hook(b).name}", table=table))
            elif kind is TraceKind.RULE:
                place = chains.setdefault(pkt_id, _Chains(TableId(a)))
                source = self._source(fam, TableId(a), b)
                if source is not None:
                    place.reach(source.number)
                step = self._rule(pkt_id, fam, TableId(a), b, matched=c == 1, depth=depth.get(pkt_id, 0))
                steps.append(replace(step, evaluated=place.take()))
                rule = steps[-1].rule
                if rule is not None:
                    last_looked[pkt_id] = f"{steps[-1].table} {rule.chain} rule {rule.number}"
                if c == 1 and isinstance(rule, SourceRule) and rule.rule is not None:
                    if isinstance(rule.rule.target, Jump):
                        depth[pkt_id] = depth.get(pkt_id, 0) + 1
                        if rule.rule.target.goto:
                            place.leave()
                        place.enter(rule.rule.target.chain)
                    last_rule[pkt_id] = last_looked[pkt_id]
            elif kind is TraceKind.RETURN:
                depth[pkt_id] = max(depth.get(pkt_id, 0) - 1, 0)
                place = chains.setdefault(pkt_id, _Chains(TableId(a)))
                self._end(fam, place, self._source(fam, TableId(a), b))
                place.leave()
            elif kind is TraceKind.POLICY:
                verdict = "ACCEPT" if c else "DROP"
                place = chains.setdefault(pkt_id, _Chains(TableId(a)))
                self._end(fam, place, SourceRule(Hook(b).name, 0, None))
                steps.append(
                    TraceStep(
                        pkt_id,
                        kind,
                        f"end of chain {Hook(b).name}: policy {verdict}",
                        table=TableId(a).name.lower(),
                        evaluated=place.take(),
                    )
                )
                last_rule[pkt_id] = f"{TableId(a).name.lower()} {Hook(b).name} policy"
            elif kind is TraceKind.CONNTRACK:
                entry[pkt_id] = b
                steps.append(TraceStep(pkt_id, kind, _conntrack_text(a, b, new=bool(c))))
            elif kind is TraceKind.CONFIRM:
                steps.append(TraceStep(pkt_id, kind, f"connection #{b} is confirmed" if a else f"connection #{b} lost"))
            elif kind is TraceKind.NAT:
                steps.append(
                    self._nat(pkt_id, fam, a, c, aux[d : d + 36], entry.get(pkt_id, 0), last_rule.get(pkt_id, ""))
                )
            elif kind is TraceKind.ROUTE:
                steps.append(TraceStep(pkt_id, kind, self._route_text(fam, a, b, c, aux[d : d + 16])))
            elif kind is TraceKind.TTL:
                name = "TTL" if fam is Family.IPV4 else "hop limit"
                steps.append(TraceStep(pkt_id, kind, f"{name} becomes {a}", changed=f"{name} {a + 1} -> {a}"))
            elif kind is TraceKind.NEIGHBOUR:
                mac = ":".join(f"{byte:02x}" for byte in aux[d : d + 6])
                how = " (unconfirmed)" if a == NeighbourClass.USABLE else ""
                steps.append(TraceStep(pkt_id, kind, f"next hop on {self.interface_name(b)} is at {mac}{how}"))
            elif kind is TraceKind.TX:
                steps.append(TraceStep(pkt_id, kind, f"{self.interface_name(a)} sends it"))
            elif kind is TraceKind.DROP:
                reason = DropReason(a)
                # a match that drops the packet is of a rule that does not match
                rule_text = (last_looked if reason is DropReason.HOTDROP else last_rule).get(pkt_id, "")
                by_rule = reason in _BY_RULE and (reason is not DropReason.NAT or rule_text.startswith("nat "))
                by = f" ({rule_text})" if by_rule and rule_text else ""
                setting = _setting(reason, fam, devices_in.get(pkt_id, "IF"))
                text = f"dropped: {DROP_TEXT[reason]}{by or (f' ({setting})' if setting else '')}"
                # where an ICMP error follows, that says enough in a comment
                steps.append(TraceStep(pkt_id, kind, text, changed="" if b else text))
            elif kind is TraceKind.UPCALL:
                steps.append(self._upcall(pkt_id, Upcall(a), b, c, last_rule.get(pkt_id, "")))
            elif kind is TraceKind.BRIDGE:
                steps.append(TraceStep(pkt_id, kind, self._bridge_text(a, b)))
            elif kind is TraceKind.UNTRACKED:
                steps.append(TraceStep(pkt_id, kind, "marked as not to be tracked"))
            elif kind is TraceKind.RANDOM:
                drawn = "drawn" if c else "not drawn"
                steps.append(TraceStep(pkt_id, kind, f"random: {drawn}", depth=depth.get(pkt_id, 0)))
            elif kind is TraceKind.MARK:
                steps.append(TraceStep(pkt_id, kind, f"mark becomes {a & 0xFFFFFFFF:#x}", depth=depth.get(pkt_id, 0)))
            elif kind is TraceKind.DELIVER:
                steps.append(TraceStep(pkt_id, kind, f"delivered to this host's sockets (protocol {a})"))
        return steps

    def ancestors(self, pkt_id: int) -> tuple[int, ...]:
        """The packet and those it was copied from, oldest first."""
        line = [pkt_id]
        while line[-1] in self._parents:
            line.append(self._parents[line[-1]])
        return tuple(reversed(line))

    def _rule(
        self, pkt_id: int, family: Family, table: TableId, number: int, *, matched: bool, depth: int
    ) -> TraceStep:
        lowered = self.lowered.get((family, table))
        name = table.name.lower()
        if lowered is None or number >= len(lowered.sources):
            return TraceStep(
                pkt_id, TraceKind.RULE, f"rule {number} of a table that is gone", depth, None, name, matched
            )
        source = lowered.sources[number]
        key = (family, table, number)
        text = self._rule_texts.get(key)
        if text is None:
            # the text may belong to another generation of the table: look at the rule, not only at its number
            text = rule_text(source.rule, source.chain, family) if source.rule is not None else f"end of {source.chain}"
            self._rule_texts[key] = text
        return TraceStep(pkt_id, TraceKind.RULE, text, depth, source, name, matched)

    def _source(self, family: Family, table: TableId, number: int) -> SourceRule | None:
        lowered = self.lowered.get((family, table))
        return lowered.sources[number] if lowered is not None and number < len(lowered.sources) else None

    def _end(self, family: Family, place: _Chains, source: SourceRule | None) -> None:
        """A chain is left: at its end all its rules were looked at, at a RETURN those up to it."""
        lowered = self.lowered.get((family, place.table))
        if source is None or source.number or lowered is None or lowered.image is None or not place.names:
            return
        placed = lowered.image.placed.get(place.names[-1])
        if placed is not None and placed.chain.name == source.chain:
            place.reach(len(placed.chain.rules))

    def _nft_table(self, number: int) -> str:
        if number >= len(self.nft):
            return "an nft table that is gone"
        table = self.nft[number].table
        return f"{table.family.value} {table.name}"

    def _nft_chain(self, pkt_id: int, number: int, chain: int) -> TraceStep:
        name = self.nft[number].chain_names.get(chain, "?") if number < len(self.nft) else "?"
        table = self._nft_table(number)
        return TraceStep(pkt_id, TraceKind.TABLE, f"table {table}, chain {name}", table=table)

    def _nft_source(self, number: int, rule: int) -> NftSource | None:
        if number >= len(self.nft) or rule >= len(self.nft[number].sources):
            return None
        return self.nft[number].sources[rule]

    def _nft_rule(self, pkt_id: int, number: int, source: NftSource | None, *, matched: bool, depth: int) -> TraceStep:
        table = self._nft_table(number)
        if source is None or source.rule is None:
            return TraceStep(pkt_id, TraceKind.RULE, "a rule of a table that is gone", depth, None, table, matched)
        text = Printer(stateless=True).rule(source.rule, self.nft[number].table.family)
        return TraceStep(pkt_id, TraceKind.RULE, f"{source.chain} {text}", depth, source, table, matched)

    def forget_tables(self) -> None:
        """The tables were replaced: rule numbers mean other rules now."""
        self._rule_texts.clear()

    def _nat(self, pkt_id: int, family: Family, manip: int, fresh: int, aux: bytes, entry: int, rule: str) -> TraceStep:
        old, new = _endpoint(family, aux[0:18]), _endpoint(family, aux[18:36])
        side = "destination" if manip else "source"
        if fresh and rule:
            self._nat_rules.setdefault((entry, manip), rule)
        known = self._nat_rules.get((entry, manip)) or self._nat_rules.get((entry, 1 - manip), "")
        by = f" (connection #{entry}" + (f", by {known})" if known else ")")
        change = f"{side} {old} -> {new}"
        return TraceStep(pkt_id, TraceKind.NAT, f"NAT: {change}{by}", changed=f"{change}{by}")

    def _route_text(self, family: Family, route_type: int, oif: int, rerouted: int, hop: bytes) -> str:
        if route_type == 0:
            return "route: none"
        kind = RouteType(route_type)
        again = "routed again" if rerouted else "route"
        if kind is RouteType.LOCAL:
            return f"{again}: to this host"
        return f"{again}: {kind.name.lower()} by {self.interface_name(oif)}, next hop {_address(family, hop)}"

    def _bridge_text(self, what: int, port: int) -> str:
        if what == 0:
            return f"bridged to {self.interface_name(port)}"
        if what == 1:
            return "flooded to the bridge's ports"
        return f"passed up to {self.interface_name(port)}"

    def _upcall(self, pkt_id: int, reason: Upcall, a: int, b: int, rule: str) -> TraceStep:
        if reason is Upcall.REJECT:
            text = f"rejected ({rule})"
            return TraceStep(pkt_id, TraceKind.UPCALL, text, changed=text, refused=True)
        if reason is Upcall.ICMP_ERROR:
            text = f"answered with ICMP type {a} code {b}"
            return TraceStep(pkt_id, TraceKind.UPCALL, text, changed=text, refused=a not in _REDIRECTS)
        words = {
            Upcall.ARP: "an ARP message for this host's neighbour table",
            Upcall.DELIVER: "to the transport layer",
            Upcall.NEIGHBOUR_MISS: f"waits for the link-layer address of its next hop on {self.interface_name(a)}",
            Upcall.FRAGMENT: f"is cut into fragments for an MTU of {b}",
            Upcall.DEFRAGMENT: "waits for its other fragments",
            Upcall.VXLAN_XMIT: "is wrapped into VXLAN",
            Upcall.OTHER_L2: f"neither IP nor ARP, but ethertype {b:#06x}",
            Upcall.FLOOD: "goes on to the other ports when the refusal has left",
            Upcall.IP_OPTIONS: f"the IPv4 options are {'written into' if a == Hook.FORWARD else 'looked at'}",
            Upcall.HELD: f"is held in {Hook(a).name if 0 <= a < len(Hook) else a}",
        }
        return TraceStep(pkt_id, TraceKind.UPCALL, words.get(reason, reason.name.lower().replace("_", " ")))


#: Beside a record's kind: the packet is of IPv6.
_IPV6 = 0x100
#: What lies between two hooks: no indentation.
_BETWEEN_HOOKS = frozenset(
    {TraceKind.RX, TraceKind.TX, TraceKind.BRIDGE, TraceKind.ROUTE, TraceKind.DELIVER, TraceKind.UPCALL}
)
#: Types of ICMP and ICMPv6 messages about packets that are forwarded all the same.
_REDIRECTS = frozenset({5, 137})
_BY_RULE = frozenset({DropReason.RULE, DropReason.POLICY, DropReason.HOTDROP, DropReason.NAT})

#: What decides a drop where that is one setting, in IPv4 and IPv6; {} is the device that the packet came by.
_SETTINGS = {
    DropReason.RP_FILTER: ("net.ipv4.conf.{}.rp_filter", ""),
    DropReason.IP_LOCALNET: ("net.ipv4.conf.{}.route_localnet", ""),
    DropReason.IP_LOCAL_SOURCE: ("net.ipv4.conf.{}.accept_local", ""),
    DropReason.NOT_FORWARDING: ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
    DropReason.CONNTRACK_TABLE_FULL: ("net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_max"),
    DropReason.NEIGH_CREATEFAIL: ("net.ipv4.neigh.default.gc_thresh3", "net.ipv6.neigh.default.gc_thresh3"),
    DropReason.NEIGH_QUEUEFULL: ("net.ipv4.neigh.IF.unres_qlen_bytes", "net.ipv6.neigh.IF.unres_qlen_bytes"),
    DropReason.FRAG_MEMORY: ("net.ipv4.ipfrag_high_thresh", "net.ipv6.ip6frag_high_thresh"),
}


def _setting(reason: DropReason, family: Family, device: str) -> str:
    ipv4, ipv6 = _SETTINGS.get(reason, ("", ""))
    return (ipv4 if family is Family.IPV4 else ipv6).format(device)


def _jumps(source: NftSource) -> bool:
    return source.rule is not None and any(
        isinstance(one, VerdictStatement) and bool(one.verdict.chain) for one in source.rule.statements
    )


def _address(family: Family, raw: bytes) -> str:
    return str(IPv4Address(raw[:4]) if family is Family.IPV4 else IPv6Address(raw[:16]))


def _endpoint(family: Family, raw: bytes) -> str:
    address = _address(family, raw)
    port = int.from_bytes(raw[16:18], "big")
    return f"{address}:{port}" if family is Family.IPV4 else f"[{address}]:{port}"


def _conntrack_text(ctinfo: int, entry: int, *, new: bool) -> str:
    if ctinfo == 8:
        return "conntrack: INVALID (no connection)"
    if ctinfo == CtInfo.UNTRACKED:
        return "conntrack: UNTRACKED"
    info = CtInfo(ctinfo)
    state = info.name.removesuffix("_REPLY")
    direction = "reply" if info >= CtInfo.ESTABLISHED_REPLY else "original"
    return f"conntrack: {state}, {'new ' if new else ''}connection #{entry}, {direction} direction"


def comment(steps: Iterable[TraceStep], *, where: str) -> str:
    """What a node did to a packet, in the few words that fit a capture's comment; empty if it left it alone."""
    changes = [step.changed for step in steps if step.changed]
    if not changes:
        return ""
    return f"{where}: " + "; ".join(dict.fromkeys(changes))


def render(steps: Iterable[TraceStep], *, unmatched: bool = False) -> list[str]:
    """Lines of text, indented by hook, table and chain."""
    lines: list[str] = []
    base = 0
    for step in steps:
        if step.kind is TraceKind.RULE:
            if step.matched:
                lines.append("  " * (2 + step.depth) + step.text)
            elif unmatched:
                lines.append("  " * (2 + step.depth) + f"(no) {step.text}")
        elif step.kind is TraceKind.HOOK:
            base = 1
            lines.append(step.text)
        elif step.kind is TraceKind.TABLE:
            lines.append("  " + step.text)
        elif step.kind in (TraceKind.POLICY, TraceKind.RANDOM, TraceKind.MARK):
            lines.append("  " * (2 + step.depth) + step.text)
        elif step.kind in (
            TraceKind.RX,
            TraceKind.TX,
            TraceKind.BRIDGE,
            TraceKind.ROUTE,
            TraceKind.DELIVER,
            TraceKind.UPCALL,
        ):
            base = 0
            lines.append(step.text)
        else:
            lines.append("  " * base + step.text)
    return lines
