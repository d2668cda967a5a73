"""``-m bpf``: a classic BPF program looks at the packet (net/netfilter/xt_bpf.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from pktsim.errors import UnsupportedFeature
from pktsim.netfilter.option import (
    U8_MAX,
    U16_MAX,
    U32_MAX,
    BadValue,
    Context,
    Extension,
    Given,
    Option,
    to_number,
)
from pktsim.netfilter.ruleset import Family, Match, Rule

#: ``XT_BPF_MAX_NUM_INSTR``.
LONGEST_PROGRAM = 64


class BpfInstruction(NamedTuple):
    """``struct sock_filter``."""

    code: int
    jump_true: int
    jump_false: int
    k: int


@dataclass(frozen=True, slots=True)
class BpfMatch(Match):
    """The packet matches if the program returns anything but 0."""

    extension: ClassVar[str] = "bpf"

    program: tuple[BpfInstruction, ...]

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        return f"bpf: {wrong}" if (wrong := _check(self.program)) else ""

    def options_text(self) -> str:
        lines = (" ".join(map(str, instruction)) for instruction in self.program)
        return f' --bytecode "{len(self.program)},{",".join(lines)}"'


_CELLS = 16
#: Classes of instructions, and some of their codes (include/uapi/linux/bpf_common.h).
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET = range(7)
_MEM, _DIV, _MOD, _BY_REGISTER = 0x60, 0x30, 0x90, 0x08


def _check(program: Sequence[BpfInstruction]) -> str:
    """What the kernel has against a program (``bpf_check_classic``); nothing if it takes it."""
    for at, (code, jump_true, jump_false, k) in enumerate(program):
        kind = code & 7
        if kind == _JMP:
            longest = k if code & 0xF0 == 0 else max(jump_true, jump_false)
            if at + 1 + longest >= len(program):
                return f"instruction {at} jumps out of the program"
        elif (kind in (_LD, _LDX) and code & 0xE0 == _MEM) or kind in (_ST, _STX):
            if k >= _CELLS:
                return f"instruction {at} uses memory cell {k}"
        elif kind == _ALU and not code & _BY_REGISTER and code & 0xF0 in (_DIV, _MOD) and k == 0:
            return f"instruction {at} divides by 0"
    return "" if program and program[-1].code & 7 == _RET else "the last instruction does not return"


def _instruction(text: str) -> BpfInstruction:
    words = text.split()
    if len(words) != 4:
        raise BadValue(f"bad BPF instruction {text!r}", "write CODE JT JF K")
    limits = (U16_MAX, U8_MAX, U8_MAX, U32_MAX)
    return BpfInstruction(*(to_number(word, 0, limit) for word, limit in zip(words, limits, strict=True)))


def _read_bytecode(text: str, _context: Context) -> tuple[BpfInstruction, ...]:
    length, comma, rest = text.partition(",")
    count = to_number(length.strip(), 1, LONGEST_PROGRAM, "length of a BPF program")
    program = tuple(_instruction(part) for part in rest.strip().rstrip(",").split(",")) if comma else ()
    if len(program) != count:
        raise BadValue(f"a BPF program of {len(program)} instructions, not {count}", "begin with their number")
    return program


def _read_object(text: str, _context: Context) -> str:
    raise UnsupportedFeature("match bpf --object-pinned", mend="only --bytecode is known: eBPF objects are not run")


def _build(given: Given) -> BpfMatch:
    if "bytecode" not in given:
        raise BadValue("bpf: --bytecode or --object-pinned must be specified")
    return BpfMatch(given.get("bytecode"))


EXTENSIONS = (
    Extension(
        "bpf",
        _build,
        (Option("bytecode", _read_bytecode, excludes=("object-pinned",)), Option("object-pinned", _read_object)),
    ),
)
