"""``-j LOG`` (net/netfilter/xt_LOG.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target


class LogFlag(enum.IntFlag):
    """``XT_LOG_*`` (include/uapi/linux/netfilter/xt_LOG.h)."""

    TCPSEQ = 0x01
    TCPOPT = 0x02
    IPOPT = 0x04
    UID = 0x08
    MACDECODE = 0x20


@dataclass(frozen=True, slots=True)
class LogTarget(Target):
    """``level`` is syslog's: 4 is warning, the default. ``flags`` are ``LogFlag``s."""

    prefix: str = ""
    level: int = 4
    flags: int = 0
