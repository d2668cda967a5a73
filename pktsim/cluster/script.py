"""What was chance in a recording and can be said beforehand, read from what was recorded.

The connection tracking tables name the endpoint that each connection drew and the port that a masquerading node chose;
the frames say in which order. The rest (sequence numbers, time stamps, ids) is mapped when frames are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from pktsim.cluster.commands import Client, Dig
from pktsim.cluster.comparison_types import Seen
from pktsim.cluster.draws import EndpointDraws, drawn_rules
from pktsim.cluster.kubedns.wire import RR, Rcode, Type, WireError, unpack
from pktsim.cluster.recording import DNS_PORT, LOOPBACK, Action, Flow, opening_of, parse_entry
from pktsim.cluster.wiring import Wiring
from pktsim.netfilter.matches.tcp import TcpMatch
from pktsim.netfilter.matches.udp import UdpMatch
from pktsim.netfilter.ruleset import Jump, Rule, Ruleset, Table
from pktsim.wire.fields import dissect

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_FIN, _SYN = 1, 2
#: Where services' chains are entered.
_GATE = "KUBE-SERVICES"

#: Protocol, source address and port, target address and port.
_Tuple = tuple[int, str, int | None, str, int | None]


@dataclass(frozen=True, slots=True)
class Draws:
    """The flows of one node, in the order in which they began."""

    node: str
    flows: tuple[Flow, ...]

    @property
    def masquerade_ports(self) -> tuple[int, ...]:
        """The ports that the node chose for flows whose source port it changed."""
        return tuple(
            flow.reply_dport for flow in self.flows if flow.reply_dport is not None and flow.reply_dport != flow.sport
        )


def draws_of(action: Action) -> list[Draws]:
    """What each node drew in an action."""
    first = _first_seen(action.frames)
    result = []
    for node, lines in sorted(action.conntrack.items()):
        begun = [(first.get(_leaving(flow), len(action.frames)), flow) for flow in map(parse_entry, lines)]
        begun += _lost_flows(action, node, {_leaving(flow) for _, flow in begun})
        begun.sort(key=lambda one: one[0])
        result.append(Draws(node, tuple(flow for _, flow in begun)))
    return result


@dataclass(slots=True)
class _Opening:
    """The SYN of a connection as a node saw it: when first, how it came in, and as what it was last seen."""

    number: int
    arrived: _Tuple | None = None
    left: _Tuple | None = None


def _lost_flows(action: Action, node: str, kept: Collection[_Tuple]) -> list[tuple[int, Flow]]:
    """Connections that the node's table no longer has: they were refused, or their ports were used again.

    Returns:
        Each with the number of its first frame.
    """
    openings: dict[int, _Opening] = {}  # by initial sequence number, which no node changes
    for number, seen in enumerate(action.frames):
        syn = opening_of(seen.frame) if seen.space == node and seen.interface != LOOPBACK else None
        if syn is not None:
            opening = openings.setdefault(syn.isn, _Opening(number))
            key = (_PROTOCOLS["tcp"], syn.src, syn.sport, syn.dst, syn.dport)
            if seen.direction == "in" and opening.left is None:
                opening.arrived = key
            opening.left = key  # a bridge shows it translated, though the node may not let it leave
    latest = {opening.left: opening for opening in openings.values()}
    lost = []
    for opening in openings.values():
        if opening.left is None or (opening.left in kept and latest[opening.left] is opening):
            continue
        arrived = opening.arrived or _asked_for(action, node, opening)
        if arrived is not None:
            (_, src, sport, dst, dport), (_, reply_dst, reply_dport, reply_src, reply_sport) = arrived, opening.left
            flow = Flow("tcp", src, dst, sport, dport, reply_src, reply_dst, reply_sport, reply_dport)
            lost.append((opening.number, flow))
    return lost


def _asked_for(action: Action, node: str, opening: _Opening) -> _Tuple | None:
    """What a process of the node itself wanted, which no interface shows."""
    at_s = action.frames[opening.number].at_s
    runs = [run for run in action.runs if run.space == node and run.start_s <= at_s]
    if not runs or opening.left is None:
        return None
    command = max(runs, key=lambda run: run.start_s).command
    if isinstance(command, Dig):
        return None
    host = command.destination if isinstance(command, Client) else urlsplit(command.url).hostname or ""
    try:
        target = str(ip_address(host))
    except ValueError:
        return None  # a name
    sport, dport = command.ports
    return opening.left[0], opening.left[1], sport or opening.left[2], target, dport


def _leaving(flow: Flow) -> _Tuple:
    """How packets of the flow's original direction look beyond the node."""
    protocol = _PROTOCOLS.get(flow.protocol, 0)
    source, target = str(ip_address(flow.reply_dst)), str(ip_address(flow.reply_src))
    return protocol, source, flow.reply_dport, target, flow.reply_sport


def _first_seen(frames: Sequence[Seen]) -> dict[_Tuple, int]:
    """Each tuple of addresses and ports, and the number of the frame that has it first."""
    found: dict[_Tuple, int] = {}
    for number, seen in enumerate(frames):
        for key in _tuples(seen.frame):
            found.setdefault(key, number)
    return found


