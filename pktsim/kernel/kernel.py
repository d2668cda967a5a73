"""One network namespace alone: give it interfaces, routes and rules, then packets, and see what it makes of them.

    kernel = pktsim.Kernel(forward=True)
    kernel.interface("eth0", "10.0.0.1/24")
    kernel.interface("pod0", mac="ee:ee:ee:ee:ee:ee")
    kernel.route("10.244.1.2 dev pod0 scope link")
    kernel.neighbour("10.244.1.2", "02:00:00:00:02:0a", "pod0")
    kernel.iptables_restore(Path("node.rules").read_text())        # or kernel.nft(Path("node.nft").read_text())
    outcome = kernel.receive("eth0", frame)
    print(outcome)                                  # hook by hook, chain by chain, rule by rule

What its interfaces send is collected; time passes only when asked for. Where a case is a file, ``pktsim node`` runs it.
"""

from __future__ import annotations

import enum
import shlex
from dataclasses import dataclass
from typing import Final, SupportsBytes

from pktsim.clock import NS_PER_S, Clock
from pktsim.errors import TopologyError
from pktsim.kernel.capture import Capture
from pktsim.kernel.explain import Explainer, Visit
from pktsim.kernel.netdev import AF_INET6, NetDevice
from pktsim.kernel.netns import Netns
from pktsim.netfilter.conntrack import ConntrackTable, Entry, list_text
from pktsim.netfilter.ipset_text import restore_sets, run_ipset, save_text
from pktsim.netfilter.iptables_command import run_command
from pktsim.netfilter.iptables_text import located, print_save, restore
from pktsim.netfilter.opcodes import DropReason, LinkKind, TraceKind, Upcall
from pktsim.netfilter.ruleset import Family
from pktsim.rng import Choices, SeededChoices

_KINDS: Final = {"veth": LinkKind.WIRE, "bridge": LinkKind.BRIDGE, "dummy": LinkKind.DUMMY}


