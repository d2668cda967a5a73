"""``-m string``: a pattern somewhere in the packet (net/netfilter/xt_string.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U16_MAX, BadValue, Context, Extension, Given, Option, number, string
from pktsim.netfilter.ruleset import Family, Match, Rule

#: ``XT_STRING_MAX_PATTERN_SIZE``.
LONGEST_PATTERN = 128


@dataclass(frozen=True, slots=True)
class StringMatch(Match):
    """``pattern`` is looked for from byte ``first`` to ``last`` of the packet by ``algorithm`` (``bm``, ``kmp``)."""

    extension: ClassVar[str] = "string"

    pattern: bytes
    algorithm: str
    inverted: bool = False
    first: int = 0
    last: int = U16_MAX
    ignore_case: bool = False

    def options_text(self) -> str:
        pattern = self.pattern
        printable = all(0x20 <= byte < 0x7F for byte in pattern) and not pattern.endswith(b"\\")
        if printable:
            escaped = pattern.decode("ascii").replace("\\", "\\\\").replace('"', '\\"')
            text = f' --string "{escaped}"'
        else:
            text = f' --hex-string "|{pattern.hex()}|"'
        text = f"{' !' if self.inverted else ''}{text} --algo {self.algorithm}"
        if self.first:
            text += f" --from {self.first}"
        if self.last != U16_MAX:
            text += f" --to {self.last}"
        return f"{text} --icase" if self.ignore_case else text

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if not self.pattern:
            return "string: an empty pattern"
        if self.first > self.last:
            return "string: --from is beyond --to"
        if self.algorithm not in ("bm", "kmp", "fsm"):
            return f"string: there is no algorithm {self.algorithm}"
        return ""


def _checked(pattern: bytes) -> bytes:
    if len(pattern) > LONGEST_PATTERN:
        raise BadValue("string: pattern is too long", f"use at most {LONGEST_PATTERN} bytes")
    return pattern


def _read_string(text: str, _context: Context) -> bytes:
    return _checked(text.encode("utf-8", "surrogateescape"))


def _read_hex_string(text: str, _context: Context) -> bytes:
    """Text with hex between bars, ``GET |0d 0a|``; a backslash outside of them takes the next character as it is."""
    data = text.encode("utf-8", "surrogateescape")
    pattern = bytearray()
    at, in_hex = 0, False
    while at < len(data):
        byte = data[at]
        if byte == ord("|"):
            in_hex = not in_hex
            at += 1
            while in_hex and data[at : at + 1] == b" ":
                at += 1
        elif in_hex:
            try:
                pattern.append(int(data[at : at + 2].decode("ascii"), 16))
            except ValueError:
                raise BadValue(f"bad hex in {text!r}", "write pairs of hex digits between bars") from None
            at += 2
            if data[at : at + 1] == b" ":
                at += 1
            elif at >= len(data):
                raise BadValue(f"unfinished hex block in {text!r}", "end it with a bar")
        else:
            if byte == ord("\\"):
                at += 1
                if at >= len(data):
                    raise BadValue(f"nothing follows the backslash in {text!r}")
            pattern.append(data[at])
            at += 1
    if not text:
        raise BadValue("empty pattern", "write at least one byte")
    return _checked(bytes(pattern))


def _build(given: Given) -> StringMatch:
    option = "string" if "string" in given else "hex-string"
    if option not in given:
        raise BadValue("string: --string or --hex-string must be specified")
    return StringMatch(
        given.get(option),
        given.get("algo"),
        option in given.inverted,
        given.get("from", 0),
        given.get("to", U16_MAX),
        "icase" in given,
    )


EXTENSIONS = (
    Extension(
        "string",
        _build,
        (
            Option("from", number(0, U16_MAX)),
            Option("to", number(0, U16_MAX)),
            Option("algo", string(15), mandatory=True),
            Option("string", _read_string, invertible=True, excludes=("hex-string",)),
            Option("hex-string", _read_hex_string, invertible=True),
            Option("icase"),
        ),
    ),
)