def _tuples(frame: bytes) -> Iterator[_Tuple]:
    dissection = dissect(frame)
    paths = dict.fromkeys(part.path for part in dissection.fields)
    for path in paths:
        named = {part.name: part for part in dissection.fields if part.path == path}
        protocol, source, target = 0, None, None
        for family in ("ip", "ipv6"):
            if f"{family}.src" in named:
                source, target = named[f"{family}.src"], named[f"{family}.dst"]
        for name, number in (("tcp", 6), ("udp", 17)):
            if f"{name}.srcport" in named and source is not None and target is not None:
                protocol = number
                sport, dport = (dissection.value(named[f"{name}.{end}port"]) for end in ("src", "dst"))
                yield (
                    protocol,
                    str(ip_address(frame[source.start : source.end])),
                    sport,
                    str(ip_address(frame[target.start : target.end])),
                    dport,
                )


def script_endpoints(draws: Sequence[Draws], rulesets: Mapping[str, Ruleset], choices: EndpointDraws) -> None:
    """Have every connection draw the endpoint that it drew in the recording."""
    for of_node in draws:
        ruleset = rulesets.get(of_node.node)
        table = ruleset.table("nat") if ruleset is not None else None
        if table is None or not any(chain.name == _GATE for chain in table.chains):
            continue
        for flow in of_node.flows:
            if flow.reply_src == flow.dst and flow.reply_sport == flow.dport:
                continue
            for chain in _chains_for(table, flow):
                if flow.reply_src in drawn_rules(table, chain).values():
                    choices.want(of_node.node, chain, [flow.reply_src])


def _chains_for(table: Table, flow: Flow) -> list[str]:
    """The chains that a connection to the flow's destination may come to."""
    found: list[str] = []
    open_ = [_GATE]
    while open_:
        name = open_.pop()
        if name in found:
            continue
        found.append(name)
        for rule in table.chain(name).rules:
            if isinstance(rule.target, Jump) and _may_match(rule, flow):
                open_.append(rule.target.chain)
    return found


def _may_match(rule: Rule, flow: Flow) -> bool:
    """Whether destination, protocol and port of a rule fit; what else it asks is not looked at."""
    header = rule.header
    if header.protocol is not None and header.protocol != _PROTOCOLS.get(flow.protocol, 0):
        return False
    if header.dst is not None:
        inside = int(ip_address(flow.dst)) & int(header.dst.mask) == int(header.dst.address)
        if inside == header.dst_inverted:
            return False
    for match in rule.matches:
        if isinstance(match, TcpMatch | UdpMatch) and match.dst_ports is not None and flow.dport is not None:
            return match.dst_ports.first <= flow.dport <= match.dst_ports.last
    return True


def port_script(draws: Sequence[Draws]) -> dict[str, list[int]]:
    """Answers for the places where nodes choose masquerade ports (``nf_nat_l4proto_unique_tuple``)."""
    script: dict[str, list[int]] = {}
    for of_node in draws:
        for port in of_node.masquerade_ports:
            # The search starts at low + answer modulo the size of the class of ports, which is 1024 to 65535.
            if port >= 1024:
                script.setdefault(f"{of_node.node}/nat.port", []).append(port - 1024)
    return script


def first_fin_script(frames: Sequence[Seen], servers: Mapping[str, int]) -> dict[str, list[int]]:
    """Answers for the places where it is asked who closes an HTTP exchange first: 0 the server, 1 the client.

    Args:
        frames: The recorded ones.
        servers: Spaces with HTTP servers, and their ports.
    """
    # In the order of their SYNs.
    connections: list[_Served] = []
    latest: dict[tuple[str, bytes], _Served] = {}
    for seen in frames:
        port = servers.get(seen.space)
        if port is None:
            continue
        found = dissect(seen.frame)
        named = {part.name: part for part in found.fields if not part.path}
        if "tcp.hdr_len/flags" not in named:
            continue
        # lo shows what either end sends once, as received.
        sides = [side for side in ("dst", "src") if found.value(named[f"tcp.{side}port"]) == port]
        own = sides[0] if sides and seen.interface == "lo" else "dst" if seen.direction == "in" else "src"
        if own not in sides:
            continue
        received = own == "dst"
        family = "ip" if "ip.src" in named else "ipv6"
        peer = named[f"{family}.src" if received else f"{family}.dst"]
        peer_port = named["tcp.srcport" if received else "tcp.dstport"]
        key = (seen.space, seen.frame[peer.start : peer.end] + seen.frame[peer_port.start : peer_port.end])
        flags = found.value(named["tcp.hdr_len/flags"])
        known = latest.get(key)
        if flags & _SYN and received:
            isn = found.value(named["tcp.seq"])
            if known is None or known.isn != isn:  # else sent again; a client may use its port for one after the other
                latest[key] = _Served(seen.space, isn)
                connections.append(latest[key])
        elif known is not None:
            known.answered = known.answered or (not received and "tcp.payload" in named)
            if flags & _FIN and known.first_fin is None:
                known.first_fin = 1 if received else 0
    script: dict[str, list[int]] = {}
    for connection in connections:
        if connection.answered:  # only an answered request comes to a close there
            script.setdefault(f"{connection.space}/http.first_fin", []).append(connection.first_fin or 0)
    return script


