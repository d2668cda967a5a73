"""``-j CT`` and ``-j NOTRACK``: how connection tracking shall treat the packet; raw table (net/netfilter/xt_CT.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class Zone:
    """A conntrack zone. ``from_mark``: the packet's mark is the zone (``--zone mark``), and ``number`` is 0."""

    number: int
    from_mark: bool = False


@dataclass(frozen=True, slots=True)
class CtTarget(Target):
    """``-j CT``. At most one of the zones is given. Event lists are ``IPCT_*`` and ``IPEXP_*`` bits, 0 for not said."""

    notrack: bool = False
    helper: str = ""
    timeout: str = ""
    ctevents: int = 0
    expevents: int = 0
    zone: Zone | None = None
    zone_orig: Zone | None = None
    zone_reply: Zone | None = None


@dataclass(frozen=True, slots=True)
class NotrackTarget(Target):
    """``-j NOTRACK``: as ``-j CT --notrack``, which is what it is saved as by newer tools."""
