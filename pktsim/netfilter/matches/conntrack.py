"""``-m conntrack`` and ``-m state``: what connection tracking knows of the packet (net/netfilter/xt_conntrack.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import MaskedAddress, Match
from pktsim.netfilter.values import PortRange


class Direction(enum.IntEnum):
    """``enum ip_conntrack_dir``."""

    ORIGINAL = 0
    REPLY = 1


@dataclass(frozen=True, slots=True)
class ConntrackMatch(Match):
    """Every condition that is said must hold; ``None`` means not said.

    ``states`` are ``CtStateBit``s, ``statuses`` ``CtStatus`` bits (0 is ``--ctstatus NONE``), ``expires`` seconds.
    """

    states: int | None = None
    states_inverted: bool = False
    protocol: int | None = None
    protocol_inverted: bool = False
    orig_src: MaskedAddress | None = None
    orig_src_inverted: bool = False
    orig_dst: MaskedAddress | None = None
    orig_dst_inverted: bool = False
    reply_src: MaskedAddress | None = None
    reply_src_inverted: bool = False
    reply_dst: MaskedAddress | None = None
    reply_dst_inverted: bool = False
    orig_src_port: PortRange | None = None
    orig_src_port_inverted: bool = False
    orig_dst_port: PortRange | None = None
    orig_dst_port_inverted: bool = False
    reply_src_port: PortRange | None = None
    reply_src_port_inverted: bool = False
    reply_dst_port: PortRange | None = None
    reply_dst_port_inverted: bool = False
    statuses: int | None = None
    statuses_inverted: bool = False
    expires: tuple[int, int] | None = None
    expires_inverted: bool = False
    direction: Direction | None = None


@dataclass(frozen=True, slots=True)
class StateMatch(Match):
    """``-m state --state LIST``: an older spelling of ``--ctstate`` that prints as itself."""

    states: int
    inverted: bool = False