@dataclass(slots=True)
class _Served:
    """A connection as its server sees it; ``first_fin``: 0 the server's, 1 the client's."""

    space: str
    isn: int
    answered: bool = False
    first_fin: int | None = None


def pipelining_script(frames: Sequence[Seen]) -> dict[str, list[int]]:
    """Answers for the places where it is asked whether a resolver's second query waits for the first one's answer.

    glibc asks A and AAAA of a name from one socket; two queries that leave one after the other, on one port and about
    one name, are such a pair.
    """
    script: dict[str, list[int]] = {}
    last: dict[str, tuple[int, bytes]] = {}  # space -> port and question of a query that waits for its second
    answered: dict[str, bool] = {}
    for seen in frames:
        found = dissect(seen.frame)
        named = {part.name: part for part in found.fields if not part.path}
        if "dns.id" not in named or "udp.srcport" not in named or seen.interface == "lo":
            continue
        space = seen.space
        if seen.direction == "in":
            answered[space] = True
            continue
        if found.value(named["udp.dstport"]) != DNS_PORT:
            continue
        message = named["dns.message"]
        # Up to the type, whose two bytes and the class's two come last in a query without additional records.
        question = (found.value(named["udp.srcport"]), seen.frame[message.start : message.end - 4])
        if last.get(space) == question:
            script.setdefault(f"{space}/resolver.pipelined", []).append(0 if answered.get(space) else 1)
            del last[space]
        else:
            last[space] = question
            answered[space] = False
    return script


def with_unused_neighbours(wiring: Wiring, frames: Sequence[Seen]) -> Wiring:
    """Mark the warm neighbour entries that no packet had been sent to before the action, which a topology cannot say.

    A packet between two ports of a bridge that br_netfilter translated passes the bridge device by, unless the entry
    of its new destination has no hardware header yet (``br_nf_pre_routing_finish_bridge``).
    """
    behind = {(entry.space, entry.dev, ip_address(entry.address).packed) for entry in wiring.warm_neighbours}
    bridges = {
        (space.name, interface.name)
        for space in wiring.spaces
        for interface in space.interfaces
        if interface.kind == "bridge"
    }
    unused = set()
    for seen in frames:
        if (seen.space, seen.interface) not in bridges or seen.direction != "out":
            continue
        found = dissect(seen.frame)
        sources = [part for name in ("ip.src", "ipv6.src") for part in found.named(name) if not part.path]
        if any((seen.space, seen.interface, seen.frame[part.start : part.end]) in behind for part in sources):
            unused.add((seen.space, seen.interface, seen.frame[:6].hex(":")))
    return replace(
        wiring,
        warm_neighbours=tuple(
            replace(entry, used=(entry.space, entry.dev, entry.mac) not in unused) for entry in wiring.warm_neighbours
        ),
    )


#: The addresses of one section of an answer, in order.
_Order = tuple[bytes, ...]


def address_orders(frames: Sequence[Seen], servers: Sequence[str]) -> dict[str, list[_Order]]:
    """The orders in which DNS servers put several addresses, section by section, as CoreDNS's loadbalance sees them."""
    orders: dict[str, list[_Order]] = {server: [] for server in servers}
    for seen in frames:
        if seen.space not in orders or seen.interface == "lo" or seen.direction != "out":
            continue
        found = dissect(seen.frame)
        start = next((part.start for part in found.named("dns.id") if not part.path), None)
        if start is None:
            continue
        try:
            message = unpack(seen.frame[start:])
        except WireError:
            continue  # cut short by a fragment's end
        if message.rcode == Rcode.NOERROR:
            sections = (_addresses(records) for records in (message.answer, message.authority, message.additional))
            orders[seen.space] += [order for order in sections if len(order) > 1]
    return orders


def _addresses(records: Sequence[RR]) -> _Order:
    found = (record.data[0] for record in records if record.type in (Type.A, Type.AAAA))
    return tuple(data for data in found if isinstance(data, bytes))


def unshuffled_script(wanted: Mapping[str, Sequence[_Order]]) -> dict[str, list[int]]:
    """Answers that leave all addresses where they are."""
    return shuffle_script(wanted, wanted)


def shuffle_script(
    before: Mapping[str, Sequence[_Order]], after: Mapping[str, Sequence[_Order]]
) -> dict[str, list[int]]:
    """Answers for the places where loadbalance asks for an order, to come from one order to another."""
    script: dict[str, list[int]] = {}
    for server, wanted in sorted(after.items()):
        for given, order in zip(before.get(server, ()), wanted, strict=False):
            if sorted(given) != sorted(order):
                break
            if len(order) == 2:
                script.setdefault(f"{server}/loadbalance/swap", []).append(int(given == order))
                continue
            left = list(given)
            for at, address in enumerate(order[:-1]):
                other = left.index(address, at)
                script.setdefault(f"{server}/loadbalance/shuffle", []).append(other - at)
                left[at], left[other] = left[other], left[at]
    return script
