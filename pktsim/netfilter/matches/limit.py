"""``-m limit``: a token bucket per rule (net/netfilter/xt_limit.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match

#: ``XT_LIMIT_SCALE``: ``LimitMatch.average`` counts in 1/10,000 seconds.
LIMIT_SCALE = 10_000


@dataclass(frozen=True, slots=True)
class LimitMatch(Match):
    """``average`` is the time between two packets in 1/10,000 s, as in the kernel: ``--limit 3/hour`` is 12,000,000."""

    average: int = 3600 * LIMIT_SCALE // 3
    burst: int = 5
