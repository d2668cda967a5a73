"""Equal tables share one program, whether they were lowered whole or came of equal steps; old programs are let go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.netfilter import programs
from pktsim.netfilter.lower import compile_table
from pktsim.netfilter.programs import lower_table
from pktsim.netfilter.relower import step_between
from pktsim.netfilter.ruleset import Chain, Counters, Family, Rule, Table, Verdict, VerdictTarget

NAMES = "ABCDEFGH"
RULES = (Rule(), Rule(target=VerdictTarget(Verdict.DROP)))


def table(*chains: Chain) -> Table:
    return Table("raw", Family.IPV4, (Chain("PREROUTING", (), Verdict.ACCEPT), *chains))


def many(first: tuple[Rule, ...] = ()) -> Table:
    """A table of so many chains that it is not compared with others as a whole."""
    rest = (Chain(f"C{number:04}", RULES) for number in range(programs._FEW_CHAINS))
    return table(Chain("A", first), *rest)


def test_equal_tables_share_a_program_and_keep_their_own_counters() -> None:
    one = lower_table(table(Chain("A", RULES)))
    counted = Rule(target=RULES[1].target, counters=Counters(5, 500))
    other = lower_table(table(Chain("A", (RULES[0], counted))))
    assert other.program is one.program
    assert other.table.chains[1].rules[1].counters == Counters(5, 500)


def test_the_same_table_again_costs_nothing() -> None:
    first = lower_table(many())
    assert lower_table(first.table, first) is first
    again = lower_table(many(), first)
    assert again.program is first.program
    assert again.table is not first.table


def test_tables_with_other_chains_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up among many programs costs one comparison at most, not one for each of them."""
    for number in range(programs._SHARED_MAX):
        lower_table(table(Chain(f"KUBE-SEP-{number}", RULES)))
    compared = 0
    equal = Table.__eq__

    def counting(one: Table, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(one, other)

    monkeypatch.setattr(Table, "__eq__", counting)
    for number in range(programs._SHARED_MAX):
        lower_table(table(Chain(f"KUBE-SEP-{number}", RULES)))
    assert compared <= programs._SHARED_MAX


def test_equal_steps_of_large_tables_lead_to_one_program() -> None:
    first = lower_table(many())
    one, other = lower_table(many(RULES), first), lower_table(many(RULES), first)
    assert one.program is other.program is not first.program
    back, there = lower_table(many(), one), lower_table(many(RULES[:1]), one)
    assert len({id(found.program) for found in (first, one, back, there)}) == 4


def test_programs_that_nobody_asked_for_lately_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_SHARED_BYTES", 2 * len(compile_table(many()).image.rows))  # type: ignore[union-attr]
    lowered = lower_table(many())
    for number in range(10):
        lowered = lower_table(many(RULES[: number % 2 + 1]), lowered)
    assert sum(programs._size(one) for one in programs._SHARED.values()) <= programs._SHARED_BYTES


@given(
    st.lists(st.sampled_from(NAMES), unique=True),
    st.lists(st.sampled_from(NAMES), unique=True),
    st.sets(st.sampled_from(NAMES)),
    st.booleans(),
)
def test_what_differs_is_found(before: list[str], after: list[str], other: set[str], in_order: bool) -> None:
    """Chains that are new, gone or other than before, in whatever order they come; equal ones need not be the same."""
    if in_order:
        before, after = sorted(before), sorted(after)
    known = {name: Chain(name, RULES) for name in before}
    chains = [
        Chain(name, RULES[:1])
        if name in other
        else known[name]
        if name in "ABCD" and name in known
        else Chain(name, RULES)
        for name in after
    ]
    step = step_between(compile_table(table(*known.values())), table(*chains))
    assert step is not None
    assert {chain.name for chain in step.changed} == {name for name in after if name in other or name not in known}
    assert set(step.gone) == set(before) - set(after)
    assert all(chain in chains for chain in step.changed)
