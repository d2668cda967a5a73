"""One kernel alone: a case (a node, its rules, a list of steps) in, a result (everything observed) out.

The format is that of the recordings that pktsim is measured by, so that the same file runs here and can be compared:
see the README beside the recordings, and ``pktsim node --help``.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any

from pktsim.clock import NS_PER_MS, NS_PER_S, Clock
from pktsim.errors import ObjectError
from pktsim.kernel.case_format import check_case
from pktsim.kernel.netns import Netns
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.transport import AF_INET, AF_INET6, parse_ip
from pktsim.netfilter.ipset_text import restore_sets, save_elements
from pktsim.netfilter.iptables_text import located, parse_save, print_save, restore
from pktsim.netfilter.lower import Lowered
from pktsim.netfilter.opcodes import CtStatus, DropReason, LinkKind, TableId
from pktsim.netfilter.ruleset import Family
from pktsim.rng import Choices, SeededChoices
from pktsim.wire.checksum import checksum
from pktsim.wire.fields import Dissection, Field, FieldWriter, dissect

#: Steps are dealt with one after the other; what a step sets off is over long before this.
STEP_NS = 20 * NS_PER_MS
_KINDS = {"veth": LinkKind.WIRE, "bridge": LinkKind.BRIDGE, "dummy": LinkKind.DUMMY}
#: The recordings' baseline, where it differs from the kernel's defaults.
BASELINE_SYSCTLS: dict[str, str] = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.icmp_ratemask": "0",
    "net.ipv6.conf.all.forwarding": "1",
}
TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)
SCTP_STATES = (
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
)
_ICMP = frozenset({1, 58})
#: Protocols that this kernel has a handler for; SCTP's is a module that is not loaded.
_TRANSPORTS = frozenset({1, 2, 6, 17, 58, 59, 103, 136})
#: ``NF_CT_ZONE_DIR_*``.
_ZONE_ORIGINAL = 1
_ZONE_BOTH = 3


@dataclass(slots=True)
class StepResult:
    """What one step led to; the fields are the format's."""

    emitted: list[tuple[str, bytes]] = field(default_factory=list)
    delivered: int = 0
    sockets: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    rules: dict[str, tuple[int, int]] = field(default_factory=dict)
    conntrack: list[dict[str, Any]] = field(default_factory=list)


