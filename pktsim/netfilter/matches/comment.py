"""``-m comment``: says something to people and matches everything."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class CommentMatch(Match):
    """``--comment TEXT``, at most 255 bytes (``XT_MAX_COMMENT_LEN`` less the final NUL)."""

    text: str
