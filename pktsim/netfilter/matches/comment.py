"""``-m comment``: says something to people and matches everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Context, Extension, Given, Option, quoted
from pktsim.netfilter.ruleset import Match

#: ``XT_MAX_COMMENT_LEN`` less the final NUL.
LONGEST_COMMENT = 255


@dataclass(frozen=True, slots=True)
class CommentMatch(Match):
    """``--comment TEXT``, at most 255 bytes."""

    extension: ClassVar[str] = "comment"

    text: str

    def options_text(self) -> str:
        return f" --comment {quoted(self.text)}"


def _read(text: str, _context: Context) -> str:
    """A longer one is cut without a word."""
    return text.encode("utf-8", "surrogateescape")[:LONGEST_COMMENT].decode("utf-8", "surrogateescape")


def _build(given: Given) -> CommentMatch:
    return CommentMatch(given.get("comment"))


EXTENSIONS = (Extension("comment", _build, (Option("comment", _read, mandatory=True),)),)
