"""nft's words: text to tokens, the longest match first, as its scanner does (src/scanner.l of nftables 1.0.6)."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NoReturn

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature


class Kind(enum.Enum):
    WORD = "word"
    QUOTED = "quoted"
    NUMBER = "number"
    TIME = "time"
    IP4 = "ip4"
    IP6 = "ip6"
    MAC = "mac"
    OPERATOR = "operator"
    NEWLINE = "newline"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    line: int
    column: int


_LITERALS: Final = frozenset({Kind.WORD, Kind.QUOTED, Kind.NUMBER, Kind.TIME, Kind.IP4, Kind.IP6, Kind.MAC})
_PATTERNS: Final = (
    (Kind.QUOTED, re.compile(r'"[^"\n]*"')),
    (Kind.MAC, re.compile(r"(?:[0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")),
    (Kind.IP6, re.compile(r"[0-9a-fA-F:]*:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F]{0,4}:[0-9a-fA-F:]*")),
    (Kind.IP4, re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")),
    (Kind.TIME, re.compile(r"(?=[0-9])(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m(?!s))?(?:[0-9]+s)?(?:[0-9]+ms)?")),
    (Kind.NUMBER, re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")),
    (Kind.WORD, re.compile(r"[a-zA-Z_.][a-zA-Z0-9/\-_.]*\*?")),
    (Kind.OPERATOR, re.compile(r"==|!=|<=|>=|<<|>>|[{}()\[\],;:.=<>!&|^+*/@$-]")),
)
_SPACE = re.compile(r"(?:[ \t\r]|\\\n|#[^\n]*)+")


def _fits(kind: Kind, text: str) -> bool:
    if kind is Kind.IP6:
        try:
            IPv6Address(text)
        except (AddressValueError, ValueError):
            return False
    return bool(text) and not (kind is Kind.WORD and text == ".")


def tokenize(text: str, file: str | None = None) -> list[Token]:
    """All words of a script.

    Raises:
        RulesetSyntaxError: A character that begins none.
    """
    tokens: list[Token] = []
    at, line, start = 0, 1, 0
    while at < len(text):
        space = _SPACE.match(text, at)
        if space is not None:
            line += space.group().count("\n")
            if "\n" in space.group():
                start = at + space.group().rindex("\n") + 1
            at = space.end()
            continue
        if text[at] == "\n":
            tokens.append(Token(Kind.NEWLINE, "\n", line, at - start + 1))
            at += 1
            line, start = line + 1, at
            continue
        best, kind = "", Kind.END
        for candidate, pattern in _PATTERNS:
            found = pattern.match(text, at)
            if found is not None and len(found.group()) > len(best) and _fits(candidate, found.group()):
                best, kind = found.group(), candidate
        if not best:
            raise RulesetSyntaxError(
                f"unexpected character {text[at]!r}", token=text[at], file=file, line=line, column=at - start + 1
            )
        if kind is Kind.QUOTED:
            tokens.append(Token(kind, best[1:-1], line, at - start + 1))
        else:
            tokens.append(Token(kind, best, line, at - start + 1))
        at += len(best)
    tokens.append(Token(Kind.END, "", line, at - start + 1))
    return tokens


class TokenStream:
    """Tokens one after the other; ``$NAME`` is replaced where it is read.

    Args:
        tokens: Of a script.
        file: For messages.
    """

    def __init__(self, tokens: Sequence[Token], file: str | None = None) -> None:
        self._tokens = list(tokens)
        self._at = 0
        self.file = file
        self.variables: dict[str, list[Token]] = {}

    def mark(self) -> int:
        """Where the next token is, to come back to."""
        return self._at

    def reset(self, mark: int) -> None:
        """Go on from a mark."""
        self._at = mark

    @property
    def token(self) -> Token:
        """The next token."""
        found = self._tokens[self._at]
        if found.kind is Kind.OPERATOR and found.text == "$":
            name = self._tokens[self._at + 1]
            value = self.variables.get(name.text)
            if value is None:
                raise self.error(f"there is no variable ${name.text}", name, mend="define it before")
            self._tokens[self._at : self._at + 2] = [Token(one.kind, one.text, name.line, name.column) for one in value]
            return self.token
        return found

    def ahead(self, count: int = 1) -> Token:
        """A token behind the next one."""
        return self._tokens[min(self._at + count, len(self._tokens) - 1)]

    def next(self) -> Token:
        """Take the next token."""
        found = self.token
        if found.kind is not Kind.END:
            self._at += 1
        return found

    def is_(self, *texts: str) -> bool:
        """Whether the next token is one of these words or operators (not quoted)."""
        found = self.token
        return found.text in texts and found.kind not in (Kind.QUOTED, Kind.END)

    def take(self, *texts: str) -> str:
        """Take the next token if it is one of these; else the empty string."""
        if self.is_(*texts):
            return self.next().text
        return ""

    def need(self, *texts: str) -> str:
        """Take the next token, which must be one of these."""
        if not self.is_(*texts):
            raise self.unexpected(" or ".join(texts))
        return self.next().text

    def word(self, what: str = "a name") -> str:
        """Take a word, a number or a quoted string."""
        found = self.token
        if found.kind not in _LITERALS:
            raise self.unexpected(what)
        return self.next().text

    def number(self, what: str = "a number") -> int:
        """Take a number."""
        if self.token.kind is not Kind.NUMBER:
            raise self.unexpected(what)
        text = self.next().text
        return int(text, 16 if text[:2].lower() == "0x" else 10)

    def skip_newlines(self) -> None:
        """Line ends mean nothing within braces of a set."""
        while self.token.kind is Kind.NEWLINE:
            self._at += 1

    def skip_separators(self) -> None:
        """Line ends and semicolons."""
        while self.token.kind is Kind.NEWLINE or self.is_(";"):
            self._at += 1

    @property
    def ended(self) -> bool:
        """Whether a command or statement ends here."""
        return self.token.kind in (Kind.NEWLINE, Kind.END) or self.is_(";", "}")

    def end_statement(self) -> None:
        """A line end or a semicolon, or the brace that closes the block."""
        if not self.ended:
            raise self.unexpected("the end of the line")
        self.skip_separators() if not self.is_("}") else None

    # ----------------------------------------------------------------------------------------------------------- errors

    def error(self, what: str, token: Token | None = None, *, mend: str = "") -> RulesetSyntaxError:
        at = token or self.token
        return RulesetSyntaxError(what, token=at.text, mend=mend, file=self.file, line=at.line, column=at.column)

    def unexpected(self, wanted: str) -> RulesetSyntaxError:
        found = self.token
        shown = {Kind.END: "the end", Kind.NEWLINE: "the end of the line"}.get(found.kind, repr(found.text))
        return self.error(f"{shown} where {wanted} is wanted")

    def refuse(self, feature: str, token: Token | None = None) -> UnsupportedFeature:
        at = token or self.token
        return UnsupportedFeature(feature, file=self.file, line=at.line, column=at.column)

    def place(self, error: RulesetSyntaxError, token: Token) -> NoReturn:
        """Say where a value was wrong."""
        raise RulesetSyntaxError(
            error.what, token=error.token, mend=error.mend, file=self.file, line=token.line, column=token.column
        ) from None
