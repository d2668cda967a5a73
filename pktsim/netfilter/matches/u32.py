"""``-m u32``: four bytes anywhere in the packet, found by little programs (net/netfilter/xt_u32.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, BadValue, Context, Extension, Given, Option, leading_number
from pktsim.netfilter.ruleset import Family, Match, Rule

#: ``XT_U32_MAXSIZE``: at most as many tests, operations of a test, ranges of a test.
MAX_SIZE = 10


class U32Op(enum.StrEnum):
    """``enum xt_u32_ops``; the value is how it is written."""

    AND = "&"
    LEFT_SHIFT = "<<"
    RIGHT_SHIFT = ">>"
    AT = "@"  # move the origin there


@dataclass(frozen=True, slots=True)
class U32Test:
    """Start at ``position``, do the ``steps``; the number found must be in one of the ``ranges``."""

    position: int
    steps: tuple[tuple[U32Op, int], ...]
    ranges: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        text = f"{self.position:#x}" + "".join(f"{step.value}{number:#x}" for step, number in self.steps)
        ranges = (f"{low:#x}" if low == high else f"{low:#x}:{high:#x}" for low, high in self.ranges)
        return f"{text}={','.join(ranges)}"


@dataclass(frozen=True, slots=True)
class U32Match(Match):
    """All of ``tests`` must hold."""

    extension: ClassVar[str] = "u32"

    tests: tuple[U32Test, ...]
    inverted: bool = False

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        shifts = (
            number
            for test in self.tests
            for step, number in test.steps
            if step in (U32Op.LEFT_SHIFT, U32Op.RIGHT_SHIFT)
        )
        return "u32: a shift by more than 31 bits" if any(number > 31 for number in shifts) else ""

    def options_text(self) -> str:
        return f'{" !" if self.inverted else ""} --u32 "{"&&".join(map(str, self.tests))}"'


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, what: str) -> BadValue:
        return BadValue(f"u32: at character {self.at}: {what}")

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, token: str) -> bool:
        self.skip()
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def number(self) -> int:
        self.skip()
        found = leading_number(self.text[self.at :])
        if found is None or found[0] > U32_MAX:
            raise self.fail("not a number or out of range")
        self.at = len(self.text) - len(found[1])
        return found[0]


def _test(scanner: _Scanner) -> U32Test:
    position = scanner.number()
    steps: list[tuple[U32Op, int]] = []
    while not scanner.take("="):
        op = next((one for one in U32Op if scanner.take(one.value)), None)
        if op is None:
            raise scanner.fail("operator expected")
        steps.append((op, scanner.number()))
    ranges: list[tuple[int, int]] = []
    while True:
        low = scanner.number()
        ranges.append((low, scanner.number() if scanner.take(":") else low))
        if not scanner.take(","):
            break
    if len(steps) >= MAX_SIZE or len(ranges) > MAX_SIZE:
        raise scanner.fail("too many operators or ranges")
    return U32Test(position, tuple(steps), tuple(ranges))


def _read(text: str, _context: Context) -> tuple[U32Test, ...]:
    scanner = _Scanner(text)
    tests = [_test(scanner)]
    while scanner.take("&&"):
        tests.append(_test(scanner))
    scanner.skip()
    if scanner.at < len(text):
        raise scanner.fail('"," or "&&" expected')
    if len(tests) > MAX_SIZE:
        raise scanner.fail('too many "&&"s')
    return tuple(tests)


def _build(given: Given) -> U32Match:
    return U32Match(given.get("u32"), "u32" in given.inverted)


EXTENSIONS = (Extension("u32", _build, (Option("u32", _read, invertible=True, mandatory=True),)),)