class Fate(enum.StrEnum):
    """What became of a packet."""

    DELIVERED = "delivered"  # it was for this namespace, whether or not somebody listened
    FORWARDED = "forwarded"  # it left
    REFUSED = "refused"  # its sender was told that it went no further
    DROPPED = "dropped"
    WAITING = "waiting"  # for a neighbour, for other fragments, or held


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one packet, or a stretch of time, led to.

    Attributes:
        fate: What became of the packet that was given.
        sent: Interface and frame of everything that left, in order.
        drops: Why packets went no further: all of them, also those that it set off, in order.
        visits: What happened to each packet, for reading.
    """

    fate: Fate
    sent: tuple[tuple[str, bytes], ...]
    drops: tuple[DropReason, ...]
    visits: tuple[Visit, ...]

    def __str__(self) -> str:
        lines = [line for visit in self.visits for line in visit.lines()]
        return "\n".join([*lines, str(self.fate)])


class Kernel:
    """A network namespace and a clock of its own.

    Args:
        name: Of the namespace.
        seed: Of everything that is left to chance.
        choices: Chance itself, instead of a seed.
        forward: Whether it forwards packets (``net.ipv4.ip_forward``).
    """

    def __init__(
        self, name: str = "node", *, seed: int = 0, choices: Choices | None = None, forward: bool = False
    ) -> None:
        self.clock = Clock()
        self.capture = Capture()
        self.netns = Netns(
            name,
            clock=self.clock,
            choices=SeededChoices(seed) if choices is None else choices,
            capture=self.capture,
        )
        self._explainer = Explainer()
        self._explainer.attach(self.netns)
        self._sent: list[tuple[str, bytes]] = []
        self._drops: list[tuple[int, DropReason]] = []
        self._calls: dict[int, int] = {}
        self.netns.drop_listener = lambda pkt_id, reason, ifindex: self._drops.append((pkt_id, reason))
        if forward:
            self.sysctl("net.ipv4.ip_forward", 1)

    # ------------------------------------------------------------------------------------------------------------ setup

    def interface(
        self,
        name: str,
        *addresses: str,
        kind: str = "veth",
        mac: str = "",
        mtu: int = 0,
        master: str = "",
        hairpin: bool = False,
    ) -> NetDevice:
        """Add an interface; what a ``veth`` sends is collected.

        Args:
            name: Of the interface.
            addresses: With prefix lengths.
            kind: ``veth``, ``bridge`` or ``dummy``.
            mac: Drawn if empty.
            mtu: 1500 if 0.
            master: The bridge it is a port of.
            hairpin: Whether that port sends frames back to where they came from.
        """
        if kind not in _KINDS:
            raise TopologyError(f"interface {name}: {kind!r} is not a kind", mend=f"one of {', '.join(_KINDS)}")
        device = self.netns.link_add(name, _KINDS[kind], mac=mac, mtu=mtu, master=master, hairpin=hairpin)
        if device.kind == LinkKind.WIRE:
            device.carry = lambda frame: self._sent.append((name, frame))
        for address in addresses:
            self.netns.address_add(name, address)
        return device

    def route(self, text: str) -> None:
        """``ip route replace``."""
        self.netns.route_replace(text)

    def rule(self, text: str, *, ipv6: bool = False) -> None:
        """``ip rule add``, ``ip -6 rule add`` if ``ipv6``; where the rule has addresses, they tell."""
        self.netns.rule_add(text, AF_INET6 if ipv6 else 0)

    def neighbour(self, address: str, mac: str, interface: str) -> None:
        """``ip neigh replace … nud permanent``."""
        self.netns.neighbour_add(interface, address, mac)

    def sysctl(self, name: str, value: str | int) -> None:
        """``sysctl -w``."""
        self.netns.sysctl_set(name, value)

    def iptables_restore(self, text: str, *, family: Family = Family.IPV4, noflush: bool = False) -> None:
        """``iptables-restore`` or ``ip6tables-restore``: the tables in the text replace those of the same name."""
        with located(text, None):
            self.netns.load_ruleset(restore(self.netns.ruleset(family), text, noflush=noflush))

    def iptables(self, arguments: str, *, family: Family = Family.IPV4) -> str:
        """One ``iptables`` command. Returns what it prints."""
        outcome = run_command(self.netns.ruleset(family), arguments)
        self.netns.load_ruleset(outcome.ruleset)
        return outcome.output

    def iptables_save(self, *, family: Family = Family.IPV4, counters: bool = False) -> str:
        """``iptables-save``."""
        return print_save(self.netns.ruleset(family), counters=counters)

    def ipset(self, arguments: str) -> str:
        """One ``ipset`` command. Returns what it prints."""
        return run_ipset(self.netns.datapath.context.sets, shlex.split(arguments), now_ns=self.clock.now_ns)

    def ipset_restore(self, text: str) -> None:
        """``ipset restore``: a command on each line."""
        restore_sets(self.netns.datapath.context.sets, text, now_ns=self.clock.now_ns)

    def ipset_save(self) -> str:
        """``ipset save -sorted``; without ``initval``, which Linux draws."""
        return save_text(self.netns.datapath.context.sets, self.clock.now_ns)

    def nft(self, text: str) -> str:
        """``nft -f``: all commands of a script or none of them. Returns what they print."""
        return self.netns.nft(text)

    def nft_list_ruleset(self, *, handles: bool = False) -> str:
        """``nft list ruleset``, with ``handles`` as ``nft -a`` prints it."""
        return self.netns.nft_list_ruleset(handles=handles)

    @property
    def connections(self) -> list[Entry]:
        """The connection tracking table."""
        return ConntrackTable(self.netns.datapath).entries(self.clock.now_ns)

    def conntrack(self) -> str:
        """``conntrack -L``."""
        return list_text(self.connections)

    # ---------------------------------------------------------------------------------------------------------- packets

    def receive(self, interface: str, frame: bytes | SupportsBytes) -> Outcome:
        """A frame arrives: bytes, or a Scapy packet from the Ethernet header on."""
        self._begin()
        self.netns.receive(self.netns.devices.named(interface).ifindex, bytes(frame))
        return self._outcome()

    def send(self, packet: bytes | SupportsBytes, *, mark: int = 0, uid: int = 0) -> Outcome:
        """A process of the namespace sends an IP packet: complete bytes, or a Scapy packet from the IP header on.

        Raises:
            OSError: What the process is told: EPERM, EMSGSIZE, ENETUNREACH and so on.
        """
        self._begin()
        self.netns.send_ip(bytes(packet), mark=mark, uid=uid)
        return self._outcome()

    def run(self, seconds: float) -> Outcome:
        """Let time pass."""
        self._begin()
        self.clock.run_for(round(seconds * NS_PER_S))
        return self._outcome()

    def _begin(self) -> None:
        self._sent.clear()
        self._drops.clear()
        self._explainer.clear()
        self._calls = self.netns.datapath.upcall_counts()

    def _outcome(self) -> Outcome:
        # What went to lo is taken a moment later.
        self.netns.clock.run_for(10_000)
        visits = tuple(self._explainer.visits)
        return Outcome(self._fate(visits), tuple(self._sent), tuple(reason for _, reason in self._drops), visits)

    def _fate(self, visits: tuple[Visit, ...]) -> Fate:
        """Of the packet given first; what it set off does not count."""
        first = visits[0].pkt_id if visits else 0
        steps = [step for visit in visits if visit.pkt_id == first for step in visit.steps]
        kinds = {step.kind for step in steps}
        calls = self.netns.datapath.upcall_counts()
        handed_out = {Upcall(reason) for reason, count in calls.items() if count > self._calls.get(reason, 0)}
        if TraceKind.DELIVER in kinds or Upcall.ARP in handed_out:
            return Fate.DELIVERED
        if any(step.refused for step in steps):
            return Fate.REFUSED
        if any(pkt_id == first for pkt_id, _ in self._drops):
            return Fate.DROPPED
        if TraceKind.TX in kinds or Upcall.FRAGMENT in handed_out:
            return Fate.FORWARDED
        return Fate.WAITING
