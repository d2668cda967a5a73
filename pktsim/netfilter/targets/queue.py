"""``-j QUEUE``: the verdict that hands a packet to queue 0, as NFQUEUE does (net/netfilter/nf_queue.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class QueueTarget(Target):
    """It has no options."""

    extension: ClassVar[str] = "QUEUE"


def _build(_given: Given) -> QueueTarget:
    return QueueTarget()


EXTENSIONS = (Extension("QUEUE", _build),)
