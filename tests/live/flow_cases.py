"""What the random conversations of this directory have in common: the node between two links, and how a case grows.

Each generator (``tcp_conversations``, ``sctp_conversations``, …) is a function of some bytes, which decide the
settings, and of a list of bytes, which decide each packet. The case that comes of it is run here while it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pktsim.errors import ObjectError, PktsimError
from pktsim.kernel.case import CaseRun, StepResult, read_field
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ethernet, ipv4, ipv6
from pktsim.wire.summary import summary
from tests.live.case_rules import Dice
from tests.netfilter.case_script import NODE_MAC, PEER_MAC, put_on_bridge

_BUILTIN: Final = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_STATES: Final = ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Who takes part, in one family."""

    client: str
    near: str  # the node's address towards the client
    server: str
    far: str  # the node's address towards the server
    virtual: str  # an address that rules translate
    pool: str  # another one, for SNAT
    stranger: str  # beyond the server's side
    gateway: str


FOUR: Final = Addresses(
    "10.1.0.9", "10.1.0.1", "10.2.0.9", "10.2.0.1", "10.96.0.10", "10.9.9.9", "203.0.113.5", "10.2.0.254"
)
SIX: Final = Addresses("fd01::9", "fd01::1", "fd02::9", "fd02::1", "fd96::a", "fd09::9", "2001:db8::5", "fd02::fe")


#: How an ARP packet begins, and no IP packet.
_ARP_ETHERNET: Final = b"\0\1"


class Story:
    """A case that is being drawn, and pktsim's run of it.

    Args:
        family: 4 or 6.
        rules: Rules by table, without the table's frame.
        sysctls: Settings.
        mtus: Of interfaces, if not 1500.
        ports: Interfaces that are ports of a bridge, which has their addresses; from one port to the other, frames are
            meant for the other end itself.
    """

    def __init__(
        self,
        family: int,
        rules: Mapping[str, Sequence[str]],
        sysctls: dict[str, str] | None = None,
        mtus: Mapping[str, int] | None = None,
        ports: Sequence[str] = (),
    ) -> None:
        self.family = family
        self.ports = tuple(ports)
        self.who = SIX if family == 6 else FOUR
        who, length = self.who, 64 if family == 6 else 24
        hosts = (("in", who.client), ("out", who.server), ("out", who.gateway))
        self.case: dict[str, Any] = {
            "name": "generated",
            "interfaces": [
                {"name": "in", "mac": NODE_MAC["in"], "addresses": [f"{who.near}/{length}"]},
                {"name": "out", "mac": NODE_MAC["out"], "addresses": [f"{who.far}/{length}"]},
            ],
            "routes": [{"dst": "default", "via": who.gateway, "dev": "out"}],
            "neighbours": [
                {"interface": interface, "address": address, "mac": PEER_MAC[interface]} for interface, address in hosts
            ],
            # how often errors may be sent to a host is remembered for it, from case to case
            "sysctls": {**(sysctls or {}), **({"net.ipv6.icmp.ratelimit": "0"} if family == 6 else {})},
            "ip6tables" if family == 6 else "iptables": _text(rules),
            **({"ipv6": True} if family == 6 else {}),
            "steps": [],
        }
        for interface in self.case["interfaces"]:
            if mtus and interface["name"] in mtus:
                interface["mtu"] = mtus[interface["name"]]
        if ports:
            put_on_bridge(self.case, BRIDGE, BRIDGE_MAC, ports)
        self.run = CaseRun(self.case)

    @property
    def rules(self) -> str:
        return str(self.case["ip6tables" if self.family == 6 else "iptables"])

    def take(self, step: dict[str, Any]) -> StepResult:
        """Add a step, and take it."""
        self.case["steps"].append(step)
        return self.run.take(step)

    def arrives(
        self, interface: str, packet: bytes, takes: Sequence[Mapping[str, Any]] = (), *, to: str = ""
    ) -> StepResult:
        """A packet comes in by an interface, for the MAC address ``to`` if not for the next host's.

        Fields of ``takes`` that it has are those of what was emitted before.
        """
        kind = ETH_P_IPV6 if self.family == 6 else ETH_P_IP
        if packet[:2] == _ARP_ETHERNET:
            kind = ETH_P_ARP
        to = to or self._next_mac(interface)
        frame = ethernet(mac_from_text(to), mac_from_text(PEER_MAC[interface]), kind, packet)
        try:
            text = summary(frame)
        except PktsimError:  # broken on purpose
            text = frame.hex()
        body: dict[str, Any] = {"interface": interface, "frame": frame.hex(), "text": text}
        takes = [one for one in takes if _has(frame, one["field"])]
        return self.take({"receive": {**body, **({"take": takes} if takes else {})}})

    def _next_mac(self, interface: str) -> str:
        other = "in" if interface == "out" else "out"
        if interface not in self.ports:
            return NODE_MAC[interface]
        return PEER_MAC[other] if other in self.ports else BRIDGE_MAC

    def packet(self, source: str, destination: str, protocol: int, payload: bytes, **header: Any) -> bytes:
        """An IP packet of the story's family."""
        ends = ip_from_text(source), ip_from_text(destination)
        if self.family == 6:
            return ipv6(*ends, protocol, payload, **header)
        return ipv4(*ends, protocol, payload, **{"identification": 0x1234 + len(self.case["steps"]), **header})


