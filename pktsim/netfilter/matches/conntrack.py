"""``-m conntrack`` and ``-m state``: what connection tracking knows of the packet (net/netfilter/xt_conntrack.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.opcodes import CtStateBit, CtStatus
from pktsim.netfilter.option import (
    U32_MAX,
    BadValue,
    Extension,
    Given,
    Option,
    bit_list,
    choice,
    host_mask,
    host_mask_text,
    number_range,
    port_range,
    protocol,
)
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

    extension: ClassVar[str] = "conntrack"

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

    def options_text(self) -> str:
        text = ""
        if self.states is not None:
            text += _said("ctstate", _states_text(self.states), self.states_inverted)
        if self.protocol is not None:
            text += _said("ctproto", str(self.protocol), self.protocol_inverted)
        for option, field in _ADDRESSES:
            address: MaskedAddress | None = getattr(self, field)
            if address is not None:
                text += _said(option, host_mask_text(address), getattr(self, f"{field}_inverted"))
        for option, field in _PORTS:
            ports: PortRange | None = getattr(self, field)
            if ports is not None:
                text += _said(option, _ports_text(ports), getattr(self, f"{field}_inverted"))
        if self.statuses is not None:
            text += _said("ctstatus", _statuses_text(self.statuses), self.statuses_inverted)
        if self.expires is not None:
            first, last = self.expires
            text += _said("ctexpire", str(first) if first == last else f"{first}:{last}", self.expires_inverted)
        if self.direction is not None:
            text += f" --ctdir {self.direction.name}"
        return text


@dataclass(frozen=True, slots=True)
class StateMatch(Match):
    """``-m state --state LIST``: an older spelling of ``--ctstate`` that prints as itself."""

    extension: ClassVar[str] = "state"

    states: int
    inverted: bool = False

    def options_text(self) -> str:
        return _said("state", _states_text(self.states), self.inverted)


#: In the order in which they are printed.
_STATES = {
    "INVALID": int(CtStateBit.INVALID),
    "NEW": int(CtStateBit.NEW),
    "RELATED": int(CtStateBit.RELATED),
    "ESTABLISHED": int(CtStateBit.ESTABLISHED),
    "UNTRACKED": int(CtStateBit.UNTRACKED),
    "SNAT": int(CtStateBit.SNAT),
    "DNAT": int(CtStateBit.DNAT),
}
_STATUSES = {
    "EXPECTED": int(CtStatus.EXPECTED),
    "SEEN_REPLY": int(CtStatus.SEEN_REPLY),
    "ASSURED": int(CtStatus.ASSURED),
    "CONFIRMED": int(CtStatus.CONFIRMED),
}
_ADDRESSES = (
    ("ctorigsrc", "orig_src"),
    ("ctorigdst", "orig_dst"),
    ("ctreplsrc", "reply_src"),
    ("ctrepldst", "reply_dst"),
)
_PORTS = (
    ("ctorigsrcport", "orig_src_port"),
    ("ctorigdstport", "orig_dst_port"),
    ("ctreplsrcport", "reply_src_port"),
    ("ctrepldstport", "reply_dst_port"),
)


def _said(option: str, value: str, inverted: bool) -> str:
    return f" ! --{option} {value}" if inverted else f" --{option} {value}"


def _states_text(states: int) -> str:
    return ",".join(name for name, bit in _STATES.items() if states & bit)


def _statuses_text(statuses: int) -> str:
    return ",".join(name for name, bit in _STATUSES.items() if statuses & bit) or "NONE"


def _ports_text(ports: PortRange) -> str:
    # The printer takes an upper end of 0 for "none said" (conntrack_dump_ports).
    return str(ports.first) if ports.last == 0 else str(ports)


def _build(given: Given) -> ConntrackMatch:
    values = given.values
    if not values:
        raise BadValue("conntrack: at least one option is required", "add --ctstate or another one")
    if given.get("ctproto") == 0 and "ctproto" in given.inverted:
        raise BadValue("conntrack: rule would never match protocol", "drop the !")
    said: dict[str, object] = {}
    for option, field in (
        ("ctstate", "states"),
        ("ctproto", "protocol"),
        ("ctstatus", "statuses"),
        ("ctexpire", "expires"),
        *_ADDRESSES,
        *_PORTS,
    ):
        if option in values:
            said[field] = values[option]
            said[f"{field}_inverted"] = option in given.inverted
    if "ctdir" in values:
        said["direction"] = Direction[values["ctdir"]]
    return ConntrackMatch(**said)  # type: ignore[arg-type]


def _build_state(given: Given) -> StateMatch:
    return StateMatch(given.get("state"), "state" in given.inverted)


_READ_STATES = bit_list(
    # The order in which conntrack_ps_state tries them; a name may be cut short.
    {
        "INVALID": int(CtStateBit.INVALID),
        "NEW": int(CtStateBit.NEW),
        "ESTABLISHED": int(CtStateBit.ESTABLISHED),
        "RELATED": int(CtStateBit.RELATED),
        "UNTRACKED": int(CtStateBit.UNTRACKED),
        "SNAT": int(CtStateBit.SNAT),
        "DNAT": int(CtStateBit.DNAT),
    },
    "connection state",
)
_READ_OLD_STATES = bit_list(
    {name: _STATES[name] for name in ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")}, "connection state"
)

EXTENSIONS = (
    Extension(
        "conntrack",
        _build,
        (
            Option("ctstate", _READ_STATES, invertible=True),
            Option("ctproto", protocol, invertible=True),
            *(Option(option, host_mask, invertible=True) for option, _field in _ADDRESSES),
            Option("ctstatus", bit_list({"NONE": 0, **_STATUSES}, "connection status"), invertible=True),
            Option("ctexpire", number_range(U32_MAX), invertible=True),
            *(Option(option, port_range, invertible=True) for option, _field in _PORTS),
            Option("ctdir", choice("ORIGINAL", "REPLY")),
        ),
    ),
    Extension("state", _build_state, (Option("state", _READ_OLD_STATES, invertible=True, mandatory=True),)),
)
