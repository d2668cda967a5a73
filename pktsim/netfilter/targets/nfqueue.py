"""``-j NFQUEUE``: let a program decide (net/netfilter/xt_NFQUEUE.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U16_MAX, BadValue, Context, Extension, Given, Option, number, to_number
from pktsim.netfilter.ruleset import Family, Rule, Target


@dataclass(frozen=True, slots=True)
class NfqueueTarget(Target):
    """Queues ``first`` to ``last``, both included. With ``bypass`` the packet passes if nobody listens."""

    extension: ClassVar[str] = "NFQUEUE"

    first: int = 0
    last: int = 0
    bypass: bool = False
    cpu_fanout: bool = False

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        return "NFQUEUE: more queues than there are" if self.last - self.first == U16_MAX else ""

    def options_text(self) -> str:
        if self.first == self.last:
            text = f" --queue-num {self.first}"
        else:
            text = f" --queue-balance {self.first}:{self.last}"
        if self.bypass:
            text += " --queue-bypass"
        return f"{text} --queue-cpu-fanout" if self.cpu_fanout else text


def _read_balance(text: str, _context: Context) -> tuple[int, int]:
    first, _, last = text.partition(":")
    low, high = to_number(first or "0", 0, U16_MAX), to_number(last or str(U16_MAX), 0, U16_MAX)
    if ":" not in text:
        raise BadValue(f"bad range of queues {text}", "write FIRST:LAST")
    if low >= high:
        raise BadValue(f"bad range of queues {text}", "write the lower number first")
    return low, high


def _build(given: Given) -> NfqueueTarget:
    first, last = given.get("queue-balance", (given.get("queue-num", 0),) * 2)
    return NfqueueTarget(first, last, "queue-bypass" in given, "queue-cpu-fanout" in given)


EXTENSIONS = (
    Extension(
        "NFQUEUE",
        _build,
        (
            Option("queue-num", number(0, U16_MAX), excludes=("queue-balance",)),
            Option("queue-balance", _read_balance),
            Option("queue-bypass"),
            Option("queue-cpu-fanout", requires=("queue-balance",)),
        ),
    ),
)