class CaseRun:
    """A case's node, ready to take its steps.

    Args:
        case: The case, as parsed JSON.
        choices: Its chance.

    Raises:
        ObjectError: The case is not of the format.
        UnsupportedFeature: It needs something that is not modelled.
    """

    def __init__(self, case: Mapping[str, Any], choices: Choices | None = None) -> None:
        check_case(case)
        self.case = case
        self.name = str(case.get("name", "case"))
        self.clock = Clock()
        self.node = Netns("node", clock=self.clock, choices=choices or SeededChoices(0))
        self.steps: list[StepResult] = []
        self._current = StepResult()
        self._listeners: dict[str, Any] = {}
        #: Names of the rule numbers of tables that are loaded.
        self._rule_names: dict[tuple[Family, TableId], tuple[Lowered, list[str]]] = {}
        self._build()

    # ---------------------------------------------------------------------------------------------------------- build

    def _build(self) -> None:
        node, case = self.node, self.case
        node.sockets = SocketLayer(node)
        for name, value in BASELINE_SYSCTLS.items():
            node.sysctl_set(name, value)
        for interface in case["interfaces"]:
            name = interface["name"]
            node.link_add(
                name,
                _KINDS[interface.get("kind", "veth")],
                mac=interface["mac"],
                mtu=interface.get("mtu", 1500),
                master=interface.get("master", ""),
                hairpin=interface.get("hairpin", False),
            )
            device = node.devices.named(name)
            if device.kind == LinkKind.WIRE:
                device.carry = lambda frame, name=name: self._current.emitted.append((name, frame))
            for address in interface.get("addresses", ()):
                if ip_interface(address).version == 4 or case.get("ipv6"):
                    node.address_add(name, address)
        for route in case.get("routes", ()):
            node.route_add(_route_text(route))
        for rule in case.get("ip_rules", ()):
            node.rule_add(_rule_text(rule), {4: AF_INET, 6: AF_INET6}.get(rule.get("family"), 0))
        for entry in case.get("neighbours", ()):
            node.neighbour_add(entry["interface"], entry["address"], entry["mac"])
        for name, value in case.get("sysctls", {}).items():
            node.sysctl_set(name, value)
        if case.get("ipsets"):
            restore_sets(node.datapath.context.sets, case["ipsets"], file=self.name)
        for key, family in (("iptables", Family.IPV4), ("ip6tables", Family.IPV6)):
            if case.get(key):
                with located(case[key], self.name):
                    node.load_ruleset(parse_save(case[key], family, file=self.name))
        if case.get("nft"):
            node.nft(case["nft"], file=self.name)
        for index, listener in enumerate(case.get("listeners", ())):
            try:
                self._listen(listener)
            except OSError as error:
                what = f"{listener['address']}:{listener['port']} cannot be bound ({errno.errorcode[error.errno or 0]})"
                raise ObjectError(what, place=f"{self.name}, listeners[{index}]") from None
        deliver = node.sockets.deliver

        def counted(packet: bytes, **how: Any) -> DropReason | None:
            parsed = parse_ip(packet)
            self._current.delivered += parsed is not None and parsed.protocol in _TRANSPORTS
            return deliver(packet, **how)

        node.sockets.deliver = counted  # type: ignore[method-assign]

    def _listen(self, listener: Mapping[str, Any]) -> None:
        assert isinstance(self.node.sockets, SocketLayer)
        address = "" if listener["address"] in ("0.0.0.0", "::") else listener["address"]
        family = AF_INET6 if ":" in listener["address"] else AF_INET
        if listener["proto"] == "udp":
            socket = self.node.sockets.udp(family)
            socket.bind(address, listener["port"])
        else:
            socket = self.node.sockets.tcp(family)  # type: ignore[assignment]
            socket.bind(address, listener["port"])
            socket.listen(16)  # type: ignore[attr-defined]
        self._listeners[listener["name"]] = (listener, socket)

    # ---------------------------------------------------------------------------------------------------------- steps

    def run(self) -> list[StepResult]:
        """Take all steps."""
        for step in self.case["steps"]:
            self.take(step)
        return self.steps

    def take(self, step: Mapping[str, Any]) -> StepResult:
        """Take one step and return what it led to."""
        self._current = result = StepResult()
        before_rules = self.rule_counters()
        before_entries = self.entries()
        if "receive" in step:
            self._receive(step["receive"], result)
        elif "send_local" in step:
            self._send_local(step["send_local"], result)
        elif "send_socket" in step:
            self._send_socket(step["send_socket"], result)
        elif "advance" in step:
            self.clock.run_for(round(step["advance"] * NS_PER_S))
        elif "iptables" in step:
            self._replace_tables(step["iptables"], noflush=bool(step.get("noflush")))
            before_rules = self.rule_counters()
        else:
            raise ObjectError(f"unknown step {', '.join(sorted(step))}", place=f"{self.name} step {len(self.steps)}")
        self.clock.run_for(STEP_NS)
        self._collect_datagrams(result)
        for name, pair in self.rule_counters().items():
            old = before_rules.get(name, (0, 0))
            if pair != old:
                result.rules[name] = (pair[0] - old[0], pair[1] - old[1])
        after = self.entries()
        result.conntrack = [entry for key, entry in after.items() if _unlike(before_entries.get(key), entry)]
        # an entry that another of the same tuple and zone has replaced is a changed one
        present = [(entry["orig"], entry.get("zone")) for entry in after.values()]
        result.conntrack += [
            {"gone": entry["orig"]}
            for key, entry in before_entries.items()
            if key not in after and (entry["orig"], entry.get("zone")) not in present
        ]
        self.steps.append(result)
        return result

    def _receive(self, step: Mapping[str, Any], result: StepResult) -> None:
        frame = bytes.fromhex(step["frame"])
        taken: dict[str, int] = {}
        for take in step.get("take", ()):
            source = take["from"]
            emitted = self.steps[source["step"]].emitted
            if source["frame"] >= len(emitted):
                raise ObjectError(
                    f"step {source['step']} emitted no frame {source['frame']} to take {source['field']} from",
                    place=self.name,
                )
            value = read_field(emitted[source["frame"]][1], source["field"]) + take.get("add", 0)
            taken[take["field"]] = value
        if taken:
            frame = write_fields(frame, taken)
        device = self.node.devices.named(step["interface"])
        # the far end's veth would not have let a larger frame in: its sender is told at once
        if len(frame) > device.mtu + 14 + 4:
            result.error = "ENOBUFS"
        self.node.receive(device.ifindex, frame)

    def _send_local(self, step: Mapping[str, Any], result: StepResult) -> None:
        packet = bytes.fromhex(step["packet"])
        if packet[0] >> 4 == 4:
            self._send_raw4(packet, step, result)
        else:
            number = self.node.local_out(packet, mark=step.get("mark", 0), uid=step.get("uid", 0))
            result.error = errno.errorcode.get(number, "") if number else ""

    def _send_raw4(self, packet: bytes, step: Mapping[str, Any], result: StepResult) -> None:
        """``raw_send_hdrinc``: total length and checksum are the kernel's, a zero source and a zero id as well."""
        node, mark = self.node, step.get("mark", 0)
        try:
            if len(packet) < 20 or (packet[0] & 15) * 4 > len(packet):
                raise OSError(errno.EINVAL, "header length")
            route = node.route_output(packet[16:20], mark=mark)
            if len(packet) > node.devices.get(route.ifindex).mtu:
                raise OSError(errno.EMSGSIZE, "longer than the device's MTU")
            header = bytearray(packet[: (packet[0] & 15) * 4])
            header[2:4] = len(packet).to_bytes(2, "big")
            if not any(header[12:16]):
                header[12:16] = route.saddr
            if not any(header[4:6]):
                header[4:6] = node.next_ip_id(bytes(header[12:16]), packet[16:20], packet[9]).to_bytes(2, "big")
            header[10:12] = b"\0\0"
            header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
            number = node.local_out(
                bytes(header) + packet[len(header) :], mark=mark, uid=step.get("uid", 0), gid=step.get("gid", 0)
            )
            if number:
                raise OSError(number, errno.errorcode[number])
        except OSError as error:
            result.error = errno.errorcode[error.errno or errno.EINVAL]

    def _send_socket(self, step: Mapping[str, Any], result: StepResult) -> None:
        _, socket = self._listeners[step["listener"]]
        address, port = step["dst"]
        try:
            socket.sendto(bytes.fromhex(step["data"]), address, port)
        except OSError as error:
            result.error = errno.errorcode[error.errno or errno.EINVAL]

    def _replace_tables(self, text: str, *, noflush: bool) -> None:
        with located(text, self.name):
            self.node.load_ruleset(restore(self.node.ruleset(Family.IPV4), text, self.name, noflush=noflush))

    def _collect_datagrams(self, result: StepResult) -> None:
        for name, (listener, socket) in self._listeners.items():
            if listener["proto"] == "udp":
                for data, address, port in socket.pending():
                    result.sockets.append({"socket": name, "from": [address, port], "data": data.hex()})

    # -------------------------------------------------------------------------------------------------------- observe

    def rule_counters(self) -> dict[str, tuple[int, int]]:
        """Counters by ``table/CHAIN/n``, IPv6 with the prefix ``6:``."""
        counted: dict[str, tuple[int, int]] = {}
        for key, lowered in self.node.lowered.items():
            known = self._rule_names.get(key)
            if known is None or known[0] is not lowered:
                known = self._rule_names[key] = (lowered, _rule_names(lowered))
            counted.update(zip(known[1], self.node.counters(*key), strict=True))
        counted.pop("", None)
        return counted

    def entries(self) -> dict[int, dict[str, Any]]:
        """Connection tracking entries by number, in the format's words."""
        return {entry["id"]: describe_entry(entry) for entry in self.node.datapath.conntrack_list(self.clock.now_ns)}

    def final_conntrack(self) -> list[dict[str, Any]]:
        """All entries, sorted by original tuple."""
        return sorted(self.entries().values(), key=lambda entry: tuple_sort_key(entry["orig"]))

    def final_rules(self, family: Family) -> str:
        """The save tool's text with counters."""
        return print_save(self.node.ruleset(family), counters=True)

    def final_sets(self) -> list[str]:
        """The ``add`` lines of ``ipset save``, sorted."""
        return save_elements(self.node.datapath.context.sets, self.clock.now_ns)


