"""Tables, chains and rules as frozen data: what text is parsed to, what kube-proxy's emulation writes, what is lowered.

A ruleset is pure and comparable; it prints back to the very text of ``iptables-save`` (see ``iptables_text``).
Counters belong to the text, not to the meaning: they take no part in comparison.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar


class Family(enum.IntEnum):
    """``NFPROTO_*`` (include/uapi/linux/netfilter.h)."""

    IPV4 = 2
    IPV6 = 10


class Verdict(enum.StrEnum):
    """What a built-in chain's policy or a rule without a user chain can say."""

    ACCEPT = "ACCEPT"
    DROP = "DROP"
    RETURN = "RETURN"


#: Built-in chains of each table, in the order of ``iptables-save``.
BUILTIN_CHAINS: dict[str, tuple[str, ...]] = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


@dataclass(frozen=True, slots=True)
class Counters:
    """Packets and bytes."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class MaskedAddress:
    """An address and a mask, which need not be a prefix (``10.0.0.1/255.0.255.255``).

    The address is stored masked, as the tool does before it hands the rule to the kernel.
    """

    address: IPv4Address | IPv6Address
    mask: IPv4Address | IPv6Address

    @property
    def prefix_length(self) -> int | None:
        """The mask's length if it is a prefix, else ``None``."""
        bits = self.mask.max_prefixlen
        value = int(self.mask)
        length = value.bit_count()
        return length if value == ((1 << length) - 1) << (bits - length) else None


@dataclass(frozen=True, slots=True)
class RuleExtension:
    """What matches and targets have in common: a name, the options' text, and where the kernel allows them.

    The three sets are ``struct xt_match``'s and ``xt_target``'s ``proto``, ``table`` and ``hooks``; an empty one
    allows all.
    """

    #: The name behind ``-m`` or ``-j``.
    extension: ClassVar[str] = ""
    #: The rule must say ``-p`` with one of these, not inverted.
    protocols: ClassVar[frozenset[int]] = frozenset()
    tables: ClassVar[frozenset[str]] = frozenset()
    #: Names of the built-in chains from which the rule may be reached.
    hooks: ClassVar[frozenset[str]] = frozenset()

    def allowed_tables(self) -> frozenset[str]:
        """``tables``, for an extension of which only some uses are bound to a table."""
        return self.tables

    def options_text(self) -> str:
        """The options as the save tool prints them, each with a space in front."""
        return ""

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        """What the kernel's own check (``checkentry``) would find wrong beyond the sets above; empty if nothing.

        Args:
            rule: The rule it is part of.
            family: The table's.
            hooks: The built-in chains from which the rule can be reached.
        """
        return ""


@dataclass(frozen=True, slots=True)
class Match(RuleExtension):
    """One ``-m NAME …``. Each extension is a subclass in ``pktsim.netfilter.matches``, one file each."""


@dataclass(frozen=True, slots=True)
class Target(RuleExtension):
    """What ``-j`` or ``-g`` names. Extensions are subclasses in ``pktsim.netfilter.targets``, one file each."""


@dataclass(frozen=True, slots=True)
class VerdictTarget(Target):
    """``-j ACCEPT``, ``-j DROP``, ``-j RETURN``."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Jump(Target):
    """``-j CHAIN``, or ``-g CHAIN`` with ``goto``."""

    chain: str
    goto: bool = False


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """What every rule can say without ``-m``: ``struct ipt_ip`` (linux/netfilter_ipv4/ip_tables.h).

    ``None`` means "not said", which matches everything. Interface names may end in ``+``. ``protocol`` 0 is "all"
    and is stored as ``None``; ``all_protocols`` says that it was written.
    """

    src: MaskedAddress | None = None
    src_inverted: bool = False
    dst: MaskedAddress | None = None
    dst_inverted: bool = False
    in_interface: str | None = None
    in_interface_inverted: bool = False
    out_interface: str | None = None
    out_interface_inverted: bool = False
    protocol: int | None = None
    protocol_inverted: bool = False
    fragment: bool = False  # -f: second and further fragments (IPv4 only)
    fragment_inverted: bool = False
    all_protocols: bool = False  # IP6T_F_PROTO: looks for the transport header even so (IPv6 only)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: header match, then ``matches`` in order, then ``target`` (``None``: only counted)."""

    header: HeaderMatch = HeaderMatch()
    matches: tuple[Match, ...] = ()
    target: Target | None = None
    counters: Counters = field(default=Counters(), compare=False)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain. ``policy`` is ``ACCEPT`` or ``DROP`` for built-in chains and ``None`` for the others."""

    name: str
    rules: tuple[Rule, ...] = ()
    policy: Verdict | None = None
    counters: Counters = field(default=Counters(), compare=False)


@dataclass(frozen=True, slots=True)
class Table:
    """A table. ``chains`` holds the built-in ones first, in the order of ``BUILTIN_CHAINS``, then the user's."""

    name: str
    family: Family
    chains: tuple[Chain, ...]

    def chain(self, name: str) -> Chain:
        """Return the chain called ``name``.

        Raises:
            KeyError: There is none.
        """
        for chain in self.chains:
            if chain.name == name:
                return chain
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The loaded tables of one family, sorted by name. A table that is absent is not loaded (no hook is called)."""

    family: Family
    tables: tuple[Table, ...] = ()

    def table(self, name: str) -> Table | None:
        """Return the table called ``name``, or ``None`` if it is not loaded."""
        return next((table for table in self.tables if table.name == name), None)
