"""``-m comment``: says something to people and matches everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, quoted, string
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class CommentMatch(Match):
    """``--comment TEXT``, at most 255 bytes (``XT_MAX_COMMENT_LEN`` less the final NUL)."""

    extension: ClassVar[str] = "comment"

    text: str

    def options_text(self) -> str:
        return f" --comment {quoted(self.text)}"


def _build(given: Given) -> CommentMatch:
    return CommentMatch(given.get("comment"))


EXTENSIONS = (Extension("comment", _build, (Option("comment", string(255), mandatory=True),)),)