#: The format's field names in the words of ``wire.fields``.
_FIELD_NAMES = {
    "ip.csum": "ip.checksum",
    "tcp.sport": "tcp.srcport",
    "tcp.dport": "tcp.dstport",
    "udp.sport": "udp.srcport",
    "udp.dport": "udp.dstport",
}


def _locate(dissection: Dissection, name: str) -> Field:
    inner = name.startswith("inner.")
    bare = name.removeprefix("inner.")
    wanted = _FIELD_NAMES.get(bare, bare)
    paths = ("icmp", "icmpv6") if inner else ("",)
    found = next((part for path in paths for part in dissection.named(wanted, path)), None)
    if found is None:
        raise ObjectError(f"a frame has no field {name}", mend="see the README of the case format for their names")
    return found


def read_field(frame: bytes, name: str) -> int:
    """A field of a frame by the format's name (``tcp.sport``, ``inner.ip.id``)."""
    dissection = dissect(frame)
    return dissection.value(_locate(dissection, name))


def write_fields(frame: bytes, values: Mapping[str, int]) -> bytes:
    """Overwrite fields; every checksum that covers one follows."""
    dissection = dissect(frame)
    writer = FieldWriter(dissection)
    for name, value in values.items():
        where = _locate(dissection, name)
        width = where.end - where.start
        writer.write(where.start, (value % (1 << 8 * width)).to_bytes(width, "big"))
    return bytes(writer.data)