def _has(frame: bytes, field: str) -> bool:
    try:
        read_field(frame, field)
    except ObjectError:
        return False
    return True


def _text(rules: Mapping[str, Sequence[str]]) -> str:
    """All tables; how packets are classed is counted, beside the rules given."""
    counted = [f"-A {chain} -m conntrack --ctstate {state}" for chain in ("PREROUTING", "OUTPUT") for state in _STATES]
    lines: list[str] = []
    for table, chains in _BUILTIN.items():
        lines += [f"*{table}", *(f":{chain} ACCEPT [0:0]" for chain in chains)]
        lines += [*rules.get(table, ()), *(counted if table == "mangle" else ()), "COMMIT"]
    return "\n".join(lines) + "\n"


BRIDGE: Final = "bridge0"
BRIDGE_MAC: Final = "02:00:00:00:00:0f"
_PORTS: Final[tuple[tuple[str, ...], ...]] = ((), (), (), (), ("in",), ("in", "out"), ("in", "out"))
#: How a conversation crosses the node, for :func:`begin`.
PLACES: Final = ("forward", "dnat", "both", "masquerade", "snat", "local", "redirect")


def begin(
    dice: Dice,
    family: int,
    place: str,
    protocols: Sequence[str],
    sysctls: dict[str, str],
    more: Mapping[str, Sequence[str]] | None = None,
    *,
    mtus: Mapping[str, int] | None = None,
) -> Story:
    """A story whose rules translate flows as ``place`` says; its ends may be on a bridge."""
    ports = dice.pick(_PORTS)
    if ports:
        sysctls[f"net.bridge.bridge-nf-call-ip{'6' if family == 6 else ''}tables"] = dice.pick(("1", "1", "1", "0"))
    who = SIX if family == 6 else FOUR
    server = f"[{who.server}]" if family == 6 else who.server
    rules: dict[str, list[str]] = {"nat": [], "filter": []}
    for protocol in protocols:
        match = f"-A PREROUTING -d {who.virtual} -p {protocol} -m multiport --dports 80 -j"
        if place in ("dnat", "both"):
            # the tool knows no ports of UDP-Lite here
            to = f"{server}:8080" if protocol != "udplite" else who.server
            rules["nat"].append(f"{match} DNAT --to-destination {to}")
        if place == "redirect" and protocol != "udplite":
            rules["nat"].append(f"{match} REDIRECT --to-ports 8080")
    if place in ("both", "masquerade"):
        rules["nat"].append("-A POSTROUTING -o out -j MASQUERADE")
    if place == "snat":
        rules["nat"].append(f"-A POSTROUTING -o out -j SNAT --to-source {who.pool}")
    if dice.one_in(4):
        rules["filter"].append("-A FORWARD -m conntrack --ctstate INVALID -j DROP")
    for table, lines in (more or {}).items():
        rules.setdefault(table, []).extend(lines)
    return Story(family, rules, sysctls, mtus, ports)


#: A generator: settings and packets that decide a case.
Teller = Callable[[bytes, Sequence[bytes]], Story]