def _rule_names(lowered: Lowered) -> list[str]:
    """Of each rule number; empty for one out of use."""
    table = lowered.table
    prefix = f"{'6:' if table.family is Family.IPV6 else ''}{table.name}"
    policies = {chain.name for chain in table.chains if chain.policy is not None}
    return [
        f"{prefix}/{source.chain}/{source.number or ('policy' if source.chain in policies else 'end')}"
        if source.chain
        else ""
        for source in lowered.sources
    ]


def _unlike(old: dict[str, Any] | None, new: dict[str, Any]) -> bool:
    return old != new


def tuple_sort_key(tuple_: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        tuple_["proto"],
        ip_address(tuple_["src"]).packed,
        ip_address(tuple_["dst"]).packed,
        # null where the kernel drew it
        *(-1 if tuple_.get(key) is None else tuple_[key] for key in ("sport", "dport", "id", "type", "code")),
    )


def describe_tuple(raw: Sequence[Any], proto: int) -> dict[str, Any]:
    src, dst, sport, dport = raw
    described: dict[str, Any] = {"src": str(ip_address(src)), "dst": str(ip_address(dst)), "proto": proto}
    if proto in _ICMP:
        described |= {"id": sport, "type": dport >> 8, "code": dport & 0xFF}
    elif proto in (6, 17, 33, 47, 132, 136):
        described |= {"sport": sport, "dport": dport}
    return described


def describe_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's entry in the format's words."""
    proto = entry["proto"]
    status = entry["status"]
    described: dict[str, Any] = {
        "orig": describe_tuple(entry["orig"], proto),
        "reply": describe_tuple(entry["reply"], proto),
        "status": [flag.name for flag in CtStatus if status & flag],
        "timeout": -(-entry["timeout_set_ns"] // NS_PER_S),
    }
    numbers: dict[str, int] = {"mark": entry["mark"]}
    if entry["zone_dir"] == _ZONE_BOTH:
        numbers["zone"] = entry["zone"]
    elif entry["zone"]:
        described["orig" if entry["zone_dir"] == _ZONE_ORIGINAL else "reply"]["zone"] = entry["zone"]
    if proto == 6:
        described["state"] = TCP_STATES[entry["state"]]
        for index, side in enumerate(("orig", "reply")):
            numbers[f"tcpflags_{side}"] = entry["flags"][index]
            numbers[f"wscale_{side}"] = entry["wscale"][index]
    elif proto == 132:
        described["state"] = SCTP_STATES[entry["state"]]
        numbers["vtag_orig"], numbers["vtag_reply"] = entry["vtag"]
    described |= {key: value for key, value in numbers.items() if value}
    if entry["acct"] is not None:
        described["acct_orig"], described["acct_reply"] = list(entry["acct"][:2]), list(entry["acct"][2:])
    return described


def _route_text(route: Mapping[str, Any]) -> str:
    words = []
    if route.get("type"):
        words.append(route["type"])
    words.append(route["dst"])
    for key in ("via", "dev", "src", "table", "metric", "scope"):
        if route.get(key) is not None:
            words += [key, str(route[key])]
    if route.get("onlink"):
        words.append("onlink")
    return " ".join(words)


def _rule_text(rule: Mapping[str, Any]) -> str:
    words = [f"{rule['priority']}:", "from", str(rule.get("from", "all"))]
    for key in ("to", "fwmark", "iif"):
        if rule.get(key) is not None:
            words += [key, str(rule[key])]
    words += ["lookup", str(rule["table"])]
    return " ".join(words)
